//! The options of driver `blkdebug`.
//!
//! Knows what a rule may say, not when it applies.

use tidemark_backend::node::options::{BlkDebugOptions, Delays, InjectError, IoType, SetState};

use super::blkdebug_event::BlkdebugEvent;
use super::options::{BlockdevRef, unsigned};
use crate::error::QmpError;
use crate::schema::{qapi_enum, qapi_struct};

/// The errno of a rule that names none: EIO.
const ERRNO: i64 = 5;

qapi_struct! {
    /// Options of driver `blkdebug`: a filter that fails or delays requests by rule.
    pub struct BlockdevOptionsBlkdebug "BlockdevOptionsBlkdebug" {
        /// The node to pass requests on to.
        "image" image: BlockdevRef,
        /// A file with more rules, in QEMU's format.
        "config" config: Option<String>,
        /// The bytes of a block of the storage that the filter shows, a power of two; those of the node below if absent
        /// or 0.
        "align" align: Option<i64>,
        /// Rules that fail requests.
        "inject-error" inject_error: Option<Vec<BlkdebugInjectErrorOptions>>,
        /// Rules that change the state which other rules ask for.
        "set-state" set_state: Option<Vec<BlkdebugSetStateOptions>>,
        /// How long requests wait before they are passed on.
        "x-delay-ns" x_delay_ns: Option<BlkdebugDelays>,
    }
}

qapi_struct! {
    /// A rule that fails requests.
    pub struct BlkdebugInjectErrorOptions "BlkdebugInjectErrorOptions" {
        /// What arms the rule.
        "event" event: BlkdebugEvent,
        /// The state in which it can be armed; any if absent or 0.
        "state" state: Option<i64>,
        /// The kind of request; all but block-status if absent.
        "iotype" iotype: Option<BlkdebugIoType>,
        /// The error as Linux numbers it; 5 (EIO) if absent.
        "errno" errno: Option<i64>,
        /// The sector of 512 bytes that a request must touch; any if absent or -1.
        "sector" sector: Option<i64>,
        /// The rule is used up by its first hit. Off if absent.
        "once" once: Option<bool>,
        /// Fail at once, without going through the event loop. Off if absent.
        "immediately" immediately: Option<bool>,
    }
}

qapi_struct! {
    /// A rule that changes the state.
    pub struct BlkdebugSetStateOptions "BlkdebugSetStateOptions" {
        /// What triggers the rule.
        "event" event: BlkdebugEvent,
        /// The state in which it applies; any if absent or 0.
        "state" state: Option<i64>,
        /// The state afterwards.
        "new_state" new_state: i64,
    }
}

qapi_struct! {
    /// Nanoseconds that requests wait; 0 if absent.
    pub struct BlkdebugDelays "BlkdebugDelays" {
        /// Reads.
        "read" read: Option<u64>,
        /// Writes.
        "write" write: Option<u64>,
        /// Write-zeroes.
        "write-zeroes" write_zeroes: Option<u64>,
        /// Discards.
        "discard" discard: Option<u64>,
        /// Flushes.
        "flush" flush: Option<u64>,
    }
}

qapi_enum! {
    /// Kinds of request that a rule can tell apart.
    pub enum BlkdebugIoType "BlkdebugIOType" {
        /// Reads.
        Read = "read",
        /// Writes.
        Write = "write",
        /// Write-zeroes.
        WriteZeroes = "write-zeroes",
        /// Discards.
        Discard = "discard",
        /// Flushes.
        Flush = "flush",
        /// Queries of what is allocated.
        BlockStatus = "block-status",
    }
}

impl TryFrom<BlockdevOptionsBlkdebug> for BlkDebugOptions {
    type Error = QmpError;

    fn try_from(options: BlockdevOptionsBlkdebug) -> Result<Self, QmpError> {
        let inject_error = options.inject_error.unwrap_or_default();
        let set_state = options.set_state.unwrap_or_default();
        Ok(Self {
            image: options.image.try_into()?,
            config: options.config.map(Into::into),
            align: unsigned("align", options.align.unwrap_or(0))?,
            inject_error: inject_error.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            set_state: set_state.into_iter().map(Into::into).collect(),
            delay: options.x_delay_ns.map(Into::into).unwrap_or_default(),
        })
    }
}

impl TryFrom<BlkdebugInjectErrorOptions> for InjectError {
    type Error = QmpError;

    fn try_from(rule: BlkdebugInjectErrorOptions) -> Result<Self, QmpError> {
        let range = |name: &str| QmpError::generic(format!("{name} is out of range"));
        let sector = rule.sector.filter(|&sector| sector != -1);
        Ok(Self {
            event: rule.event.text().to_owned(),
            state: rule.state.filter(|&state| state != 0),
            iotype: rule.iotype.map(Into::into),
            errno: i32::try_from(rule.errno.unwrap_or(ERRNO)).map_err(|_| range("errno"))?,
            sector: sector.map(u64::try_from).transpose().map_err(|_| range("sector"))?,
            once: rule.once.unwrap_or(false),
            immediately: rule.immediately.unwrap_or(false),
        })
    }
}

impl From<BlkdebugSetStateOptions> for SetState {
    fn from(rule: BlkdebugSetStateOptions) -> Self {
        let state = rule.state.filter(|&state| state != 0);
        Self { event: rule.event.text().to_owned(), state, new_state: rule.new_state }
    }
}

impl From<BlkdebugDelays> for Delays {
    fn from(delays: BlkdebugDelays) -> Self {
        Self {
            read: delays.read.unwrap_or(0),
            write: delays.write.unwrap_or(0),
            write_zeroes: delays.write_zeroes.unwrap_or(0),
            discard: delays.discard.unwrap_or(0),
            flush: delays.flush.unwrap_or(0),
        }
    }
}

impl From<BlkdebugIoType> for IoType {
    fn from(kind: BlkdebugIoType) -> Self {
        match kind {
            BlkdebugIoType::Read => Self::Read,
            BlkdebugIoType::Write => Self::Write,
            BlkdebugIoType::WriteZeroes => Self::WriteZeroes,
            BlkdebugIoType::Discard => Self::Discard,
            BlkdebugIoType::Flush => Self::Flush,
            BlkdebugIoType::BlockStatus => Self::BlockStatus,
        }
    }
}
