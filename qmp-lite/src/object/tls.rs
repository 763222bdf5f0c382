//! Objects with TLS credentials.
//!
//! Knows QEMU's members and defaults, and that credentials are read when the object is made; what is in the files is the
//! back end's to judge.

use std::path::Path;
use std::sync::Arc;

use tidemark_backend::tls::{Client, Server, TlsError, X509};

use super::{Object, Objects};
use crate::error::QmpError;
use crate::schema::{qapi_enum, qapi_struct};

qapi_struct! {
    /// X.509 certificates and keys in the files of a directory: `ca-cert.pem`, if there are revoked certificates
    /// `ca-crl.pem`, and for a server `server-cert.pem` and `server-key.pem`; a client may have `client-cert.pem` and
    /// `client-key.pem`. They are read when the object is created.
    pub struct TlsCredsX509Properties "TlsCredsX509Properties" {
        /// Whether the other end has to have a certificate of the authority; without it anybody is let in, and any server
        /// believed. On if absent.
        "verify-peer" verify_peer: Option<bool>,
        /// The directory.
        "dir" dir: Option<String>,
        /// Which end of connections they are for; client if absent.
        "endpoint" endpoint: Option<QCryptoTLSCredsEndpoint>,
        /// Whether one's own certificate is checked as the other end would check it, when the object is created. On if
        /// absent.
        "sanity-check" sanity_check: Option<bool>,
    }
}

qapi_enum! {
    /// An end of a connection.
    pub enum QCryptoTLSCredsEndpoint "QCryptoTLSCredsEndpoint" {
        /// The one that connects.
        Client = "client",
        /// The one that is connected to.
        Server = "server",
    }
}

impl From<TlsError> for QmpError {
    fn from(error: TlsError) -> Self {
        Self::generic(error.to_string())
    }
}

/// Reads the files.
pub(super) fn open(properties: &TlsCredsX509Properties) -> Result<Object, QmpError> {
    let dir = properties.dir.as_deref().ok_or_else(|| QmpError::generic("Missing 'dir' property value"))?;
    let x509 = X509 {
        verify_peer: properties.verify_peer.unwrap_or(true),
        sanity_check: properties.sanity_check.unwrap_or(true),
    };
    Ok(match properties.endpoint.unwrap_or(QCryptoTLSCredsEndpoint::Client) {
        QCryptoTLSCredsEndpoint::Server => Object::TlsServer(Arc::new(Server::open(Path::new(dir), x509)?)),
        QCryptoTLSCredsEndpoint::Client => Object::TlsClient(Arc::new(Client::open(Path::new(dir), x509)?)),
    })
}

impl Objects {
    /// The credentials of a server.
    ///
    /// # Errors
    /// There is no such object, or it is another one.
    pub fn tls_server(&self, id: &str) -> Result<Arc<Server>, QmpError> {
        match self.find(id) {
            Some(Object::TlsServer(server)) => Ok(server),
            other => Err(unsuitable(id, other.as_ref(), QCryptoTLSCredsEndpoint::Server)),
        }
    }

    /// The credentials of a server, for those clients alone whom the object `authz` lets in when they come.
    ///
    /// # Errors
    /// As [`Objects::tls_server`]; if clients need no certificate.
    pub fn tls_server_for(self: &Arc<Self>, id: &str, authz: Option<&str>) -> Result<Arc<Server>, QmpError> {
        let server = self.tls_server(id)?;
        let Some(authz) = authz.map(str::to_owned) else { return Ok(server) };
        let objects = Arc::downgrade(self);
        let allows = move |name: &str| objects.upgrade().is_some_and(|objects| objects.lets_in(&authz, name));
        Ok(Arc::new(server.authorized(Arc::new(allows))?))
    }

    /// The credentials of a client.
    ///
    /// # Errors
    /// There is no such object, or it is another one.
    pub fn tls_client(&self, id: &str) -> Result<Arc<Client>, QmpError> {
        match self.find(id) {
            Some(Object::TlsClient(client)) => Ok(client),
            other => Err(unsuitable(id, other.as_ref(), QCryptoTLSCredsEndpoint::Client)),
        }
    }
}

/// Why an object is not the credentials that are needed.
fn unsuitable(id: &str, object: Option<&Object>, wanted: QCryptoTLSCredsEndpoint) -> QmpError {
    QmpError::generic(match object {
        None => format!("No TLS credentials with id '{id}'"),
        Some(Object::Iothread(_) | Object::AuthzSimple(_) | Object::AuthzList(_) | Object::Throttle(_)) => {
            format!("Object with id '{id}' is not TLS credentials")
        }
        Some(Object::TlsServer(_) | Object::TlsClient(_)) => {
            format!("Expected TLS credentials for a {} endpoint", wanted.text())
        }
    })
}
