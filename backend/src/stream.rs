//! A connection as one stream of bytes each way, plain or by TLS, on the reactor of one thread.
//!
//! One reader takes messages from a buffer, so that one receive may bring several; what is large is received straight
//! into its own memory. Many writers queue whole messages in order, and those that are ready together are sent
//! together. Knows no protocol but TLS. Whoever ends a connection shuts its socket down: that ends both halves.

mod crypt;
mod outbox;
mod reader;
mod writer;

pub use reader::Reader;
pub use writer::Writer;

use crate::error::IoError;
use crate::io::Socket;
use crate::reactor::Handle;
use crypt::Crypt;
use outbox::Outbox;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Both directions of a connection. They may part: each knows what it needs of the other.
pub struct Stream {
    /// What comes.
    pub reader: Reader,
    /// What goes.
    pub writer: Writer,
}

/// Why a connection is not secure.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    /// The other side sent bytes that it could not know to be read under TLS: somebody may have put them there.
    #[error("Data was sent before the TLS handshake")]
    Injected,
    /// The connection ended.
    #[error(transparent)]
    Io(#[from] IoError),
    /// TLS says so.
    #[error("TLS handshake failed: {0}")]
    Tls(#[from] rustls::Error),
}

/// What both halves share.
struct Link {
    io: Handle,
    socket: Arc<Socket>,
    crypt: Option<RefCell<Crypt>>,
    outbox: RefCell<Outbox>,
}

impl Stream {
    /// A connected socket as it is.
    pub fn plain(io: &Handle, socket: Arc<Socket>) -> Self {
        Self::new(Link { io: io.clone(), socket, crypt: None, outbox: RefCell::default() })
    }

    /// The same connection under TLS from here on, after the handshake. Nothing may be on its way to be written.
    ///
    /// # Errors
    /// [`SecureError`]; the connection is of no more use.
    pub async fn secure(self, session: impl Into<rustls::Connection>) -> Result<Self, SecureError> {
        if self.reader.is_filled() {
            return Err(SecureError::Injected);
        }
        let Link { io, socket, .. } = &*self.reader.link;
        let crypt = Some(RefCell::new(Crypt::new(session.into())));
        let link = Link { io: io.clone(), socket: socket.clone(), crypt, outbox: RefCell::default() };
        let mut stream = Self::new(link);
        stream.reader.shake_hands().await?;
        Ok(stream)
    }

    /// What the other side has proved to be, the end entity's certificate first; `None` if it was not asked or the
    /// connection is plain.
    pub fn peer_certificates(&self) -> Option<Vec<rustls::pki_types::CertificateDer<'static>>> {
        let crypt = self.reader.link.crypt.as_ref()?.borrow();
        crypt.peer_certificates()
    }

    fn new(link: Link) -> Self {
        let link = Rc::new(link);
        Self { reader: Reader::new(link.clone()), writer: Writer::new(link) }
    }
}

#[cfg(test)]
mod tests;
