//! What the guests send, and whether they are told what they must be told.

use super::{Machine, demand};
use crate::guest::Ended;
use crate::oracle::{SECTOR, content};
use crate::points::history::{ChangeId, Content, End, Moment};
use crate::points::setting::{DISKS, Stack};
use crate::request::{Action, IO_ERROR, OK, Parcel};
use std::ops::Range;
use tidemark_backend::io::sim::Faults;
use tidemark_backend::node::copy_before_write::OnCbwError;

/// Nanoseconds that no change takes on storage that is quick.
const CHANGE_MAX: u64 = 100_000_000;

impl Machine {
    /// A request of any guest.
    pub(super) fn send(&mut self) {
        let disk = self.random.usize(0..DISKS);
        if self.random.u8(0..8) == 0 {
            return self.send_to_past(disk);
        }
        let entry = self.ledger.next_disk().filter(|_| self.random.bool());
        let disk = entry.unwrap_or(disk);
        let queue = self.random.usize(0..self.site.disks[disk].served.guests.len());
        if self.sent >= self.setting.requests || !self.site.disks[disk].served.guests[queue].has_room() {
            return;
        }
        self.sent += 1;
        let parcel = match entry {
            Some(_) => {
                self.ledger.begin(self.sent);
                let last = self.setting.disks[disk].sectors - 1;
                Parcel::new(Action::Write(last..last + 1, self.sent), false)
            }
            None => self.parcel(disk),
        };
        let start = self.begin(disk, &parcel.action);
        self.site.disks[disk].served.guests[queue].send(parcel, start, &mut self.random);
    }

    fn parcel(&mut self, disk: usize) -> Parcel {
        // The last sector is the ledger's.
        let range = self.range(self.setting.disks[disk].sectors - 1);
        let action = match self.random.u8(0..20) {
            0..=4 => Action::Read(range),
            5..=13 => Action::Write(range, self.sent),
            14 => Action::Write(range, 0),
            15 | 16 => Action::Zero(range),
            17 => Action::Discard(range),
            _ => Action::Flush,
        };
        Parcel::new(action, self.random.bool())
    }

    fn range(&mut self, sectors: usize) -> Range<usize> {
        let len = self.random.usize(1..=self.setting.queues.longest.min(sectors));
        let start = self.random.usize(0..=sectors - len);
        start..start + len
    }

    fn begin(&mut self, disk: usize, action: &Action) -> Moment {
        let change = match action {
            Action::Write(range, tag) => self.history.begin(disk, range.clone(), *tag),
            Action::Zero(range) => self.history.begin(disk, range.clone(), 0),
            Action::Discard(range) if self.setting.queues.unmap => self.history.begin(disk, range.clone(), 0),
            _ => return self.history.tick(),
        };
        self.under_way.insert(change, self.world.now());
        change as Moment
    }

    fn send_to_past(&mut self, disk: usize) {
        let range = self.range(self.setting.disks[disk].sectors);
        let Some(reader) = &mut self.site.disks[disk].reader else { return };
        if reader.guests[0].has_room() {
            reader.guests[0].send(Parcel::new(Action::Read(range), false), 0, &mut self.random);
        }
    }

    /// What has ended, judged.
    pub(super) fn collect(&mut self) -> Result<(), String> {
        for disk in 0..DISKS {
            for queue in 0..self.site.disks[disk].served.guests.len() {
                for ended in self.site.disks[disk].served.guests[queue].collect()? {
                    self.quiet = 0;
                    self.report.requests += 1;
                    let what =
                        format!("disk {disk}, queue {queue}, {:?}, status {}", ended.parcel.action, ended.status);
                    self.judge(disk, ended).map_err(|why| format!("{what}: {why}"))?;
                }
            }
            let Some(reader) = &mut self.site.disks[disk].reader else { continue };
            for ended in reader.guests[0].collect()? {
                self.quiet = 0;
                self.report.past += 1;
                let what = format!("the past of disk {disk}, {:?}, status {}", ended.parcel.action, ended.status);
                self.judge_past(disk, &ended).map_err(|why| format!("{what}: {why}"))?;
            }
        }
        Ok(())
    }

    fn judge(&mut self, disk: usize, ended: Ended) -> Result<(), String> {
        let Ended { parcel, start, status, data, .. } = ended;
        let well = status == OK;
        self.report.failed += u64::from(!well);
        let faults: &Faults = &self.setting.queues.faults;
        let change = usize::try_from(start).unwrap();
        let (may_fail, how) = match &parcel.action {
            Action::Read(range) => {
                if well {
                    self.history.check_read(start, Content { disk, first: range.start, bytes: &data })?;
                }
                (faults.read_error > 0, None)
            }
            Action::Write(_, tag) => {
                self.ledger.end(*tag, well);
                (self.setting.change_may_fail(), Some(End::Done))
            }
            Action::Zero(_) => (self.setting.change_may_fail(), Some(End::Done)),
            Action::Discard(_) if self.setting.queues.unmap => (self.setting.change_may_fail(), Some(End::Perhaps)),
            Action::Flush => (faults.flush_error > 0, None),
            _ => (false, None),
        };
        if let Some(how) = how {
            self.check_time(change)?;
            self.history.end(change as ChangeId, if well { how } else { End::Failed });
        }
        demand(well || status == IO_ERROR && may_fail, || "nothing explains the error".into())
    }

    /// A change waits for storage and for nothing else, whatever is copied at that time.
    fn check_time(&mut self, change: ChangeId) -> Result<(), String> {
        let began = self.under_way.remove(&change).unwrap_or_default();
        let took = self.world.now() - began;
        let is_quick = self.setting.queues.faults.long_delay + self.setting.target_faults.long_delay == 0;
        if is_quick {
            self.report.slowest = self.report.slowest.max(took);
        }
        demand(!is_quick || took < CHANGE_MAX, || format!("it took {took} ns, and no operation takes 100 us"))
    }

    /// Judges what a reader has found of what a disk held at the beginning.
    fn judge_past(&self, disk: usize, ended: &Ended) -> Result<(), String> {
        let Action::Read(range) = &ended.parcel.action else { return Ok(()) };
        if ended.status == OK {
            return self.check_past(disk, range.start, &ended.data);
        }
        let faults = &self.setting.queues.faults;
        demand(
            self.is_past_breakable(disk) || faults.read_error > 0 || self.setting.target_faults.read_error > 0,
            || "nothing explains the error".into(),
        )
    }

    /// Whether a failed copy may have cost the past of a disk.
    pub(in crate::points) fn is_past_breakable(&self, disk: usize) -> bool {
        let broken = Stack::Filter { on_error: OnCbwError::BreakSnapshot, timeout_ns: 0 };
        match self.setting.disks[disk].stack {
            stack @ Stack::Filter { on_error: OnCbwError::BreakSnapshot, .. } => {
                stack != broken || self.setting.change_may_fail()
            }
            _ => false,
        }
    }

    /// Judges what is said to be the content of a disk at the beginning.
    pub(in crate::points) fn check_past(&self, disk: usize, first: usize, bytes: &[u8]) -> Result<(), String> {
        for (sector, found) in (first..).zip(bytes.chunks(SECTOR)) {
            let tag = self.site.disks[disk].initial[sector];
            demand(found == content(sector, 1, tag), || {
                format!("sector {sector} was {tag} at the beginning and is {:x?}", &found[..16])
            })?;
        }
        Ok(())
    }
}
