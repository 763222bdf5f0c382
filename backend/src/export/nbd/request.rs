//! Which requests are done and which are refused, with the numbers and words of QEMU.
//!
//! Looks at numbers only. Everything that comes from a client passes here before anything is done with it.

use super::handshake::Contexts;
use crate::nbd_wire::transmission::{Command, Headers, Request, command_flags, error_number};

/// The most bytes of a read or write, or of any payload.
pub const TRANSFER_MAX: u64 = 32 * 1024 * 1024;

/// What a client has agreed on, and what it was told of the export.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The form of requests and replies.
    pub headers: Headers,
    /// Bytes of the export.
    pub size: u64,
    /// Whether nothing may be changed.
    pub read_only: bool,
    /// What BLOCK_STATUS tells of.
    pub contexts: Contexts,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of [`error_number`].
    pub error: u32,
    /// For humans.
    pub text: String,
}

impl Refusal {
    fn new(error: u32, text: String) -> Self {
        Self { error, text }
    }

    /// Something that makes no sense.
    pub fn invalid(text: &str) -> Self {
        Self::new(error_number::INVAL, text.to_owned())
    }
}

/// What follows the header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing.
    Nothing,
    /// What is to be written.
    Data(u64),
    /// Which contexts are asked for.
    Contexts(u64),
    /// Bytes that the request has no use for.
    Needless(u64),
    /// More than is ever taken: where the next request begins is not known.
    Endless(u64),
}

/// What follows a request's header.
pub fn payload(request: &Request, headers: Headers) -> Payload {
    let says_so = headers == Headers::Extended && request.flags & command_flags::PAYLOAD_LEN != 0;
    match request.command {
        Command::Write if request.len > TRANSFER_MAX => Payload::Endless(request.len),
        Command::Write => Payload::Data(request.len),
        _ if !says_so || request.len == 0 => Payload::Nothing,
        _ if request.len > TRANSFER_MAX => Payload::Endless(request.len),
        Command::BlockStatus => Payload::Contexts(request.len),
        _ => Payload::Needless(request.len),
    }
}

/// Why more than is ever moved at once is not.
pub fn too_large(len: u64) -> Refusal {
    let text = format!("len ({len}) is larger than max len ({TRANSFER_MAX})");
    Refusal::new(error_number::INVAL, text)
}

/// Whether a request may be done, in the order in which QEMU asks.
///
/// # Errors
/// What the client is told otherwise.
pub fn check(request: &Request, terms: &Terms) -> Result<(), Refusal> {
    let Request { command, offset, len, .. } = *request;
    if matches!(command, Command::Read | Command::Cache) && len > TRANSFER_MAX {
        return Err(too_large(len));
    }
    let writes = matches!(command, Command::Write | Command::WriteZeroes | Command::Trim);
    if writes && terms.read_only {
        return Err(Refusal::new(error_number::PERM, "Export is read-only".into()));
    }
    if offset > terms.size || len > terms.size - offset {
        let text = format!("operation past EOF; From: {offset}, Len: {len}, Size: {}", terms.size);
        // The protocol would have ENOSPC for writes; clients of QEMU are used to this.
        return Err(Refusal::invalid(&text));
    }
    let unknown = request.flags & !known_flags(command, terms.headers);
    if unknown != 0 {
        let text = format!("unsupported flags for command {} (got {:#x})", name(command), request.flags);
        return Err(Refusal::new(error_number::INVAL, text));
    }
    match command {
        Command::Unknown(number) => Err(Refusal::invalid(&format!("invalid request type ({number}) received"))),
        Command::BlockStatus if terms.contexts.is_empty() => Err(Refusal::invalid("CMD_BLOCK_STATUS not negotiated")),
        Command::BlockStatus if len == 0 => Err(Refusal::invalid("need non-zero length")),
        _ => Ok(()),
    }
}

/// The flags that a command has a meaning for. FUA means nothing to some and is no mistake.
fn known_flags(command: Command, headers: Headers) -> u16 {
    let own = match command {
        Command::Read if headers >= Headers::Structured => command_flags::DF,
        Command::Write if headers == Headers::Extended => command_flags::PAYLOAD_LEN,
        Command::WriteZeroes => command_flags::NO_HOLE | command_flags::FAST_ZERO,
        Command::BlockStatus if headers == Headers::Extended => command_flags::REQ_ONE | command_flags::PAYLOAD_LEN,
        Command::BlockStatus => command_flags::REQ_ONE,
        _ => 0,
    };
    own | command_flags::FUA
}

fn name(command: Command) -> &'static str {
    match command {
        Command::Read => "read",
        Command::Write => "write",
        Command::Disconnect => "disconnect",
        Command::Flush => "flush",
        Command::Trim => "trim",
        Command::Cache => "cache",
        Command::WriteZeroes => "write zeroes",
        Command::BlockStatus => "block status",
        Command::Unknown(_) => "<unknown>",
    }
}

/// The length and the contexts that a payload of BLOCK_STATUS asks for, `None` if it makes no sense.
pub fn asked_contexts(payload: &[u8], contexts: &Contexts) -> Option<(u64, Contexts)> {
    let (len, ids) = payload.split_first_chunk::<8>()?;
    let (ids, []) = ids.as_chunks::<4>() else { return None };
    let ids: Vec<u32> = ids.iter().map(|id| u32::from_be_bytes(*id)).collect();
    let asked = contexts.of_ids(&ids).filter(|asked| !asked.is_empty())?;
    Some((u64::from_be_bytes(*len), asked))
}
