//! The payloads of chunks.

use super::{Cursor, Headers, WireError};

/// Descriptors that a chunk should have at most.
pub const STATUS_EXTENTS_MAX: usize = 1 << 20;

/// One descriptor of a block status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes; 32 bits but with extended headers.
    pub len: u64,
    /// What the context has to say of them; 32 bits but with extended headers.
    pub flags: u64,
}

/// What follows the offset of [`super::chunk_kind::OFFSET_DATA`] is data.
pub fn offset_data(offset: u64) -> [u8; 8] {
    offset.to_be_bytes()
}

/// The payload of [`super::chunk_kind::OFFSET_HOLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Bytes into the export.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl Hole {
    /// Bytes of the payload.
    pub const SIZE: usize = 12;

    /// Reads the payload.
    ///
    /// # Errors
    /// [`WireError`]: it is not as long, or of no bytes.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor(payload);
        let hole = Self { offset: cursor.u64()?, len: cursor.u32()? };
        match cursor.0.is_empty() {
            true if hole.len > 0 => Ok(hole),
            true => Err(WireError::Value),
            false => Err(WireError::Length),
        }
    }
}

/// The payload of [`super::chunk_kind::OFFSET_HOLE`].
pub fn hole(offset: u64, len: u32) -> [u8; Hole::SIZE] {
    let mut bytes = [0; Hole::SIZE];
    bytes[..8].copy_from_slice(&offset.to_be_bytes());
    bytes[8..].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// The payload of [`super::chunk_kind::BLOCK_STATUS`] and [`super::chunk_kind::BLOCK_STATUS_EXT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Of what it is the status.
    pub context: u32,
    /// From the request's offset on, one after the other; none of them empty.
    pub extents: Vec<Extent>,
}

impl Status {
    /// Bytes before the descriptors, and of each.
    pub const fn sizes(headers: Headers) -> (u64, u64) {
        match headers {
            Headers::Simple | Headers::Structured => (4, 8),
            Headers::Extended => (8, 16),
        }
    }

    /// Reads the payload, of which `payload` is as much as the caller wants to know, and `len` all of it: at most
    /// 16 bytes a descriptor are allocated.
    ///
    /// # Errors
    /// [`WireError`]: no descriptors, parts of them, more than should be, or an empty one.
    pub fn decode(payload: &[u8], len: u64, headers: Headers) -> Result<Self, WireError> {
        let (head, each) = Self::sizes(headers);
        let count = len.checked_sub(head).ok_or(WireError::Length)? / each;
        if count == 0 || count > STATUS_EXTENTS_MAX as u64 || head + count * each != len {
            return Err(WireError::Length);
        }
        let mut cursor = Cursor(payload);
        let context = cursor.u32()?;
        if headers == Headers::Extended && u64::from(cursor.u32()?) != count {
            return Err(WireError::Length);
        }
        let mut extents = Vec::new();
        while cursor.0.len() as u64 >= each {
            let (len, flags) = match headers {
                Headers::Extended => (cursor.u64()?, cursor.u64()?),
                _ => (cursor.u32()?.into(), cursor.u32()?.into()),
            };
            if len == 0 {
                return Err(WireError::Value);
            }
            extents.push(Extent { len, flags });
        }
        if extents.is_empty() { Err(WireError::Length) } else { Ok(Self { context, extents }) }
    }
}

/// The payload of a block status. Numbers that structured replies have no room for are cut down to what they have;
/// servers send less.
pub fn status(context: u32, extents: &[Extent], headers: Headers) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + 16 * extents.len());
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    bytes.extend(context.to_be_bytes());
    if headers == Headers::Extended {
        bytes.extend(narrow(extents.len() as u64));
    }
    for Extent { len, flags } in extents {
        match headers {
            Headers::Extended => {
                bytes.extend(len.to_be_bytes());
                bytes.extend(flags.to_be_bytes());
            }
            _ => {
                bytes.extend(narrow(*len));
                bytes.extend(narrow(*flags));
            }
        }
    }
    bytes
}

/// The payload of a chunk that says that the request has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// [`super::error_number`].
    pub error: u32,
    /// For people; what is no UTF-8 of it is replaced.
    pub message: String,
    /// Where, if the chunk has an offset.
    pub offset: Option<u64>,
}

impl Failure {
    /// The longest message, in bytes.
    pub const MESSAGE_MAX: usize = 4096;

    /// Bytes of the longest payload.
    pub const SIZE_MAX: u64 = 6 + Self::MESSAGE_MAX as u64 + 8;

    /// Reads the payload, of any kind that begins as [`super::chunk_kind::ERROR`] does.
    ///
    /// # Errors
    /// [`WireError`]: it is shorter than it says, or no error.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor(payload);
        let (error, len) = (cursor.u32()?, cursor.u16()?);
        let (message, rest) = cursor.0.split_at_checked(usize::from(len)).ok_or(WireError::Length)?;
        if error == 0 || message.len() > Self::MESSAGE_MAX {
            return Err(WireError::Value);
        }
        let message = String::from_utf8_lossy(message).into_owned();
        Ok(Self { error, message, offset: Cursor(rest).u64().ok() })
    }
}

/// The payload of a chunk that says that the request has failed. What is too long of the message is left out.
pub fn failure(error: u32, message: &str, offset: Option<u64>) -> Vec<u8> {
    let message = &message[..message.floor_char_boundary(Failure::MESSAGE_MAX)];
    let mut bytes = error.to_be_bytes().to_vec();
    bytes.extend(u16::try_from(message.len()).unwrap_or(0).to_be_bytes());
    bytes.extend(message.as_bytes());
    bytes.extend(offset.into_iter().flat_map(u64::to_be_bytes));
    bytes
}
