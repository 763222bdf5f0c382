//! The handshake: a greeting, then options of the client, each answered by one or several replies, until one of them
//! chooses an export. For both ends.
//!
//! Values are those of proto.md, "Fixed newstyle negotiation" and "Values, Handshake phase". Decoders look at what they
//! are given and allocate nothing but what they return, which is never larger than that.

mod context;
mod info;
mod message;

pub use super::transmission::export_flags;
pub use context::{MetaContext, MetaQueries, encode_meta_queries};
pub use info::{Info, InfoRequest, encode_export, encode_info_request};
pub use message::{
    Greeting, Listed, OptionHeader, ReplyHeader, decode_client_flags, encode_client_flags, encode_error, encode_reply,
};

/// The longest string, in bytes ("Strings").
pub const STRING_MAX: usize = 4096;

/// The most bytes of an option that are taken; more of one end the connection, as with QEMU.
pub const OPTION_MAX: u32 = 32 * 1024 * 1024;

/// What the other side sent does not follow the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another protocol, perhaps.
    #[error("Bad magic received")]
    Magic,
    /// A server of the protocol from before options.
    #[error("Server does not support the fixed newstyle protocol")]
    OldStyle,
    /// Flags that nobody knows or that were not offered.
    #[error("Unknown client flags {0:#x} received")]
    Flags(u32),
    /// Lengths that do not fit in one another.
    #[error("Inconsistent lengths")]
    Lengths,
    /// More than the lengths say.
    #[error("unexpected length")]
    Trailing,
    /// A string that no string can be.
    #[error("Unexpected embedded NUL")]
    Nul,
    /// A string that is longer than strings may be.
    #[error("Invalid name length: {0}")]
    StringLength(u32),
    /// A string that is no text.
    #[error("String is not valid UTF-8")]
    Text,
}

/// What a greeting says of the server.
pub mod handshake_flags {
    /// NBD_FLAG_FIXED_NEWSTYLE
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// NBD_FLAG_NO_ZEROES
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// What a client may ask during the handshake.
pub mod option {
    /// NBD_OPT_EXPORT_NAME
    pub const EXPORT_NAME: u32 = 1;
    /// NBD_OPT_ABORT
    pub const ABORT: u32 = 2;
    /// NBD_OPT_LIST
    pub const LIST: u32 = 3;
    /// NBD_OPT_STARTTLS
    pub const STARTTLS: u32 = 5;
    /// NBD_OPT_INFO
    pub const INFO: u32 = 6;
    /// NBD_OPT_GO
    pub const GO: u32 = 7;
    /// NBD_OPT_STRUCTURED_REPLY
    pub const STRUCTURED_REPLY: u32 = 8;
    /// NBD_OPT_LIST_META_CONTEXT
    pub const LIST_META_CONTEXT: u32 = 9;
    /// NBD_OPT_SET_META_CONTEXT
    pub const SET_META_CONTEXT: u32 = 10;
    /// NBD_OPT_EXTENDED_HEADERS
    pub const EXTENDED_HEADERS: u32 = 11;

    /// What texts call it.
    pub fn name(option: u32) -> &'static str {
        match option {
            EXPORT_NAME => "export name",
            ABORT => "abort",
            LIST => "list",
            STARTTLS => "starttls",
            INFO => "info",
            GO => "go",
            STRUCTURED_REPLY => "structured reply",
            LIST_META_CONTEXT => "list meta context",
            SET_META_CONTEXT => "set meta context",
            EXTENDED_HEADERS => "extended headers",
            _ => "<unknown>",
        }
    }
}

/// What a server answers to an option.
pub mod reply {
    /// NBD_REP_ACK
    pub const ACK: u32 = 1;
    /// NBD_REP_SERVER
    pub const SERVER: u32 = 2;
    /// NBD_REP_INFO
    pub const INFO: u32 = 3;
    /// NBD_REP_META_CONTEXT
    pub const META_CONTEXT: u32 = 4;
    /// Set in all errors
    pub const ERROR: u32 = 1 << 31;
    /// NBD_REP_ERR_UNSUP: the option is not known
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// NBD_REP_ERR_POLICY: it is not allowed here
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// NBD_REP_ERR_INVALID: it makes no sense
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// NBD_REP_ERR_PLATFORM: the platform lacks something
    pub const ERR_PLATFORM: u32 = ERROR | 4;
    /// NBD_REP_ERR_TLS_REQD: not without TLS
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    /// NBD_REP_ERR_UNKNOWN: there is no such export
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// NBD_REP_ERR_SHUTDOWN: the server is ending
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// NBD_REP_ERR_BLOCK_SIZE_REQD: the client has to ask for block sizes
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR | 8;
    /// NBD_REP_ERR_TOO_BIG: the option is too large
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
    /// NBD_REP_ERR_EXT_HEADER_REQD: not without extended headers
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
}

/// What an INFO reply is about.
pub mod info_type {
    /// NBD_INFO_EXPORT
    pub const EXPORT: u16 = 0;
    /// NBD_INFO_NAME
    pub const NAME: u16 = 1;
    /// NBD_INFO_DESCRIPTION
    pub const DESCRIPTION: u16 = 2;
    /// NBD_INFO_BLOCK_SIZE
    pub const BLOCK_SIZE: u16 = 3;
}

/// The context of what is a hole and what reads as zeroes.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// The context of how deep down in a chain of images content is.
pub const ALLOCATION_DEPTH: &str = "qemu:allocation-depth";
/// What the context of a bitmap begins with, before its name.
pub const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// Takes `N` bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or(Malformed::Lengths)?;
    *bytes = rest;
    Ok(*taken)
}

fn take_u16(bytes: &mut &[u8]) -> Result<u16, Malformed> {
    take(bytes).map(u16::from_be_bytes)
}

fn take_u32(bytes: &mut &[u8]) -> Result<u32, Malformed> {
    take(bytes).map(u32::from_be_bytes)
}

fn take_u64(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    take(bytes).map(u64::from_be_bytes)
}

/// Takes a string's length and the string.
fn take_string<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = take_u32(bytes)?;
    let size = usize::try_from(len).unwrap_or(usize::MAX);
    if size > STRING_MAX {
        return Err(Malformed::StringLength(len));
    }
    let (string, rest) = bytes.split_at_checked(size).ok_or(Malformed::Lengths)?;
    *bytes = rest;
    if string.contains(&0) { Err(Malformed::Nul) } else { Ok(string) }
}

fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    out.extend(length(string).to_be_bytes());
    out.extend_from_slice(string);
}

/// A length as the wire has it. What is sent is bounded far below.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// What a human is shown.
fn text(bytes: &[u8]) -> Result<String, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= STRING_MAX => Ok(text.to_owned()),
        Ok(_) => Err(Malformed::StringLength(length(bytes))),
        Err(_) => Err(Malformed::Text),
    }
}
