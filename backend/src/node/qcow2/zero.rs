//! Zeroes and discards: whole clusters by their entries, what is left by writing.
//!
//! A cluster that is all zero needs none of its own; version 2 cannot say so of one with a backing file. A discard is
//! advice: the parts of clusters at its ends are left alone, and what it takes away reads as zeroes afterwards, never as
//! the backing file's content. So it does above the backing file that the header names, too, if the image was opened
//! without it: a backup is written like that and read with it.

use super::entry::Entry;
use super::header::bits;
use super::image::Image;
use super::journal::{self, Change};
use super::l2::Pin;
use super::map::Found;
use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::points::Points;
use crate::node::{Kind, Request};
use crate::reactor::Handle;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// What becomes of whole clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They read as zeroes; their space may go.
    Unmap,
    /// They read as zeroes and keep their space.
    Keep,
    /// They are not needed.
    Discard,
    /// Those of which the image has nothing read as zeroes; the others stay.
    Populate,
}

impl Image {
    /// Makes a range read as zeroes.
    pub(super) async fn zero(
        &self,
        io: &Handle,
        offset: u64,
        len: u64,
        unmap: bool,
        points: &Points,
    ) -> Result<(), IoError> {
        let end = offset + len;
        let (first, last) = (self.whole_from(offset), self.whole_until(end));
        if first >= last {
            return self.zero_part(io, offset, end, points).await;
        }
        self.zero_part(io, offset, first, points).await?;
        self.zero_raw(io, first, last, unmap).await?;
        self.each_table(io, first, last, if unmap { Fate::Unmap } else { Fate::Keep }, points).await?;
        self.zero_part(io, last, end, points).await
    }

    /// Takes whole clusters of a range away.
    pub(super) async fn discard(&self, io: &Handle, offset: u64, len: u64, points: &Points) -> Result<(), IoError> {
        let (first, last) = (self.whole_from(offset), self.whole_until(offset + len));
        if first >= last || self.keeps_backing_content() {
            return Ok(());
        }
        self.zero_raw(io, first, last, true).await?;
        self.each_table(io, first, last, Fate::Discard, points).await
    }

    /// Zeroes whole clusters of a data file that is the guest's disk byte for byte, whatever tables say.
    async fn zero_raw(&self, io: &Handle, first: u64, last: u64, unmap: bool) -> Result<(), IoError> {
        if !self.geometry.external_data || self.header().autoclear & bits::AUTOCLEAR_RAW_DATA == 0 {
            return Ok(());
        }
        let end = last.min(self.length());
        self.data.get().grow(io, end).await?;
        let (kind, len) = (Kind::Zero { unmap }, end.saturating_sub(first));
        self.data.get().handle(io, Request { kind, fua: false, offset: first, len, memory: Memory::empty() }).await.1
    }

    /// Gives the space of clusters back that have lost their entries, in a data file: it is at once nobody's there, for
    /// a cluster of the guest's has one place only. Whoever takes it again waits for the range lock that is held here.
    pub(super) async fn punch_apart(&self, io: &Handle, lost: impl Iterator<Item = (u64, Entry)>) {
        if !self.geometry.external_data || !self.punches.load(Ordering::Relaxed) {
            return;
        }
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (cluster, before) in lost {
            let place = cluster * self.geometry.cluster()..(cluster + 1) * self.geometry.cluster();
            let (Entry::Data { host, .. } | Entry::Zero { host: Some(host), .. }) = before else { continue };
            match runs.last_mut().filter(|last| last.end == place.start) {
                // An entry that leads elsewhere says nothing of what is there.
                _ if host != place.start => {}
                Some(last) => last.end = place.end,
                None => runs.push(place),
            }
        }
        for Range { start, end } in runs {
            let len = end.min(self.data.get().length()).saturating_sub(start);
            let discard = Request { kind: Kind::Discard, fua: false, offset: start, len, memory: Memory::empty() };
            // Advice: storage that does not take it keeps the space.
            let _ = self.data.get().handle(io, discard).await;
        }
    }

    /// Version 2 has no zero clusters: one without an entry shows the backing file's content.
    fn keeps_backing_content(&self) -> bool {
        self.geometry.version < 3 && self.shows_another()
    }

    /// Whether a cluster without an entry shows the content of another image, now or when it is opened with the one that
    /// its header names.
    pub(super) fn shows_another(&self) -> bool {
        self.backing.is_some() || self.header().backing.is_some()
    }

    /// The first cluster that is whole from `offset` on.
    fn whole_from(&self, offset: u64) -> u64 {
        self.geometry.clusters(offset) * self.geometry.cluster()
    }

    /// Where whole clusters before `end` end; the last one of the disk may be short.
    fn whole_until(&self, end: u64) -> u64 {
        match end == self.length() {
            true => self.whole_from(end),
            false => self.geometry.cluster_start(end),
        }
    }

    /// Zeroes of less than a cluster: written, unless they are there.
    async fn zero_part(&self, io: &Handle, offset: u64, end: u64, points: &Points) -> Result<(), IoError> {
        let mut at = offset;
        while at < end {
            let extent = self.locate(io, at, end - at).await?;
            let len = extent.len;
            let hidden = extent.found != Found::Unallocated || !self.shows_another();
            if !(hidden && self.reads_as_zeroes(&extent)) {
                let memory = Memory::from(Buf::new(byte_count(len)));
                let write = Request { kind: Kind::Write, fua: false, offset: at, len, memory };
                self.write(io, write, points).await.1?;
            }
            at += len;
        }
        Ok(())
    }

    /// Gives whole clusters their fate.
    pub(super) async fn each_table(
        &self,
        io: &Handle,
        first: u64,
        last: u64,
        fate: Fate,
        points: &Points,
    ) -> Result<(), IoError> {
        let span = self.geometry.l2_span();
        let mut at = first;
        while at < last {
            let end = ((at / span + 1).saturating_mul(span)).min(last);
            self.change_entries(io, at, end, fate, points).await?;
            at = end;
        }
        Ok(())
    }

    /// Gives the clusters of one L2 table their fate.
    async fn change_entries(
        &self,
        io: &Handle,
        first: u64,
        last: u64,
        fate: Fate,
        points: &Points,
    ) -> Result<(), IoError> {
        let geometry = self.geometry;
        let index = geometry.l1_index(first);
        let without_table = !self.shows_another() && self.tables.l1(index) == 0;
        if without_table {
            return Ok(());
        }
        if geometry.version < 3 && fate != Fate::Discard {
            return self.zero_old(io, first, last, points).await;
        }
        let _clusters = self.clusters.lock(first..last).await;
        let table = self.table_for_change(io, index, points).await?;
        if geometry.extended {
            return self.change_parts(io, &table, first..last, fate, points).await;
        }
        let mut at = first;
        while at < last {
            let end = last.min(at.saturating_add(journal::MOST as u64 * geometry.cluster()));
            self.change_piece(io, &table, at..end, fate, points).await?;
            at = end;
        }
        Ok(())
    }

    /// As many clusters as are noted in one step.
    async fn change_piece(
        &self,
        io: &Handle,
        table: &Pin<'_>,
        clusters: Range<u64>,
        fate: Fate,
        points: &Points,
    ) -> Result<(), IoError> {
        let geometry = self.geometry;
        let changed = |at: u64| {
            let (index, before) = (geometry.l2_index(at), geometry.decode(table.word(geometry.l2_index(at))));
            self.word_after(before, fate).map(|word| (at >> geometry.cluster_bits, index, before, word))
        };
        let changed: Vec<_> = clusters.step_by(byte_count(geometry.cluster())).filter_map(changed).collect();
        let mut changes: Vec<Change> = Vec::new();
        for (cluster, _, _, word) in &changed {
            let longer = changes.last().and_then(|last| last.with(*cluster, *word, geometry));
            if longer.is_some() {
                changes.pop();
            }
            changes.push(longer.unwrap_or(Change { first: *cluster, count: 1, word: *word, step: 0 }));
        }
        let set = || changed.iter().for_each(|(_, index, _, word)| table.set(*index, *word));
        // In an external data file there is nothing to be freed.
        let is_dropped = |before| before == Entry::Invalid && !geometry.external_data;
        let dropped = changed.iter().find(|(_, _, before, _)| is_dropped(*before));
        let dropped = dropped.map(|(_, index, _, _)| Self::dropped(table.word(*index)));
        self.note(io, &changes, points, set).await?;
        dropped.into_iter().for_each(|dropped| self.found_harmless(&dropped));
        if matches!(fate, Fate::Unmap | Fate::Discard) {
            self.punch_apart(io, changed.iter().map(|(cluster, _, before, _)| (*cluster, *before))).await;
        }
        for (_, _, before, word) in changed {
            let kept = if let Entry::Zero { host, .. } = geometry.decode(word) { host } else { None };
            self.free_replaced(before, kept, fate != Fate::Keep);
        }
        Ok(())
    }

    /// The entry of a cluster with this fate; `None` if it may stay as it is.
    fn word_after(&self, before: Entry, fate: Fate) -> Option<u64> {
        let geometry = self.geometry;
        let zero = if geometry.version < 3 { 0 } else { geometry.zero_entry(None) };
        match before {
            Entry::Unallocated if fate == Fate::Populate => Some(zero),
            _ if fate == Fate::Populate => None,
            Entry::Unallocated if !self.shows_another() => None,
            Entry::Zero { host: None, .. } => None,
            Entry::Zero { host: Some(_), .. } if fate == Fate::Keep => None,
            Entry::Data { host, copied: true } if fate == Fate::Keep => Some(geometry.zero_entry(Some(host))),
            _ => Some(zero),
        }
    }

    /// Version 2: clusters without a backing file lose their entries, others are written.
    async fn zero_old(&self, io: &Handle, first: u64, last: u64, points: &Points) -> Result<(), IoError> {
        if self.shows_another() {
            let mut at = first;
            while at < last {
                let end = (at + self.geometry.cluster()).min(last).min(self.length());
                self.zero_part(io, at, end, points).await?;
                at += self.geometry.cluster();
            }
            return Ok(());
        }
        Box::pin(self.each_table(io, first, last, Fate::Discard, points)).await
    }
}
