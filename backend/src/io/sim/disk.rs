//! One simulated disk: what programs see, what is stable, and by sector every content that may still become stable.
//!
//! Invariant: a sector never becomes stable in an older state than it already is, whatever is written back or flushed
//! when; only a crash takes content back, and never below what a flush or a stable write has promised.

use super::faults::{Faults, Lie};
use super::recorded::Change;
use crate::error::IoError;
use crate::io::op::extent_code;
use crate::io::{Op, OpKind};
use std::collections::BTreeMap;

/// The piece that storage writes in one go.
const SECTOR: usize = 512;

/// A state of a sector that is not stable: the number of the change that made it, and the bytes.
type Version = (u64, Box<[u8]>);

#[derive(Clone)]
pub(super) struct Disk {
    live: Vec<u8>,
    durable: Vec<u8>,
    volatile: BTreeMap<usize, Vec<Version>>,
    changes: u64,
    alignment: usize,
    /// The kernel could not write something back and has told nobody yet.
    unreported: bool,
    /// Since they were taken last.
    recent: Vec<Change>,
}

impl Disk {
    pub(super) fn new(content: Vec<u8>, alignment: u32) -> Self {
        Self {
            durable: content.clone(),
            live: content,
            volatile: BTreeMap::new(),
            changes: 0,
            alignment: alignment as usize,
            unreported: false,
            recent: Vec::new(),
        }
    }

    pub(super) fn live(&self) -> &[u8] {
        &self.live
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// The number of the last change.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// What has changed since this was asked last.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.recent)
    }

    /// Lets an operation take effect; a flush makes stable what it `covers`.
    pub(super) fn run(
        &mut self,
        op: &mut Op,
        fault: Option<IoError>,
        covers: u64,
        faults: &Faults,
        random: &mut fastrand::Rng,
    ) -> Result<u64, IoError> {
        match op.kind {
            // At the end of a file there is nothing to align: Linux says so before it looks.
            OpKind::Read if op.offset >= self.live.len() as u64 => Ok(0),
            OpKind::Read | OpKind::Write { .. } if !self.is_aligned(op) => Err(IoError::Invalid),
            OpKind::Read => self.read(op, fault, faults, random),
            OpKind::Write { stable } => self.write(op, stable, fault, faults, random),
            OpKind::Flush => self.flush(fault, covers, faults, random),
            OpKind::Discard if faults.no_discard => Err(IoError::Unsupported),
            OpKind::Zero { unmap: true } if faults.no_discard => Err(IoError::Unsupported),
            OpKind::Zero { unmap: false } if faults.no_zero => Err(IoError::Unsupported),
            OpKind::Discard if faults.discard_keeps => fault.map_or(Ok(0), Err),
            OpKind::Extent { .. } => fault.map_or_else(|| Ok(self.extent(op.offset, op.len)), Err),
            OpKind::Receive | OpKind::Send => Err(IoError::Invalid),
            OpKind::Grow => {
                if let Some(error) = fault {
                    return Err(error);
                }
                self.grow(usize::try_from(op.offset + op.len).map_err(|_| IoError::NoSpace)?);
                Ok(0)
            }
            OpKind::Cut => {
                if let Some(error) = fault {
                    return Err(error);
                }
                self.cut(usize::try_from(op.offset).unwrap_or(usize::MAX));
                Ok(0)
            }
            OpKind::Discard | OpKind::Zero { .. } => {
                let range = self.inside(op.offset, op.len);
                let len = cut(range.len(), fault.is_some(), SECTOR, random);
                self.change(range.start, &vec![0; len], true);
                fault.map_or(Ok(0), Err)
            }
        }
    }

    /// Blocks of 4 KiB that are all zero count as holes.
    fn extent(&self, offset: u64, len: u64) -> u64 {
        let is_data = |at: u64| self.live[self.inside(at, 4096 - at % 4096)].iter().any(|byte| *byte != 0);
        let (data, end) = (is_data(offset), offset.saturating_add(len));
        let mut next = offset;
        while next < end && is_data(next) == data {
            next = (next / 4096 + 1) * 4096;
        }
        extent_code(next.min(end) - offset, data)
    }

    fn is_aligned(&self, op: &Op) -> bool {
        let unit = self.alignment as u64;
        (op.offset | op.memory.len()).is_multiple_of(unit) && op.memory.is_aligned(self.alignment)
    }

    fn inside(&self, offset: u64, len: u64) -> std::ops::Range<usize> {
        let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.live.len());
        clamp(offset)..clamp(offset.saturating_add(len))
    }

    fn read(
        &self,
        op: &mut Op,
        fault: Option<IoError>,
        faults: &Faults,
        random: &mut fastrand::Rng,
    ) -> Result<u64, IoError> {
        if let Some(error) = fault {
            return Err(error);
        }
        let range = self.inside(op.offset, op.memory.len());
        let len = self.shorten(range.len(), faults, random);
        op.memory.copy_from(0, &self.live[range.start..range.start + len]);
        Ok(len as u64)
    }

    fn write(
        &mut self,
        op: &Op,
        stable: bool,
        fault: Option<IoError>,
        faults: &Faults,
        random: &mut fastrand::Rng,
    ) -> Result<u64, IoError> {
        let whole = op.memory.len();
        let mut data = vec![0; usize::try_from(whole).unwrap_or(0)];
        op.memory.copy_to(0, &mut data);
        if faults.lie == Some(Lie::BitIsFlipped) && faults.hits(random, 64) && !data.is_empty() {
            let at = random.usize(0..data.len());
            data[at] ^= 1 << random.u8(0..8);
        }
        let len = match fault {
            Some(_) => cut(data.len(), true, self.unit(), random),
            None => self.shorten(data.len(), faults, random),
        };
        let start = usize::try_from(op.offset).unwrap_or(usize::MAX);
        let end = start.checked_add(len).ok_or(IoError::Invalid)?;
        if faults.lie != Some(Lie::WriteIsDropped) || !faults.hits(random, 64) {
            self.grow(end);
            self.change(start, &data[..len], false);
        }
        if let Some(error) = fault {
            return Err(error);
        }
        if stable {
            self.settle(start / SECTOR..end.div_ceil(SECTOR), self.changes);
        }
        Ok(if faults.lie == Some(Lie::ShortIsWhole) { whole } else { len as u64 })
    }

    /// Short transfers end at a sector of the file or at a block of direct I/O.
    fn unit(&self) -> usize {
        self.alignment.max(SECTOR)
    }

    fn shorten(&self, len: usize, faults: &Faults, random: &mut fastrand::Rng) -> usize {
        let short = len > self.unit() && faults.hits(random, faults.short);
        let part = cut(len, short, self.unit(), random);
        if short { part.max(self.unit()) } else { part }
    }

    fn flush(
        &mut self,
        fault: Option<IoError>,
        covers: u64,
        faults: &Faults,
        random: &mut fastrand::Rng,
    ) -> Result<u64, IoError> {
        if faults.lie == Some(Lie::FlushDoesNothing) {
            return Ok(0);
        }
        if fault.is_some() {
            self.lose(covers, random);
            self.unreported = true;
            return Ok(0);
        }
        self.settle(0..usize::MAX, covers);
        Ok(0)
    }

    /// The end of a flush: the one that ends first after a failed write-back is told of it, no other is.
    pub(super) fn end_flush(&mut self, result: Result<u64, IoError>) -> Result<u64, IoError> {
        match std::mem::take(&mut self.unreported) {
            true => Err(IoError::Io),
            false => result,
        }
    }

    /// A failed write-back: some of the changes are marked clean and will never be written again, though they can be
    /// read as long as the cache keeps them.
    fn lose(&mut self, covers: u64, random: &mut fastrand::Rng) {
        for versions in self.volatile.values_mut() {
            if random.bool() {
                versions.retain(|(change, _)| *change > covers);
            }
        }
        self.volatile.retain(|_, versions| !versions.is_empty());
    }

    fn grow(&mut self, len: usize) {
        if len > self.live.len() {
            self.live.resize(len, 0);
            self.durable.resize(len, 0);
            self.recent.push(Change::Length(len as u64));
        }
    }

    /// Stable at once, before anything else that is not: the worst that can be.
    fn cut(&mut self, len: usize) {
        if len >= self.live.len() {
            return;
        }
        self.live.truncate(len);
        self.durable.truncate(len);
        self.volatile.retain(|sector, _| *sector < len.div_ceil(SECTOR));
        for (_, bytes) in self.volatile.get_mut(&(len / SECTOR)).into_iter().flatten() {
            *bytes = bytes[..bytes.len().min(len % SECTOR)].into();
        }
        self.recent.push(Change::Length(len as u64));
    }

    /// Changes what programs see, and remembers each sector's new state.
    fn change(&mut self, start: usize, data: &[u8], zeroed: bool) {
        if data.is_empty() {
            return;
        }
        self.changes += 1;
        self.live[start..start + data.len()].copy_from_slice(data);
        let first = start / SECTOR * SECTOR;
        let whole = first..(start + data.len()).next_multiple_of(SECTOR).min(self.live.len());
        self.recent.push(Change::Sectors { offset: first as u64, bytes: self.live[whole].to_vec(), zeroed });
        for sector in start / SECTOR..(start + data.len()).div_ceil(SECTOR) {
            let bytes = &self.live[sector * SECTOR..self.live.len().min((sector + 1) * SECTOR)];
            self.volatile.entry(sector).or_default().push((self.changes, bytes.into()));
        }
    }

    /// Makes sectors stable as they were after the change `until`.
    fn settle(&mut self, sectors: std::ops::Range<usize>, until: u64) {
        for (sector, versions) in self.volatile.range_mut(sectors) {
            let known = versions.partition_point(|(change, _)| *change <= until);
            if let Some((_, bytes)) = versions.drain(..known).next_back() {
                self.durable[sector * SECTOR..sector * SECTOR + bytes.len()].copy_from_slice(&bytes);
            }
        }
        self.volatile.retain(|_, versions| !versions.is_empty());
    }

    /// The cache writes some sectors back because it likes to.
    pub(super) fn write_back(&mut self, random: &mut fastrand::Rng) {
        let sectors: Vec<usize> = self.volatile.keys().copied().filter(|_| random.u8(0..4) == 0).collect();
        for sector in sectors {
            let until = random.u64(0..=self.changes);
            self.settle(sector..sector + 1, until);
        }
    }

    /// The power fails. `survival` from 0 (nothing that is not stable survives) to 4 (all of it).
    pub(super) fn crash(&mut self, random: &mut fastrand::Rng, survival: u32) {
        for (sector, versions) in std::mem::take(&mut self.volatile) {
            if random.u32(0..4) >= survival {
                continue;
            }
            let newest = if survival == 4 { versions.len() - 1 } else { random.usize(0..versions.len()) };
            let bytes = &versions[newest].1;
            self.durable[sector * SECTOR..sector * SECTOR + bytes.len()].copy_from_slice(bytes);
        }
        self.live.copy_from_slice(&self.durable);
        self.unreported = false;
    }
}

/// All of `len`, or a part of it in whole units that may be nothing or, after all, everything.
fn cut(len: usize, short: bool, unit: usize, random: &mut fastrand::Rng) -> usize {
    match short {
        true => (random.usize(0..=len.div_ceil(unit)) * unit).min(len),
        false => len,
    }
}
