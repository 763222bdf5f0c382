//! Why credentials cannot be used; the texts are QEMU's where it has one.

use crate::error::errno_text;
use std::path::PathBuf;

/// Errors of credentials.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that has to be there cannot be read.
    #[error("Unable to access credentials {}: {}", path.display(), errno_text(source))]
    Access {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file does not hold what its name says.
    #[error("Unable to import {what} {}: {reason}", path.display())]
    Import {
        /// What it should hold ("server certificate").
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A private key that needs a password.
    #[error("Private key {} is encrypted, which is not supported: decrypt it with 'openssl pkey'", .0.display())]
    Encrypted(PathBuf),
    /// A certificate and a key that do not belong together, or cannot be used.
    #[error("Cannot load certificate '{}' & key '{}': {reason}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One's own certificate is too old or too new.
    #[error("The {what} {} {state}", path.display())]
    Time {
        /// Whose ("server certificate").
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// "has expired" or "is not yet active".
        state: &'static str,
    },
    /// One's own certificate would be refused by peers that believe the same authority.
    #[error("Our own certificate {} failed validation against {}: {reason}", certificate.display(), authority.display())]
    Own {
        /// The certificate's file.
        certificate: PathBuf,
        /// The authority's file.
        authority: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A list of who is let in, for credentials that let everybody in.
    #[error("tls-authz needs credentials with verify-peer=on")]
    Anonymous,
    /// A name that certificates cannot be for.
    #[error("'{0}' is not the name or the address of a host; set tls-hostname to the name in the server's certificate")]
    Hostname(String),
    /// The library refuses what it was given.
    #[error("Cannot start TLS: {0}")]
    Session(rustls::Error),
}
