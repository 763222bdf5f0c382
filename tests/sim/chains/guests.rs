//! What the guests send, and whether they are told what they must be told.

use super::machine::{Machine, demand};
use crate::guest::Ended;
use crate::oracle;
use crate::points::history::{ChangeId, Content, End, Moment};
use crate::points::setting::DISKS;
use crate::request::{Action, IO_ERROR, OK, Parcel};
use std::ops::Range;

impl Machine {
    /// A request of any guest.
    pub(super) fn send(&mut self) {
        let entry = self.ledger.next_disk().filter(|_| self.random.bool());
        let disk = entry.unwrap_or_else(|| self.random.usize(0..DISKS));
        let queue = self.random.usize(0..self.life.served[disk].guests.len());
        if self.requests_left == 0 || !self.life.served[disk].guests[queue].has_room() {
            return;
        }
        self.requests_left -= 1;
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
        self.life.served[disk].guests[queue].send(parcel, start, &mut self.random);
    }

    fn parcel(&mut self, disk: usize) -> Parcel {
        // The last sector is the ledger's.
        let range = self.range(self.setting.disks[disk].sectors - 1);
        let is_late = self.setting.flushes_late && self.has_switched(disk);
        let action = match self.random.u8(0..24) {
            0..12 if is_late => Action::Flush,
            20.. if self.setting.flushes_late && !is_late => Action::Read(range),
            0..=5 => Action::Read(range),
            6..=14 => Action::Write(range, self.sent),
            15 => Action::Write(range, 0),
            16 | 17 => Action::Zero(range),
            18 | 19 => Action::Discard(range),
            _ => Action::Flush,
        };
        Parcel::new(action, self.random.bool())
    }

    /// Whether guests come to an image of whose place at the top nobody has been told yet.
    fn has_switched(&self, disk: usize) -> bool {
        let Some(&coming) = self.disks[disk].coming.last() else { return false };
        let (node, name) = (self.life.served[disk].process.node(), &self.disks[disk].images[coming].name);
        node.name() == name || node.child().is_some_and(|below| below.name() == name)
    }

    /// Some sectors, or whole blocks of 4 KiB.
    fn range(&mut self, sectors: usize) -> Range<usize> {
        let len = self.random.usize(1..=self.setting.queues.longest.min(sectors));
        let start = self.random.usize(0..=sectors - len);
        if self.random.bool() || sectors < 16 {
            return start..start + len;
        }
        let (start, len) = ((start / 8 * 8).min(sectors / 8 * 8 - 8), len.next_multiple_of(8));
        start..start + len.min(sectors / 8 * 8 - start)
    }

    fn begin(&mut self, disk: usize, action: &Action) -> Moment {
        let (range, tag) = match action {
            Action::Write(range, tag) => (range.clone(), *tag),
            Action::Zero(range) => (range.clone(), 0),
            Action::Discard(range) if self.setting.queues.unmap => (range.clone(), 0),
            Action::Flush => return self.oracles[disk].tick(),
            _ => return self.history.tick(),
        };
        let number = self.oracles[disk].begin_change(range.clone(), tag);
        let change = self.history.begin(disk, range, tag);
        self.under_way.insert(change, number);
        change as Moment
    }

    /// What has ended, judged.
    pub(super) fn collect(&mut self) -> Result<(), String> {
        for disk in 0..DISKS {
            for queue in 0..self.life.served[disk].guests.len() {
                for ended in self.life.served[disk].guests[queue].collect()? {
                    self.quiet = 0;
                    self.report.requests += 1;
                    let what =
                        format!("disk {disk}, queue {queue}, {:?}, status {}", ended.parcel.action, ended.status);
                    self.judge(disk, ended).map_err(|why| format!("{what}: {why}"))?;
                }
            }
        }
        Ok(())
    }

    fn judge(&mut self, disk: usize, ended: Ended) -> Result<(), String> {
        let Ended { parcel, start, status, data, .. } = ended;
        let well = status == OK;
        self.report.failed += u64::from(!well);
        let may_fail = match &parcel.action {
            Action::Read(_) => self.setting.queues.faults.read_error > 0,
            _ => self.setting.may_fail(),
        };
        demand(well || status == IO_ERROR && may_fail, || "nothing explains the error".into())?;
        match &parcel.action {
            Action::Read(range) if well => {
                self.history.check_read(start, Content { disk, first: range.start, bytes: &data })?;
            }
            Action::Write(range, tag) => {
                self.ledger.end(*tag, well);
                self.note_change(disk, range, start, well.then_some(End::Done));
            }
            Action::Zero(range) => self.note_change(disk, range, start, well.then_some(End::Done)),
            Action::Discard(range) if self.setting.queues.unmap => {
                self.note_change(disk, range, start, well.then_some(End::Perhaps));
            }
            Action::Flush if well => {
                self.oracles[disk].end_flush(start);
                self.report.flushes += 1;
                self.look_after_flush(disk)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn note_change(&mut self, disk: usize, range: &Range<usize>, start: Moment, how: Option<End>) {
        let change: ChangeId = usize::try_from(start).unwrap();
        let Some(number) = self.under_way.remove(&change) else { return };
        let stable = self.setting.queues.is_stable();
        let end = match how {
            Some(End::Done) => oracle::End::Done { stable },
            _ => oracle::End::Perhaps,
        };
        self.oracles[disk].end_change(range.clone(), number, end);
        self.history.end(change, how.unwrap_or(End::Failed));
    }
}
