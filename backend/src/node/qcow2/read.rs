//! Reading what is not one operation on one file: its parts at the same time, each from where it is.
//!
//! Whatever is past the end of a node below reads as zeroes. An image that
//! keeps a point in time of a node below shows what was there then, whatever is written there while it is read.

use super::entry::Entry;
use super::map::{Extent, Found, View};
use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::{Kind, Outcome, Request};
use crate::reactor::{Batch, Handle};
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};

/// Where a part of a read goes, and where it comes from.
struct Part {
    whole: Rc<Memory>,
    /// Bytes into the memory.
    done: u64,
    /// Bytes into the guest's disk.
    offset: u64,
}

impl View<'_> {
    /// What is at `offset`, for at most `len` bytes. Reads the table that says so if it is not in memory.
    ///
    /// # Errors
    /// The storage's.
    pub async fn locate_or_load(&self, io: &Handle, offset: u64, len: u64) -> Result<Extent, IoError> {
        if let Some(extent) = self.locate(offset, len) {
            return Ok(extent);
        }
        let geometry = self.tables.geometry();
        let index = geometry.l1_index(offset);
        // While it is pinned what it says is known.
        let _pin = self.tables.load(io, index).await?;
        if let Some(extent) = self.locate(offset, len) {
            return Ok(extent);
        }
        // No room in memory: reading waits for nobody to make some.
        let words = self.tables.read_table(io, index).await?.unwrap_or_default();
        let entry = |offset| {
            let at = geometry.l2_index(offset) * geometry.entry_words();
            let entry = match words.get(at..).unwrap_or_default() {
                [word, bitmap, ..] if geometry.extended => geometry.decode_part(*word, *bitmap, offset),
                [word, ..] => geometry.decode(*word),
                [] => Entry::Unallocated,
            };
            (geometry.l1_index(offset) == index).then_some(entry)
        };
        self.run(offset, len, entry).ok_or(IoError::Io)
    }

    /// Runs a read to its end. Its parts are under way together: where they are is looked up one after the other.
    pub async fn read(&self, io: &Handle, request: Request) -> Outcome {
        let whole = Rc::new(request.memory);
        let mut parts = Batch::default();
        let mut result = Ok(());
        let mut done = 0;
        while done < request.len && result.is_ok() && !parts.has_failed() {
            let (offset, left) = (request.offset + done, request.len - done);
            match self.locate_or_load(io, offset, left).await {
                Err(error) => result = Err(error),
                Ok(extent) => {
                    let extent = self.clamp(extent, offset);
                    let part = Part { whole: whole.clone(), done, offset };
                    parts.add(async move { self.read_extent(io, extent, part).await }).await;
                    done += extent.len;
                }
            }
        }
        let result = result.and(parts.end().await);
        // All parts have ended: nobody else has it.
        let memory = Rc::into_inner(whole).unwrap_or(Memory::empty());
        (memory, result)
    }

    /// Bytes of the guest's disk.
    ///
    /// # Errors
    /// As a guest's read.
    pub async fn read_bytes(&self, io: &Handle, offset: u64, len: u64) -> Result<Buf, IoError> {
        let memory = Memory::from(Buf::new(byte_count(len)));
        let (memory, result) = self.read(io, Request { kind: Kind::Read, fua: false, offset, len, memory }).await;
        result?;
        memory.into_buf().ok_or(IoError::Io)
    }

    /// The part of a run that one node below has; what none has is a run of zeroes.
    fn clamp(&self, extent: Extent, offset: u64) -> Extent {
        let (length, start) = match (extent.found, self.backing.as_ref()) {
            (Found::Data { host, .. }, _) => (self.data.with(|data| data.length()), host),
            (Found::Unallocated, Some(backing)) => (backing.length(), offset),
            _ => return extent,
        };
        match length.checked_sub(start) {
            Some(rest) if rest > 0 => Extent { len: extent.len.min(rest), ..extent },
            _ => Extent { found: Found::Zero { host: None, copied: false }, ..extent },
        }
    }

    /// Fills a part from a run that has been clamped.
    async fn read_extent(&self, io: &Handle, extent: Extent, part: Part) -> Result<(), IoError> {
        let (mut extent, end) = (extent, part.done + extent.len);
        let mut part = part;
        loop {
            let memory = Memory::part(&part.whole, part.done, extent.len);
            self.read_part(io, extent, part.offset, memory).await.1?;
            if self.is_still(io, extent, part.offset).await? {
                (part.done, part.offset) = (part.done + extent.len, part.offset + extent.len);
            }
            if part.done >= end {
                return Ok(());
            }
            // What is here now. What has come here stays: this ends.
            extent = self.clamp(self.locate_or_load(io, part.offset, end - part.done).await?, part.offset);
        }
    }

    /// Whether what was read from below was not copied here meanwhile. Had it been, the write that it was copied for may
    /// have come before the read.
    pub(super) async fn is_still(&self, io: &Handle, extent: Extent, offset: u64) -> Result<bool, IoError> {
        if !self.is_keeping || extent.found != Found::Unallocated {
            return Ok(true);
        }
        // What was read was read before the entries are looked at.
        fence(Ordering::SeqCst);
        let now = self.clamp(self.locate_or_load(io, offset, extent.len).await?, offset);
        Ok(now.found == Found::Unallocated && now.len >= extent.len)
    }

    /// Fills memory from a run that has been clamped.
    async fn read_part(&self, io: &Handle, extent: Extent, offset: u64, mut memory: Memory) -> Outcome {
        let (node, offset) = match (extent.found, self.backing.as_ref()) {
            (Found::Data { host, .. }, _) => (self.data.get(), host),
            (Found::Unallocated, Some(backing)) => (backing.clone(), offset),
            (Found::Zero { .. } | Found::Unallocated, _) => {
                memory.fill_zero(0, extent.len);
                return (memory, Ok(()));
            }
            (Found::Compressed { host, len }, _) => return self.read_compressed(io, host, len, offset, memory).await,
            (Found::Invalid, _) => return (memory, Err(IoError::Io)),
        };
        node.handle(io, Request { kind: Kind::Read, fua: false, offset, len: extent.len, memory }).await
    }

    async fn read_compressed(&self, io: &Handle, host: u64, len: u64, offset: u64, mut memory: Memory) -> Outcome {
        let geometry = self.tables.geometry();
        let inflated = self.inflater.cluster(io, &self.data.get(), host, len, geometry.cluster()).await;
        let skip = byte_count(geometry.in_cluster(offset));
        match inflated.map(|cluster| cluster.get(skip..).map(|bytes| memory.copy_from(0, bytes))) {
            Ok(Some(())) => (memory, Ok(())),
            Ok(None) => (memory, Err(IoError::Io)),
            Err(error) => (memory, Err(error)),
        }
    }
}
