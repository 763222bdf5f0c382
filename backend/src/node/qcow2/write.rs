//! Guest writes, a part at a time: in place where a cluster is the guest's own, else into clusters taken for it.
//!
//! Data first: an entry leads to a cluster only when all of the cluster is written. What the guest does not write of it
//! (head and tail) goes along in the same operation. Whoever gives a guest cluster another entry holds its range lock
//! from looking to changing.

use super::entry::Entry;
use super::freed::Freed;
use super::image::Image;
use super::journal::Change;
use super::map::{Extent, Found};
use super::refcount::Run;
use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::points::Points;
use crate::node::{Kind, Outcome, Request};
use crate::reactor::Handle;
use std::sync::atomic::Ordering;

/// Where a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// Everywhere.
    All,
    /// Only where the image has nothing: it writes whole clusters.
    Missing,
}

impl Aim {
    /// Whether it leaves alone what is there.
    pub(super) fn passes(self, found: Found) -> bool {
        self == Self::Missing && found != Found::Unallocated
    }
}

/// A part of a request, and where it lies in the request's memory.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) at: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) aim: Aim,
}

impl Image {
    /// Writes all of a request.
    pub(super) async fn write(&self, io: &Handle, request: Request, points: &Points) -> Outcome {
        self.write_as(io, request, Aim::All, points).await
    }

    /// Writes a request where it aims.
    pub(super) async fn write_as(&self, io: &Handle, mut request: Request, aim: Aim, points: &Points) -> Outcome {
        let (mut done, mut result) = (0, Ok(()));
        request.memory.enter();
        while done < request.len && result.is_ok() {
            let part = Part { at: done, offset: request.offset + done, len: request.len - done, aim };
            match self.write_part(io, &mut request, part, points).await {
                Ok(len) => done += len,
                Err(error) => result = Err(error),
            }
        }
        request.memory.leave();
        (request.memory, result)
    }

    /// Writes the beginning of a part; returns how many bytes that was.
    async fn write_part(
        &self,
        io: &Handle,
        request: &mut Request,
        part: Part,
        points: &Points,
    ) -> Result<u64, IoError> {
        let extent = self.locate(io, part.offset, part.len).await?;
        match extent.found {
            found if part.aim.passes(found) => Ok(extent.len),
            Found::Data { host, copied: true } => {
                let part = Part { len: extent.len, ..part };
                self.write_data(io, request, part, host, [None, None]).await?;
                Ok(part.len)
            }
            _ if self.compresses(part.offset, part.len) => {
                let part = Part { len: part.len.min(self.geometry.cluster()), ..part };
                request.memory.narrow(part.at, part.len);
                match self.write_compressed(io, part.offset, (&request.memory, part.len), points).await? {
                    true => Ok(part.len),
                    false if self.geometry.extended => self.write_parts(io, request, part, points).await,
                    false => self.write_allocating(io, request, part, points).await,
                }
            }
            _ if self.geometry.extended => self.write_parts(io, request, part, points).await,
            _ => self.write_allocating(io, request, part, points).await,
        }
    }

    /// Writes a part to the data file, with what comes before and after it.
    pub(super) async fn write_data(
        &self,
        io: &Handle,
        request: &mut Request,
        part: Part,
        host: u64,
        around: [Option<Buf>; 2],
    ) -> Result<(), IoError> {
        let [head, tail] = around;
        if let Kind::Zero { .. } = request.kind {
            return self.zero_data(io, request.kind, part, host, [head, tail]).await;
        }
        request.memory.narrow(part.at, part.len);
        let before = head.as_ref().map_or(0, |buf| buf.as_slice().len() as u64);
        if head.is_some() || tail.is_some() {
            request.memory.surround(head, tail);
        }
        let (offset, len) = (host - before, request.memory.len());
        if self.data.get().length() < offset + len {
            // The last cluster of a file may end past its end.
            self.data.get().grow(io, offset + len).await?;
        }
        let memory = std::mem::replace(&mut request.memory, Memory::empty());
        let write = Request { kind: Kind::Write, fua: false, offset, len, memory };
        let (memory, result) = self.data.get().handle(io, write).await;
        request.memory = memory;
        result
    }

    /// The same for zeroes, which take memory nowhere; what is around them are zeroes, too.
    async fn zero_data(
        &self,
        io: &Handle,
        kind: Kind,
        part: Part,
        host: u64,
        around: [Option<Buf>; 2],
    ) -> Result<(), IoError> {
        let [before, after] = around.map(|buf| buf.map_or(0, |buf| buf.as_slice().len() as u64));
        let (offset, len) = (host - before, before + part.len + after);
        let data = self.data.get();
        if data.length() < offset + len {
            data.grow(io, offset + len).await?;
        }
        let zero = Request { kind, fua: false, offset, len, memory: Memory::empty() };
        data.handle(io, zero).await.1
    }

    /// Writes as much of a part as one run of new clusters and one L2 table take.
    async fn write_allocating(
        &self,
        io: &Handle,
        request: &mut Request,
        part: Part,
        points: &Points,
    ) -> Result<u64, IoError> {
        let geometry = self.geometry;
        let first = geometry.cluster_start(part.offset);
        let table_end = (first / geometry.l2_span() + 1).saturating_mul(geometry.l2_span());
        let part = Part { len: part.len.min(table_end - part.offset), ..part };
        let end = part.offset + part.len;
        let _clusters = self.clusters.lock(first..end.next_multiple_of(geometry.cluster())).await;
        let table = self.table_for_change(io, geometry.l1_index(part.offset), points).await?;
        let extent = self.locate(io, part.offset, part.len).await?;
        if part.aim.passes(extent.found) || matches!(extent.found, Found::Data { copied: true, .. }) {
            // Somebody else was faster.
            return Ok(0);
        }
        let part = Part { len: extent.len, ..part };
        let wanted = geometry.clusters(part.offset + part.len - first);
        let run = self.clusters_for(io, &extent, first, wanted).await?;
        let part = Part { len: part.len.min(first + run.clusters * geometry.cluster() - part.offset), ..part };
        if let Err(error) = self.fill(io, request, part, &extent, run).await {
            self.put_unless_used(&extent, run);
            return Err(error);
        }
        let clusters = geometry.clusters(part.offset + part.len - first);
        let host = |number| run.host + number * geometry.cluster();
        let index = |number| geometry.l2_index(first + number * geometry.cluster());
        let before: Vec<u64> = (0..clusters).map(|number| table.word(index(number))).collect();
        let set = || (0..clusters).for_each(|number| table.set(index(number), geometry.data_entry(host(number))));
        let change = Change::of_run(first, clusters, geometry.data_entry(run.host), geometry);
        if let Err(error) = self.note(io, &[change], points, set).await {
            self.put_unless_used(&extent, run);
            return Err(error);
        }
        for (number, word) in (0..).zip(before) {
            self.free_replaced(geometry.decode(word), Some(host(number)), false);
        }
        Ok(part.len)
    }

    /// Clusters to write to: those that a zero cluster has all the same, or new ones.
    async fn clusters_for(&self, io: &Handle, extent: &Extent, first: u64, wanted: u64) -> Result<Run, IoError> {
        match extent.found {
            Found::Zero { host: Some(host), copied: true } => {
                Ok(Run { host: self.geometry.cluster_start(host), clusters: wanted, fresh: false })
            }
            // A guest's offset is the one there.
            _ if self.geometry.external_data => Ok(Run { host: first, clusters: wanted, fresh: false }),
            Found::Invalid => Err(IoError::Io),
            _ => self.take_clusters(io, wanted).await,
        }
    }

    fn put_unless_used(&self, extent: &Extent, run: Run) {
        if !matches!(extent.found, Found::Zero { host: Some(_), copied: true }) && !self.geometry.external_data {
            self.put_clusters_back(run);
        }
    }

    /// Writes new clusters as a whole: the guest's bytes and what was around them before.
    async fn fill(
        &self,
        io: &Handle,
        request: &mut Request,
        part: Part,
        extent: &Extent,
        run: Run,
    ) -> Result<(), IoError> {
        let geometry = self.geometry;
        let before = geometry.in_cluster(part.offset);
        let end = part.offset + part.len;
        let after = self.end_of_cluster(end) - end;
        let zeroes = self.reads_as_zeroes(extent);
        let around = match zeroes && run.fresh {
            true => [None, None],
            false => [
                self.old_content(io, part.offset - before, before, zeroes).await?,
                self.old_content(io, end, after, zeroes).await?,
            ],
        };
        self.write_data(io, request, part, run.host + before, around).await
    }

    /// Where a cluster ends that is written up to `end`: in a data file, which may be no longer than the disk, no later
    /// than that.
    fn end_of_cluster(&self, end: u64) -> u64 {
        let whole = self.geometry.clusters(end) * self.geometry.cluster();
        if self.geometry.external_data { whole.min(self.length().max(end)) } else { whole }
    }

    pub(super) async fn old_content(
        &self,
        io: &Handle,
        offset: u64,
        len: u64,
        zeroes: bool,
    ) -> Result<Option<Buf>, IoError> {
        if len == 0 {
            return Ok(None);
        }
        match zeroes {
            true => Ok(Some(Buf::new(byte_count(len)))),
            false => {
                self.settling.over(io).await;
                self.view().read_bytes(io, offset, len).await.map(Some)
            }
        }
    }

    /// Whether the guest reads zeroes there.
    pub(super) fn reads_as_zeroes(&self, extent: &Extent) -> bool {
        match extent.found {
            Found::Zero { .. } => true,
            Found::Unallocated => !self.backing.is_some(),
            _ => false,
        }
    }

    /// Frees what an entry led to, unless it is `kept`.
    pub(super) fn free_replaced(&self, last: Entry, kept: Option<u64>, discarded: bool) {
        let geometry = self.geometry;
        let punch = discarded && self.punches.load(Ordering::Relaxed);
        match last {
            Entry::Data { host, copied } | Entry::Zero { host: Some(host), copied }
                if Some(host) != kept && !geometry.external_data =>
            {
                // What a snapshot shares keeps its content.
                self.freed.add(Freed { host, clusters: 1, punch: punch && copied });
            }
            Entry::Compressed { host, len } => {
                // Each cluster it touches counts it once.
                let first = geometry.cluster_start(host);
                let clusters = geometry.clusters(host + len - first);
                self.freed.add(Freed { host: first, clusters, punch: false });
            }
            _ => {}
        }
    }
}
