//! The header of a request.

use super::{Cursor, Headers, WireError};

const MAGIC: u32 = 0x2560_9513;
const EXTENDED_MAGIC: u32 = 0x21e4_1c71;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send data.
    Read,
    /// Take the data that follows.
    Write,
    /// The client goes; there is no reply.
    Disconnect,
    /// Make what was written stable.
    Flush,
    /// The content is no longer needed.
    Trim,
    /// The content will be needed.
    Cache,
    /// Make it zeroes.
    WriteZeroes,
    /// Say what is where.
    BlockStatus,
    /// A number that means nothing yet.
    Unknown(u16),
}

impl Command {
    const ALL: [(u16, Self); 8] = [
        (0, Self::Read),
        (1, Self::Write),
        (2, Self::Disconnect),
        (3, Self::Flush),
        (4, Self::Trim),
        (5, Self::Cache),
        (6, Self::WriteZeroes),
        (7, Self::BlockStatus),
    ];

    fn from_number(number: u16) -> Self {
        let known = Self::ALL.iter().find(|(known, _)| *known == number);
        known.map_or(Self::Unknown(number), |(_, command)| *command)
    }

    fn number(self) -> u16 {
        match self {
            Self::Unknown(number) => number,
            known => Self::ALL.iter().find(|(_, command)| *command == known).map_or(u16::MAX, |(number, _)| *number),
        }
    }
}

/// A request without the data of a write. Nothing of it was checked but its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// How it is meant: [`super::command_flags`].
    pub flags: u16,
    /// What it asks for.
    pub command: Command,
    /// Comes back in the reply.
    pub cookie: u64,
    /// Bytes into the export.
    pub offset: u64,
    /// Bytes; 32 bits but with extended headers.
    pub len: u64,
}

impl Request {
    /// Bytes of a header.
    pub const fn size(headers: Headers) -> usize {
        match headers {
            Headers::Simple | Headers::Structured => 28,
            Headers::Extended => 32,
        }
    }

    /// Reads a header, of [`Request::size`] bytes.
    ///
    /// # Errors
    /// [`WireError::Magic`]: whoever sent it is somewhere else in the protocol; [`WireError::Length`] of fewer bytes.
    pub fn decode(bytes: &[u8], headers: Headers) -> Result<Self, WireError> {
        let mut cursor = Cursor(bytes);
        let extended = headers == Headers::Extended;
        if cursor.u32()? != if extended { EXTENDED_MAGIC } else { MAGIC } {
            return Err(WireError::Magic);
        }
        let flags = cursor.u16()?;
        let command = Command::from_number(cursor.u16()?);
        let (cookie, offset) = (cursor.u64()?, cursor.u64()?);
        let len = if extended { cursor.u64()? } else { cursor.u32()?.into() };
        Ok(Self { flags, command, cookie, offset, len })
    }

    /// The header as bytes. A length that a compact header has no room for is cut down to what it has; clients ask for
    /// less.
    pub fn encode(&self, headers: Headers) -> Vec<u8> {
        let extended = headers == Headers::Extended;
        let mut bytes = Vec::with_capacity(Self::size(headers));
        bytes.extend(if extended { EXTENDED_MAGIC } else { MAGIC }.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.command.number().to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        match extended {
            true => bytes.extend(self.len.to_be_bytes()),
            false => bytes.extend(u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes()),
        }
        bytes
    }
}
