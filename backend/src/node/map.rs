//! The fast path: where a request leads without waiting, through all nodes below.
//!
//! Short on purpose, as every request comes through here. Node by node, each with the offset that is its own; nothing is
//! copied, counted or locked.

use super::options::{DetectZeroes, Discard};
use super::{Driver, Kind, Node, Request};
use crate::error::IoError;
use crate::io::{FileId, OpKind};

/// Where a request leads without waiting for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// One operation on one file.
    File {
        /// The file.
        file: FileId,
        /// Bytes into it.
        offset: u64,
        /// What to do with it.
        kind: OpKind,
    },
    /// Nothing to do: the request has ended like this.
    Ended(Result<(), IoError>),
    /// Reads as zeroes.
    Zeroes,
    /// Needs a task: [`Node::handle`].
    Task,
}

impl Node {
    /// Where a request leads if it needs no waiting.
    #[inline]
    pub fn map(&self, request: &Request) -> Map {
        self.map_at(request, request.offset)
    }

    /// Where a request leads from `offset` of this node on.
    #[inline]
    pub(super) fn map_at(&self, request: &Request, offset: u64) -> Map {
        match self.check_at(request, offset) {
            Ok(()) => self.lead(request, offset),
            Err(error) => Map::Ended(Err(error)),
        }
    }

    /// The same for a format above, whose tables may lead past this node's end: that is no matter of one operation.
    #[inline]
    pub(super) fn map_below(&self, request: &Request, offset: u64) -> Map {
        match (self.check_at(request, offset), &self.driver) {
            // A shorter way to what is most often below.
            (Ok(()), Driver::File(file)) if self.detect_zeroes() == DetectZeroes::Off && request.kind.moves() => {
                file.map(request, offset)
            }
            (Ok(()), _) => self.lead(request, offset),
            (Err(_), _) => Map::Task,
        }
    }

    /// Where a request leads that has been checked.
    fn lead(&self, request: &Request, offset: u64) -> Map {
        match request.kind {
            Kind::Write if self.detect_zeroes() != DetectZeroes::Off => Map::Task,
            Kind::Discard if self.discard() == Discard::Ignore => Map::Ended(Ok(())),
            Kind::Flush if self.ends_flushes() => Map::Ended(Ok(())),
            _ => match &self.driver {
                Driver::File(file) => file.map(request, offset),
                Driver::Raw(raw) => raw.map(request, offset),
                Driver::Null(null) => null.map(request),
                Driver::CopyBeforeWrite(filter) => filter.map(request, offset),
                Driver::Throttle(filter) => filter.map(request, offset),
                Driver::Passing(filter) => filter.map(request, offset),
                Driver::Qcow2(image) => image.map(request, offset),
                Driver::BlkDebug(_) | Driver::SnapshotAccess(_) | Driver::Nbd(_) => Map::Task,
            },
        }
    }
}
