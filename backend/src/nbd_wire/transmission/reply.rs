//! The header of a reply, or of a chunk of one.

use super::{Cursor, Headers, WireError};

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_MAGIC: u32 = 0x6e8a_278c;

/// The header of a chunk, whose payload follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// [`super::REPLY_DONE`], or not.
    pub flags: u16,
    /// [`super::chunk_kind`].
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// The request's, in extended headers; 0 in structured ones, which have none.
    pub offset: u64,
    /// Bytes of payload; 32 bits but with extended headers.
    pub len: u64,
}

/// What a reply begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHead {
    /// The whole reply, but for the data of a read that has not failed.
    Simple {
        /// The request's.
        cookie: u64,
        /// [`super::error_number`], or 0.
        error: u32,
    },
    /// One of its chunks.
    Chunk(Chunk),
}

impl ReplyHead {
    /// Bytes of a header that begins with `magic`.
    ///
    /// # Errors
    /// [`WireError::Magic`] if no reply does, [`WireError::Form`] if only one does that was not agreed on.
    pub fn size(magic: [u8; 4], headers: Headers) -> Result<usize, WireError> {
        match (u32::from_be_bytes(magic), headers) {
            (SIMPLE_MAGIC, Headers::Simple | Headers::Structured) => Ok(16),
            (STRUCTURED_MAGIC, Headers::Structured) => Ok(20),
            (EXTENDED_MAGIC, Headers::Extended) => Ok(32),
            (SIMPLE_MAGIC | STRUCTURED_MAGIC | EXTENDED_MAGIC, _) => Err(WireError::Form),
            _ => Err(WireError::Magic),
        }
    }

    /// Reads a header of [`ReplyHead::size`] bytes.
    ///
    /// # Errors
    /// As there.
    pub fn decode(bytes: &[u8], headers: Headers) -> Result<Self, WireError> {
        let mut cursor = Cursor(bytes);
        let magic = cursor.take()?;
        Self::size(magic, headers)?;
        if u32::from_be_bytes(magic) == SIMPLE_MAGIC {
            let (error, cookie) = (cursor.u32()?, cursor.u64()?);
            return Ok(Self::Simple { cookie, error });
        }
        let (flags, kind, cookie) = (cursor.u16()?, cursor.u16()?, cursor.u64()?);
        let (offset, len) = match headers {
            Headers::Extended => (cursor.u64()?, cursor.u64()?),
            _ => (0, cursor.u32()?.into()),
        };
        Ok(Self::Chunk(Chunk { flags, kind, cookie, offset, len }))
    }
}

/// A simple reply, before the data of a read that has not failed.
pub fn simple_reply(cookie: u64, error: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

/// Bytes of a chunk's header.
pub const fn chunk_size(headers: Headers) -> usize {
    match headers {
        Headers::Simple | Headers::Structured => 20,
        Headers::Extended => 32,
    }
}

impl Chunk {
    /// Appends the header to `bytes`. A length that a structured header has no room for is cut down to what it has;
    /// servers send less.
    pub fn encode(&self, headers: Headers, bytes: &mut Vec<u8>) {
        let extended = headers == Headers::Extended;
        bytes.extend(if extended { EXTENDED_MAGIC } else { STRUCTURED_MAGIC }.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        if extended {
            bytes.extend(self.offset.to_be_bytes());
            bytes.extend(self.len.to_be_bytes());
        } else {
            bytes.extend(u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}
