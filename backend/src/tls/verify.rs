//! Who is believed: certificates of the authorities of a directory that are not on its lists of revoked ones.
//!
//! Does not know what a peer may do; knows only who it is. Invariant: signatures of the handshake are always checked,
//! also of a peer whose certificate may be anybody's.

use super::files::{CertificateKind, Files, import};
use super::{Allows, TlsError, name};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// What a client asks of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Believes {
    /// It is from the authority and for the name that was asked for.
    Named,
    /// It is from the authority.
    Unnamed,
    /// Nothing.
    Anybody,
}

/// The authorities of a directory.
pub(super) struct Authorities {
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Authorities {
    pub(super) fn read(files: &Files<'_>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in files.authorities()? {
            roots.add(certificate).map_err(|error| import("CA certificate list", files.authority(), error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self { roots: Arc::new(roots), revoked: files.revoked()?, provider })
    }

    /// The implementation of the ciphers: named, because a process has no default one unless somebody sets it.
    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        self.provider.clone()
    }

    /// Lets clients in that show a certificate of the authorities.
    pub(super) fn of_clients(&self, files: &Files<'_>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let builder = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider());
        // An authority without a list has revoked nothing.
        let builder = builder.with_crls(self.revoked.clone()).allow_unknown_revocation_status();
        builder.build().map_err(|error| import("CRL", files.revocations(), error))
    }

    pub(super) fn of_servers(
        &self,
        files: &Files<'_>,
        believes: Believes,
    ) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
        let builder = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), self.provider());
        let builder = builder.with_crls(self.revoked.clone()).allow_unknown_revocation_status();
        let chain = builder.build().map_err(|error| import("CRL", files.revocations(), error))?;
        Ok(Arc::new(Servers { chain, believes }))
    }

    /// Checks what a peer would check of one's own certificate.
    pub(super) fn check_own(
        &self,
        files: &Files<'_>,
        kind: CertificateKind,
        certificates: &[CertificateDer<'_>],
    ) -> Result<(), TlsError> {
        let Some((own, between)) = certificates.split_first() else { return Ok(()) };
        let (now, name) =
            (UnixTime::now(), ServerName::try_from("localhost").map_err(|_| TlsError::Hostname(String::new())));
        let checked = match kind {
            CertificateKind::Server => {
                let servers = self.of_servers(files, Believes::Unnamed)?;
                servers.verify_server_cert(own, between, &name?, &[], now).map(|_| ())
            }
            CertificateKind::Client => self.of_clients(files)?.verify_client_cert(own, between, now).map(|_| ()),
        };
        checked.map_err(|error| refused(files, kind, &error))
    }
}

fn refused(files: &Files<'_>, kind: CertificateKind, error: &Error) -> TlsError {
    let time = |state| TlsError::Time { what: kind.what(), path: files.certificate(kind), state };
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            time("has expired")
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            time("is not yet active")
        }
        error => TlsError::Own {
            certificate: files.certificate(kind),
            authority: files.authority(),
            reason: error.to_string(),
        },
    }
}

/// What a client believes of servers.
#[derive(Debug)]
struct Servers {
    chain: Arc<WebPkiServerVerifier>,
    believes: Believes,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.believes == Believes::Anybody {
            return Ok(ServerCertVerified::assertion());
        }
        // The name is looked at last: who fails for it has passed everything else.
        match self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.believes == Believes::Unnamed => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Clients of the authorities that are on a list, too.
pub(super) struct Authorized {
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    pub(super) allows: Allows,
}

impl std::fmt::Debug for Authorized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorized")
    }
}

impl ClientCertVerifier for Authorized {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.clients.verify_client_cert(end_entity, intermediates, now)?;
        match name::subject(end_entity) {
            Some(name) if (self.allows)(&name) => Ok(verified),
            name => {
                tracing::warn!("TLS x509 authz check for {} is denied", name.as_deref().unwrap_or("a nameless client"));
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}
