//! TLS for both ends of a connection: X.509 credentials from a directory, as QEMU's `tls-creds-x509` objects name them.
//!
//! Knows certificates and who is believed; knows no socket and no protocol above. Invariant: a session comes from
//! credentials that were whole when they were opened; files that change afterwards change nothing.

mod error;
mod files;
mod name;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

pub use error::TlsError;

use files::{CertificateKind, Files};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::path::Path;
use std::sync::Arc;
use verify::{Authorities, Authorized};

/// How credentials are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X509 {
    /// Whether the peer has to show a certificate of the authority (`verify-peer`). Without it a client believes every
    /// server and a server lets everybody in.
    pub verify_peer: bool,
    /// Whether one's own certificate is checked when the credentials are opened (`sanity-check`).
    pub sanity_check: bool,
}

impl Default for X509 {
    fn default() -> Self {
        Self { verify_peer: true, sanity_check: true }
    }
}

/// Whether somebody with this distinguished name is let in.
pub type Allows = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The credentials of a server.
#[derive(Clone, Debug)]
pub struct Server {
    identity: Arc<Identity>,
    config: Arc<ServerConfig>,
}

/// What a server's configuration is made of.
#[derive(Debug)]
struct Identity {
    provider: Arc<CryptoProvider>,
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Who is let in; everybody if `None`.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Server {
    /// Reads `ca-cert.pem`, `server-cert.pem`, `server-key.pem` and, if it is there, `ca-crl.pem` of a directory.
    ///
    /// # Errors
    /// [`TlsError`] with the file's name.
    pub fn open(dir: &Path, x509: X509) -> Result<Self, TlsError> {
        let files = Files::new(dir);
        let authorities = Authorities::read(&files)?;
        let (certificates, key) = files.identity(CertificateKind::Server)?;
        if x509.sanity_check {
            authorities.check_own(&files, CertificateKind::Server, &certificates)?;
        }
        let clients = x509.verify_peer.then(|| authorities.of_clients(&files)).transpose()?;
        let identity = Identity { provider: authorities.provider(), certificates, key, clients };
        let config = identity.config(identity.clients.clone());
        let config = config.map_err(|error| files.unpaired(CertificateKind::Server, &error))?;
        Ok(Self { identity: Arc::new(identity), config })
    }

    /// The same, for those clients alone that `allows` lets in by the name in their certificates.
    ///
    /// # Errors
    /// [`TlsError::Anonymous`] if clients need none.
    pub fn authorized(&self, allows: Allows) -> Result<Self, TlsError> {
        let clients = self.identity.clients.clone().ok_or(TlsError::Anonymous)?;
        let config = self.identity.config(Some(Arc::new(Authorized { clients, allows })));
        Ok(Self { identity: self.identity.clone(), config: config.map_err(TlsError::Session)? })
    }

    /// The server's end of one connection, before the first byte of its handshake.
    ///
    /// # Errors
    /// [`TlsError::Session`] if the library refuses its configuration.
    pub fn session(&self) -> Result<ServerConnection, TlsError> {
        ServerConnection::new(self.config.clone()).map_err(TlsError::Session)
    }
}

impl Identity {
    fn config(&self, clients: Option<Arc<dyn ClientCertVerifier>>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder =
            ServerConfig::builder_with_provider(self.provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(clients),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(self.certificates.clone(), self.key.clone_key())?;
        // Nobody resumes a session: a client that comes back is looked at again.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

/// The credentials of a client.
#[derive(Clone, Debug)]
pub struct Client {
    named: Arc<ClientConfig>,
    unnamed: Arc<ClientConfig>,
}

impl Client {
    /// Reads `ca-cert.pem` of a directory and, if they are there, `client-cert.pem` with `client-key.pem`, and
    /// `ca-crl.pem`.
    ///
    /// # Errors
    /// [`TlsError`] with the file's name.
    pub fn open(dir: &Path, x509: X509) -> Result<Self, TlsError> {
        let files = Files::new(dir);
        let authorities = Authorities::read(&files)?;
        let identity = match files.has_identity(CertificateKind::Client) {
            true => Some(files.identity(CertificateKind::Client)?),
            false => None,
        };
        if let Some((certificates, _)) = identity.as_ref().filter(|_| x509.sanity_check) {
            authorities.check_own(&files, CertificateKind::Client, certificates)?;
        }
        let config = |believes: verify::Believes| {
            let builder = ClientConfig::builder_with_provider(authorities.provider())
                .with_safe_default_protocol_versions()
                .map_err(TlsError::Session)?;
            let verifier = authorities.of_servers(&files, believes)?;
            let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
            let mut config = match &identity {
                Some((certificates, key)) => builder
                    .with_client_auth_cert(certificates.clone(), key.clone_key())
                    .map_err(|error| files.unpaired(CertificateKind::Client, &error))?,
                None => builder.with_no_client_auth(),
            };
            config.resumption = rustls::client::Resumption::disabled();
            Ok::<_, TlsError>(Arc::new(config))
        };
        if !x509.verify_peer {
            let anybody = config(verify::Believes::Anybody)?;
            return Ok(Self { named: anybody.clone(), unnamed: anybody });
        }
        Ok(Self { named: config(verify::Believes::Named)?, unnamed: config(verify::Believes::Unnamed)? })
    }

    /// The client's end of one connection. `hostname` is the name that the server's certificate has to be for
    /// (`tls-hostname`, or the host of a TCP address); without one (UNIX sockets) any certificate of the authority will do.
    ///
    /// # Errors
    /// [`TlsError::Hostname`] for what cannot be the name of a host.
    pub fn session(&self, hostname: Option<&str>) -> Result<ClientConnection, TlsError> {
        let (config, name) = match hostname {
            Some(name) => (&self.named, name),
            // Has to be said, is sent to nobody who would look at it, and is not compared.
            None => (&self.unnamed, "localhost"),
        };
        let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Hostname(name.to_owned()))?;
        ClientConnection::new(config.clone(), name).map_err(TlsError::Session)
    }
}
