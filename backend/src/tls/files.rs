//! The files of a directory of credentials.
//!
//! Knows their names and that they are PEM; does not know whether what they say is true.

use super::TlsError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file of credentials is read up to here: a directory that is not one of credentials costs no memory.
const BYTES_MAX: u64 = 16 << 20;

/// Whose certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CertificateKind {
    Server,
    Client,
}

impl CertificateKind {
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Server => "server certificate",
            Self::Client => "client certificate",
        }
    }

    fn names(self) -> [&'static str; 2] {
        match self {
            Self::Server => ["server-cert.pem", "server-key.pem"],
            Self::Client => ["client-cert.pem", "client-key.pem"],
        }
    }
}

/// A directory of credentials.
pub(super) struct Files<'a> {
    dir: &'a Path,
}

impl<'a> Files<'a> {
    pub(super) fn new(dir: &'a Path) -> Self {
        Self { dir }
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.dir.join("ca-cert.pem")
    }

    pub(super) fn revocations(&self) -> PathBuf {
        self.dir.join("ca-crl.pem")
    }

    pub(super) fn certificate(&self, kind: CertificateKind) -> PathBuf {
        self.dir.join(kind.names()[0])
    }

    fn key(&self, kind: CertificateKind) -> PathBuf {
        self.dir.join(kind.names()[1])
    }

    /// Whether a certificate or a key is there: half an identity is an error, none is not.
    pub(super) fn has_identity(&self, kind: CertificateKind) -> bool {
        self.certificate(kind).exists() || self.key(kind).exists()
    }

    /// A certificate with those between it and the authority, and its private key.
    pub(super) fn identity(
        &self,
        kind: CertificateKind,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let certificates = certificates(self.certificate(kind), kind.what())?;
        Ok((certificates, private_key(self.key(kind))?))
    }

    pub(super) fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(self.authority(), "CA certificate list")
    }

    /// The lists of revoked certificates; none if there is no such file.
    pub(super) fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        let path = self.revocations();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = read(&path)?;
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
        lists.map_err(|error| import("CRL", path, error))
    }

    pub(super) fn unpaired(&self, kind: CertificateKind, error: &rustls::Error) -> TlsError {
        TlsError::Pair { certificate: self.certificate(kind), key: self.key(kind), reason: error.to_string() }
    }
}

fn certificates(path: PathBuf, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(&path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(import(what, path, "there is no certificate in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(import(what, path, error)),
    }
}

fn private_key(path: PathBuf) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(&path)?;
    if String::from_utf8_lossy(&text).contains("ENCRYPTED") {
        return Err(TlsError::Encrypted(path));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| import("private key", path, error))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let access = |source| TlsError::Access { path: path.to_owned(), source };
    let mut text = Vec::new();
    std::fs::File::open(path).map_err(access)?.take(BYTES_MAX).read_to_end(&mut text).map_err(access)?;
    Ok(text)
}

pub(super) fn import(what: &'static str, path: PathBuf, reason: impl ToString) -> TlsError {
    TlsError::Import { what, path, reason: reason.to_string() }
}
