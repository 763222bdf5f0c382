//! The end of a backup: what it has made is judged, and the chain goes on from there.

use super::{Job, Kind, Outcome, Restored};
use crate::oracle::{SECTOR, decode};
use crate::points::history::{Content, Cut};
use crate::points::machine::{Machine, demand};
use crate::points::site::GARBAGE;
use tidemark_jobs::action::BitmapMode;

impl Machine {
    /// Job number `at` is concluded.
    pub(super) fn conclude(&mut self, at: usize) -> Result<(), String> {
        let job = &self.operator.jobs[at];
        let (disk, kind, id) = (job.disk, job.kind, job.id.clone());
        let (Some(outcome), Some(cut)) = (job.outcome.clone(), job.cut) else {
            return Err(format!("job {id} is concluded without a result: {job:?}"));
        };
        let target = &mut self.site.disks[disk].targets[job.target];
        target.taken = false;
        let file = target.file;
        let left = self.world.under_way(file);
        demand(left == 0, || {
            format!("job {id} ({kind:?}, {outcome:?}) is concluded, and {left} operations on its target are under way")
        })?;
        let whole = self.world.content(file);
        let judged = match &outcome {
            Outcome::Succeeded => {
                self.report.jobs[0] += 1;
                demand(self.world.stable_content(file) == whole, || "it is not stable".into())
                    .and_then(|()| self.judge_restored(at, cut, &whole))
            }
            Outcome::Failed(error) => {
                self.report.jobs[1] += 1;
                demand(self.backup_may_fail(disk, kind), || format!("nothing explains '{error}'"))
            }
            Outcome::Cancelled => {
                self.report.jobs[2] += 1;
                self.judge_fleece(at, cut, &whole)
            }
        };
        judged.map_err(|why| format!("job {id} ({kind:?}, {outcome:?}): {why}"))?;
        self.continue_chain(disk, kind, cut, &outcome, whole);
        Ok(())
    }

    fn backup_may_fail(&self, disk: usize, kind: Kind) -> bool {
        let (faults, target) = (&self.setting.queues.faults, &self.setting.target_faults);
        let reads =
            faults.read_error > 0 || (kind == Kind::Past && (self.is_past_breakable(disk) || target.read_error > 0));
        reads || target.write_error + target.no_space + target.flush_error > 0
    }

    /// The part of a target that is the disk's.
    fn of_disk<'a>(&self, disk: usize, whole: &'a [u8]) -> &'a [u8] {
        let start = usize::try_from(self.site.disks[disk].source.shift).unwrap();
        &whole[start..start + self.setting.disks[disk].sectors * SECTOR]
    }

    fn judge_restored(&mut self, at: usize, cut: Cut, whole: &[u8]) -> Result<(), String> {
        let Job { disk, kind, transaction, .. } = self.operator.jobs[at];
        let bytes = self.of_disk(disk, whole);
        self.report.restores += 1;
        match kind {
            Kind::Past => return self.check_past(disk, 0, bytes),
            Kind::Fleece => return Err("it cannot succeed".into()),
            _ => self.history.check_cut(cut, &[Content { disk, first: 0, bytes }])?,
        }
        if let Some(peer) = self.operator.restored.iter().find(|other| other.transaction == transaction) {
            let contents =
                [Content { disk, first: 0, bytes }, Content { disk: peer.disk, first: 0, bytes: &peer.bytes }];
            self.history.check_cut(cut, &contents).map_err(|why| format!("both disks: {why}"))?;
            let last = |disk: usize| contents.iter().find(|content| content.disk == disk).map_or(Ok(0), last_tag);
            self.ledger.check([last(0)?, last(1)?])?;
            self.report.joint += 1;
        }
        self.operator.restored.push(Restored { transaction, disk, bytes: bytes.to_vec() });
        Ok(())
    }

    /// What was overwritten while the job ran must have been copied, and what was copied must be of its moment.
    fn judge_fleece(&mut self, at: usize, cut: Cut, whole: &[u8]) -> Result<(), String> {
        let Job { disk, kind, aborting: Some(aborting), .. } = self.operator.jobs[at] else { return Ok(()) };
        if kind != Kind::Fleece {
            return Ok(());
        }
        let bytes = self.of_disk(disk, whole);
        let copied = |sector: &[u8]| sector.iter().any(|byte| *byte != GARBAGE);
        let sectors = bytes.chunks(SECTOR).enumerate();
        let there = sectors.clone().filter(|(_, sector)| copied(sector));
        let contents: Vec<_> = there.map(|(first, bytes)| Content { disk, first, bytes }).collect();
        self.history.check_cut(cut, &contents)?;
        self.report.restores += 1;
        for (sector, _) in sectors.filter(|(_, sector)| !copied(sector)) {
            let overwritten = self.history.is_changed_within(disk, sector, cut.to, aborting);
            demand(!overwritten, || format!("sector {sector} was overwritten without having been copied"))?;
        }
        Ok(())
    }

    fn continue_chain(&mut self, disk: usize, kind: Kind, cut: Cut, outcome: &Outcome, whole: Vec<u8>) {
        let chain = &mut self.operator.chains[disk];
        let succeeded = *outcome == Outcome::Succeeded;
        match kind {
            Kind::Full | Kind::Fleece | Kind::Past => return,
            Kind::Base => chain.base = succeeded.then_some(whole),
            Kind::Anew(mode) | Kind::Link(mode) => {
                let is_used = match mode {
                    BitmapMode::Never => false,
                    BitmapMode::OnSuccess => succeeded,
                    BitmapMode::Always => true,
                };
                if is_used {
                    (chain.base, chain.since, chain.loose) = (Some(whole), Some(cut), !succeeded);
                }
            }
        }
        chain.busy = false;
    }
}

fn last_tag(content: &Content<'_>) -> Result<u32, String> {
    let sectors = content.bytes.len() / SECTOR;
    decode(content.first + sectors - 1, &content.bytes[(sectors - 1) * SECTOR..])
}
