//! TLS of one connection: ciphertext in, plaintext out, and the other way. No I/O.

use crate::error::IoError;
use crate::io::Memory;
use rustls::Connection;
use rustls::pki_types::CertificateDer;
use std::io::{ErrorKind, Read, Write};

/// Bytes of plaintext that are sealed at once: what the sender's memory grows by.
const PIECE: usize = 64 * 1024;

/// The state of a session.
pub(super) struct Crypt(Connection);

impl Crypt {
    pub(super) fn new(mut session: Connection) -> Self {
        // A piece that is written is sealed whole; its size is the bound.
        session.set_buffer_limit(None);
        Self(session)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    pub(super) fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.0.peer_certificates().map(|chain| chain.iter().map(|one| one.clone().into_owned()).collect())
    }

    /// Whether there is something to send.
    pub(super) fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Takes some of the bytes that have come; how many.
    ///
    /// # Errors
    /// They are no TLS, or the other side is not whom we want: there is an alert to be sent.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<usize, rustls::Error> {
        let taken = self.0.read_tls(&mut bytes).map_err(|error| rustls::Error::General(error.to_string()))?;
        self.0.process_new_packets()?;
        Ok(taken)
    }

    /// Plaintext that is there; 0 if the other side has said that no more comes, `None` if more has to come first.
    ///
    /// # Errors
    /// The connection ended without that.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, IoError> {
        match self.0.reader().read(into) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(IoError::Io),
        }
    }

    /// Seals a piece of `memory` from `at` on; how much of it.
    ///
    /// # Errors
    /// The session has ended.
    pub(super) fn seal(&mut self, memory: &Memory, at: u64) -> Result<u64, IoError> {
        let left = usize::try_from(memory.len().saturating_sub(at)).unwrap_or(PIECE);
        let mut piece = vec![0; left.min(PIECE)];
        memory.copy_to(at, &mut piece);
        self.0.writer().write_all(&piece)?;
        Ok(piece.len() as u64)
    }

    /// Says that no more is sent.
    pub(super) fn close(&mut self) {
        self.0.send_close_notify();
    }

    /// What is to be sent now.
    pub(super) fn output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        // Writing to a vector does not fail.
        while self.0.wants_write() && self.0.write_tls(&mut output).is_ok_and(|written| written > 0) {}
        output
    }
}
