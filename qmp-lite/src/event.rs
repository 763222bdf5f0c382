//! Events: what the daemon tells every monitor without being asked.
//!
//! Knows the events and their data, who listens, and how often an event may be sent; knows no
//! sockets. Sending never waits for a listener.

mod bus;
pub mod job;
mod rate;

#[cfg(test)]
mod tests;

pub use bus::{EventBus, Listener};

use job::{BlockJobCancelled, BlockJobCompleted, BlockJobError, BlockJobPending, BlockJobReady, JobStatusChange};
use serde_json::{Map, Value};
use tidemark_backend::error::IoError;
use tidemark_backend::event as backend;
use tidemark_backend::node::qcow2::corruption::Corruption;

use crate::schema::{Fields, Qapi, Schema, TypeId, qapi_enum, qapi_struct};

qapi_struct! {
    /// An export is gone: removed by a command, or because the daemon ends.
    pub struct BlockExportDeleted "BLOCK_EXPORT_DELETED-data" {
        /// The export's id.
        "id" id: String,
    }
}

qapi_struct! {
    /// A guest's request failed. Sent at most once per second for each export; of those held back
    /// the last one is sent at the end of the second.
    pub struct BlockIoError "BLOCK_IO_ERROR-data" {
        /// The export's id. (Nothing here has a QOM path.)
        "qom-path" qom_path: String,
        /// The export's id.
        "device" device: String,
        /// The node that the export serves.
        "node-name" node_name: Option<String>,
        /// What the guest wanted.
        "operation" operation: IoOperationType,
        /// What was done about it.
        "action" action: BlockErrorAction,
        /// Whether it failed for want of space.
        "nospace" nospace: Option<bool>,
        /// The reason, for people.
        "reason" reason: String,
    }
}

qapi_struct! {
    /// An image was found to be corrupt.
    pub struct BlockImageCorrupted "BLOCK_IMAGE_CORRUPTED-data" {
        /// The export's id, or nothing.
        "device" device: String,
        /// The node.
        "node-name" node_name: Option<String>,
        /// What is wrong, for people.
        "msg" msg: String,
        /// Where, in bytes into the image file.
        "offset" offset: Option<i64>,
        /// How many bytes are affected.
        "size" size: Option<i64>,
        /// Whether the image can no longer be written.
        "fatal" fatal: bool,
    }
}

qapi_struct! {
    /// A bitmap of an image that was not closed.
    pub struct RecoveredBitmap "XRecoveredBitmap" {
        /// Its name.
        "name" name: String,
        /// Bytes that it marks and that were not marked when it was stored: at most so many are marked though nobody
        /// has changed them.
        "more" more: i64,
    }
}

qapi_struct! {
    /// Bitmaps of an image that was not closed go on: its change journal has what was recorded in them last.
    pub struct BitmapsRecovered "X_BITMAPS_RECOVERED-data" {
        /// The node.
        "node-name" node_name: String,
        /// The bitmaps.
        "bitmaps" bitmaps: Vec<RecoveredBitmap>,
    }
}

qapi_struct! {
    /// The change journal of an image cannot be written: a crash from now on makes its bitmaps inconsistent. Until then
    /// they are right.
    pub struct ChangeJournalLost "X_CHANGE_JOURNAL_LOST-data" {
        /// The node.
        "node-name" node_name: String,
        /// Why, for people.
        "reason" reason: String,
    }
}

qapi_enum! {
    /// The two directions of I/O.
    pub enum IoOperationType "IoOperationType" {
        /// A read.
        Read = "read",
        /// A write, write-zeroes, discard or flush.
        Write = "write",
    }
}

qapi_enum! {
    /// What happens to a request that failed.
    pub enum BlockErrorAction "BlockErrorAction" {
        /// It counts as done.
        Ignore = "ignore",
        /// The guest is told.
        Report = "report",
        /// The guest is stopped.
        Stop = "stop",
    }
}

/// One event with its data.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// `BLOCK_EXPORT_DELETED`
    BlockExportDeleted(BlockExportDeleted),
    /// `BLOCK_IO_ERROR`
    BlockIoError(BlockIoError),
    /// `BLOCK_IMAGE_CORRUPTED`
    BlockImageCorrupted(BlockImageCorrupted),
    /// `X_BITMAPS_RECOVERED`
    BitmapsRecovered(BitmapsRecovered),
    /// `X_CHANGE_JOURNAL_LOST`
    ChangeJournalLost(ChangeJournalLost),
    /// `JOB_STATUS_CHANGE`
    JobStatusChange(JobStatusChange),
    /// `BLOCK_JOB_COMPLETED`
    BlockJobCompleted(BlockJobCompleted),
    /// `BLOCK_JOB_CANCELLED`
    BlockJobCancelled(BlockJobCancelled),
    /// `BLOCK_JOB_READY`
    BlockJobReady(BlockJobReady),
    /// `BLOCK_JOB_PENDING`
    BlockJobPending(BlockJobPending),
    /// `BLOCK_JOB_ERROR`
    BlockJobError(BlockJobError),
}

/// An event as the schema and the reference need it.
#[derive(Clone, Copy, Debug)]
pub struct EventKind {
    /// The name on the wire.
    pub name: &'static str,
    /// Describes the data.
    pub data: fn(&mut Schema) -> TypeId,
}

/// All events there are.
pub const EVENTS: &[EventKind] = &[
    EventKind { name: "BLOCK_EXPORT_DELETED", data: BlockExportDeleted::type_of },
    EventKind { name: "BLOCK_IMAGE_CORRUPTED", data: BlockImageCorrupted::type_of },
    EventKind { name: "BLOCK_IO_ERROR", data: BlockIoError::type_of },
    EventKind { name: "BLOCK_JOB_CANCELLED", data: BlockJobCancelled::type_of },
    EventKind { name: "BLOCK_JOB_COMPLETED", data: BlockJobCompleted::type_of },
    EventKind { name: "BLOCK_JOB_ERROR", data: BlockJobError::type_of },
    EventKind { name: "BLOCK_JOB_PENDING", data: BlockJobPending::type_of },
    EventKind { name: "BLOCK_JOB_READY", data: BlockJobReady::type_of },
    EventKind { name: "JOB_STATUS_CHANGE", data: JobStatusChange::type_of },
    EventKind { name: "X_BITMAPS_RECOVERED", data: BitmapsRecovered::type_of },
    EventKind { name: "X_CHANGE_JOURNAL_LOST", data: ChangeJournalLost::type_of },
];

impl Event {
    /// The name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BlockExportDeleted(_) => "BLOCK_EXPORT_DELETED",
            Self::BlockIoError(_) => "BLOCK_IO_ERROR",
            Self::BlockImageCorrupted(_) => "BLOCK_IMAGE_CORRUPTED",
            Self::BitmapsRecovered(_) => "X_BITMAPS_RECOVERED",
            Self::ChangeJournalLost(_) => "X_CHANGE_JOURNAL_LOST",
            Self::JobStatusChange(_) => "JOB_STATUS_CHANGE",
            Self::BlockJobCompleted(_) => "BLOCK_JOB_COMPLETED",
            Self::BlockJobCancelled(_) => "BLOCK_JOB_CANCELLED",
            Self::BlockJobReady(_) => "BLOCK_JOB_READY",
            Self::BlockJobPending(_) => "BLOCK_JOB_PENDING",
            Self::BlockJobError(_) => "BLOCK_JOB_ERROR",
        }
    }

    /// What is limited together: events with the same key are sent at most once per second. `None`
    /// for events that are never held back.
    fn rate_key(&self) -> Option<&str> {
        match self {
            Self::BlockIoError(data) => Some(&data.qom_path),
            _ => None,
        }
    }

    fn data(&self) -> Value {
        let mut members = Map::new();
        match self {
            Self::BlockExportDeleted(data) => data.put(&mut members),
            Self::BlockIoError(data) => data.put(&mut members),
            Self::BlockImageCorrupted(data) => data.put(&mut members),
            Self::BitmapsRecovered(data) => data.put(&mut members),
            Self::ChangeJournalLost(data) => data.put(&mut members),
            Self::JobStatusChange(data) => data.put(&mut members),
            Self::BlockJobCompleted(data) => data.put(&mut members),
            Self::BlockJobCancelled(data) => data.put(&mut members),
            Self::BlockJobReady(data) => data.put(&mut members),
            Self::BlockJobPending(data) => data.put(&mut members),
            Self::BlockJobError(data) => data.put(&mut members),
        }
        Value::Object(members)
    }
}

impl From<backend::Event> for Event {
    fn from(event: backend::Event) -> Self {
        match event {
            backend::Event::ExportDeleted { id } => Self::BlockExportDeleted(BlockExportDeleted { id }),
            backend::Event::IoError { export, node, write, error } => Self::BlockIoError(BlockIoError {
                qom_path: export.clone(),
                device: export,
                node_name: Some(node),
                operation: if write { IoOperationType::Write } else { IoOperationType::Read },
                action: BlockErrorAction::Report,
                nospace: Some(error == IoError::NoSpace),
                reason: error.to_string(),
            }),
            backend::Event::BitmapsRecovered { node, bitmaps } => {
                let recovered = |(name, more): (String, u64)| RecoveredBitmap {
                    name,
                    more: i64::try_from(more).unwrap_or(i64::MAX),
                };
                let bitmaps = bitmaps.into_iter().map(recovered).collect();
                Self::BitmapsRecovered(BitmapsRecovered { node_name: node, bitmaps })
            }
            backend::Event::ChangeJournalLost { node, error } => {
                Self::ChangeJournalLost(ChangeJournalLost { node_name: node, reason: error.to_string() })
            }
            backend::Event::ImageCorrupted { node, corruption: Corruption { text, bytes, fatal } } => {
                let number = |value: u64| i64::try_from(value).ok();
                Self::BlockImageCorrupted(BlockImageCorrupted {
                    // As from QEMU: images belong to no device.
                    device: String::new(),
                    node_name: Some(node),
                    msg: text,
                    offset: bytes.clone().and_then(|bytes| number(bytes.start)),
                    size: bytes.and_then(|bytes| number(bytes.end - bytes.start)),
                    fatal,
                })
            }
        }
    }
}
