//! Replies and events: what they say is noted, and judged where it can be.

use super::errands::Errands;
use super::machine::{Machine, demand};
use super::operator::{Asked, Recorded};
use crate::points::history::Cut;
use tidemark_jobs::{JobEvent, Status};

impl Machine {
    /// Replies first: a job's begin is answered before it can end.
    pub(super) fn listen(&mut self) -> Result<(), String> {
        if let Some(result) = self.operator.asked.as_ref().and_then(|asked| asked.answer.poll()) {
            self.quiet = 0;
            let asked = self.operator.asked.take().expect("it was there");
            let number = asked.number;
            let noted = match (result, asked.doomed) {
                (Ok(()), false) => self.note(asked),
                (Err(error), true) if error.to_string().contains("Abort") => self.undo(asked),
                (Err(_), _) if self.setting.may_fail() => self.undo(asked),
                (result, doomed) => Err(format!("{result:?}, doomed: {doomed}")),
            };
            noted.map_err(|why| format!("transaction {number}: {why}"))?;
        }
        self.listen_to_moves()?;
        let events = std::mem::take(&mut *self.life.events.lock().unwrap());
        events.into_iter().try_for_each(|event| self.hear(&event))
    }

    /// A transaction has been done.
    fn note(&mut self, asked: Asked) -> Result<(), String> {
        let cut = Cut { from: asked.from, to: self.history.tick() };
        for job in self.operator.jobs.iter_mut().filter(|job| job.transaction == asked.number) {
            job.cut = Some(cut);
        }
        for top in &asked.tops {
            self.report.snapshots += 1;
            self.report.under_way += self.under_way.len() as u64;
            let disk = &mut self.disks[top.disk];
            disk.coming.clear();
            disk.chain.push(top.image);
            self.report.longest = self.report.longest.max(disk.chain.len() as u64);
            if top.marks {
                let node = disk.images[top.image].name.clone();
                self.operator.recorded.push(Recorded { node, from: cut });
            }
        }
        self.report.joint += u64::from(asked.tops.iter().any(|top| top.disk != asked.tops[0].disk));
        if let Some(look) = asked.look {
            self.judge_marks(look.disk, &look.node, &look.into, cut)?;
        }
        self.judge_snapshot(asked.number, &asked.tops, cut)
    }

    /// Nothing of a transaction has happened: what was to be put on top is nobody's.
    fn undo(&mut self, asked: Asked) -> Result<(), String> {
        self.report.undone += 1;
        self.operator.jobs.retain(|job| job.transaction != asked.number);
        // The uppermost first.
        for top in asked.tops.iter().rev() {
            let disk = &mut self.disks[top.disk];
            disk.coming.clear();
            let (name, graph) = (disk.images[top.image].name.clone(), self.life.graph.clone());
            let node = graph.find(&name).ok_or_else(|| format!("{name} is gone"))?;
            let door = self.life.served[top.disk].process.node();
            demand(!std::sync::Arc::ptr_eq(&door, &node), || format!("guests come to {name} all the same"))?;
            drop(node);
            let closed = self.aside(|world| graph.close_on(&Errands(world), &name));
            closed.map_err(|error| format!("{name} is not free: {error}"))?;
        }
        Ok(())
    }

    fn hear(&mut self, event: &JobEvent) -> Result<(), String> {
        self.quiet = 0;
        let id = match event {
            JobEvent::StatusChange { id, .. } | JobEvent::Pending { id, .. } | JobEvent::Error { id, .. } => id,
            JobEvent::Completed { job, .. } | JobEvent::Cancelled(job) | JobEvent::Ready(job) => &job.id,
        };
        if self.hear_of_move(id, event)? {
            return Ok(());
        }
        // Of a transaction that had to fail there may be jobs nobody waits for.
        let Some(at) = self.operator.jobs.iter().position(|job| job.id == *id) else { return Ok(()) };
        let job = &mut self.operator.jobs[at];
        match event {
            JobEvent::Completed { error, .. } => job.outcome = Some(error.clone().map_or(Ok(()), Err)),
            JobEvent::StatusChange { status, .. } => {
                job.status = *status;
                match *status {
                    Status::Concluded => self.judge_backup(at)?,
                    Status::Null => drop(self.operator.jobs.remove(at)),
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }
}
