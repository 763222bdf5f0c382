//! Where a guest's bytes are: the longest run of one kind, and whether a request leads somewhere without waiting.
//!
//! Looks at what is in memory and changes nothing. A request that is one run of clusters goes straight to the file
//! below; what needs metadata read, clusters taken or content put together is a task.

use super::compressed::Inflater;
use super::entry::Entry;
use super::l2::Tables;
use crate::node::link::{self, Link};
use crate::node::{Kind, Map, Request};

/// What a run of guest bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The backing file's content, or zeroes.
    Unallocated,
    /// Zeroes.
    Zero {
        /// Where in the data file its first byte would be, if it has clusters all the same.
        host: Option<u64>,
        /// They may be written in place.
        copied: bool,
    },
    /// Content of the data file.
    Data {
        /// Where its first byte is there.
        host: u64,
        /// It may be written in place.
        copied: bool,
    },
    /// Part of one compressed cluster.
    Compressed {
        /// Where the cluster's compressed data begins in the file.
        host: u64,
        /// The most bytes it may take there.
        len: u64,
    },
    /// The image is corrupt here.
    Invalid,
}

/// A run of guest bytes of one kind, contiguous in the data file if it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What it is.
    pub found: Found,
    /// Bytes.
    pub len: u64,
}

impl Found {
    /// What an entry says of the bytes from `skip` on in its cluster.
    fn of(entry: Entry, skip: u64) -> Self {
        match entry {
            Entry::Unallocated => Self::Unallocated,
            Entry::Zero { host, copied } => Self::Zero { host: host.map(|host| host + skip), copied },
            Entry::Data { host, copied } => Self::Data { host: host + skip, copied },
            Entry::Compressed { host, len } => Self::Compressed { host, len },
            Entry::Invalid => Self::Invalid,
        }
    }

    /// What comes next if the run goes on for `len` bytes; `None` where runs end with their cluster.
    fn after(self, len: u64) -> Option<Self> {
        match self {
            Self::Unallocated | Self::Invalid => Some(self),
            Self::Zero { host, copied } => Some(Self::Zero { host: host.map(|host| host + len), copied }),
            Self::Data { host, copied } => Some(Self::Data { host: host + len, copied }),
            Self::Compressed { .. } => None,
        }
    }
}

/// What reading an image takes.
pub struct View<'a> {
    /// Its tables.
    pub tables: &'a Tables,
    /// The node that guest clusters are in.
    pub data: &'a Link,
    /// The node whose content shows where the image has none.
    pub backing: link::Found,
    /// Whether what shows from there may be copied here at any moment, because a point in time of it is kept here.
    pub is_keeping: bool,
    /// What compressed clusters are read with.
    pub inflater: &'a Inflater,
}

impl View<'_> {
    /// What is at `offset`, for at most `len` bytes, as far as that is known without waiting; `None` if it is not.
    pub fn locate(&self, offset: u64, len: u64) -> Option<Extent> {
        self.run(offset, len, |offset| self.tables.lookup(offset))
    }

    /// The run of what `lookup` says from `offset` on; it ends where `lookup` does not know.
    pub(super) fn run(&self, offset: u64, len: u64, lookup: impl Fn(u64) -> Option<Entry>) -> Option<Extent> {
        let geometry = self.tables.geometry();
        let skip = geometry.in_cluster(offset);
        let found = Found::of(lookup(offset)?, skip);
        let part = geometry.part();
        let mut end = part - (skip & (part - 1));
        if found == Found::Unallocated && end < len {
            end = self.nowhere(offset);
        }
        while end < len {
            let at = offset.checked_add(end);
            let Some((at, next)) = at.and_then(|at| Some((at, lookup(at)?))) else { break };
            if Some(Found::of(next, geometry.in_cluster(at))) != found.after(end) {
                break;
            }
            end = end.saturating_add(if found == Found::Unallocated { self.nowhere(at) } else { part });
        }
        Some(Extent { found, len: end.min(len) })
    }

    /// How far what is unallocated at `offset` goes on for certain: where there is no table, to where the next begins.
    fn nowhere(&self, offset: u64) -> u64 {
        let geometry = self.tables.geometry();
        let unit = match self.tables.table(geometry.l1_index(offset)) {
            Ok(None) => geometry.l2_span(),
            _ => geometry.part(),
        };
        unit - (offset & (unit - 1))
    }

    /// Where a read or write leads from `offset` on without waiting.
    #[inline(never)]
    pub fn map(&self, request: &Request, offset: u64) -> Map {
        let writes = request.kind != Kind::Read;
        match self.locate(offset, request.len) {
            Some(extent) if extent.len < request.len => Map::Task,
            Some(Extent { found: Found::Data { host, copied }, .. }) if copied || !writes => {
                self.data.with(|data| data.map_below(request, host))
            }
            Some(extent) if !writes => self.map_read(request, offset, extent.found),
            _ => Map::Task,
        }
    }

    /// A read of one run that is not in the data file.
    fn map_read(&self, request: &Request, offset: u64, found: Found) -> Map {
        match (found, self.backing.as_ref()) {
            (Found::Zero { .. }, _) | (Found::Unallocated, None) => Map::Zeroes,
            (Found::Unallocated, Some(backing)) if offset >= backing.length() => Map::Zeroes,
            // Has to be looked at once more when it has been read.
            (Found::Unallocated, Some(_)) if self.is_keeping => Map::Task,
            (Found::Unallocated, Some(backing)) => backing.map_below(request, offset),
            _ => Map::Task,
        }
    }
}
