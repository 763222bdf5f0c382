//! Replies and events: what they say is noted, and judged where it can be.

use super::{Asked, Intent, Outcome};
use crate::points::history::Cut;
use crate::points::machine::Machine;
use tidemark_jobs::{JobEvent, Status};

impl Machine {
    /// Replies first: a job's begin is answered before it can end.
    pub(in crate::points) fn listen(&mut self) -> Result<(), String> {
        let mut at = 0;
        while at < self.operator.asked.len() {
            let Some(result) = self.operator.asked[at].answer.poll() else {
                at += 1;
                continue;
            };
            self.quiet = 0;
            let asked = self.operator.asked.remove(at);
            match (result, asked.doomed) {
                (Ok(()), None) => self.note(asked)?,
                (Err(error), Some(text)) if error.to_string().contains(text) => {}
                (result, doomed) => {
                    return Err(format!("transaction {}: {result:?} instead of {doomed:?}", asked.number));
                }
            }
        }
        let before = self.operator.commands.len();
        self.operator.commands.retain(|answer| answer.poll().is_none());
        if self.operator.commands.len() < before {
            self.quiet = 0;
        }
        let events = std::mem::take(&mut *self.site.events.lock().unwrap());
        events.into_iter().try_for_each(|event| self.hear(&event))
    }

    /// A transaction has been done.
    fn note(&mut self, asked: Asked) -> Result<(), String> {
        let cut = Cut { from: asked.from, to: self.history.tick() };
        self.note_point();
        for job in self.operator.jobs.iter_mut().filter(|job| job.transaction == asked.number) {
            job.cut = Some(cut);
        }
        for intent in asked.intents {
            match intent {
                Intent::Watch(disk) => self.begin_watch(disk, cut),
                Intent::Look { disk, into, clear, toggle } => self.look(disk, into, [clear, toggle], cut)?,
                Intent::Sibling { disk, into, of } => self.look_together(disk, into, of, cut)?,
                Intent::LookAtChain { disk, into } => self.look_at_chain(disk, into, cut)?,
                Intent::Clear(disk) => {
                    let chain = &mut self.operator.chains[disk];
                    (chain.exists, chain.base, chain.since, chain.loose) = (true, None, Some(cut), false);
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, event: &JobEvent) -> Result<(), String> {
        self.quiet = 0;
        let id = match event {
            JobEvent::StatusChange { id, .. } | JobEvent::Pending { id, .. } | JobEvent::Error { id, .. } => id,
            JobEvent::Completed { job, .. } | JobEvent::Cancelled(job) | JobEvent::Ready(job) => &job.id,
        };
        // Of a transaction that had to fail there may be jobs nobody waits for.
        let Some(at) = self.operator.jobs.iter().position(|job| job.id == *id) else { return Ok(()) };
        let job = &mut self.operator.jobs[at];
        match event {
            JobEvent::Completed { error: Some(error), .. } => job.outcome = Some(Outcome::Failed(error.clone())),
            JobEvent::Completed { job: facts, .. } => {
                if facts.offset != facts.len {
                    return Err(format!("job {id} has succeeded with {} of {} bytes", facts.offset, facts.len));
                }
                job.outcome = Some(Outcome::Succeeded);
            }
            JobEvent::Cancelled(_) => job.outcome = Some(Outcome::Cancelled),
            JobEvent::StatusChange { status, .. } => {
                job.status = *status;
                if *status == Status::Aborting {
                    // Only now its writes are let go of.
                    job.aborting = Some(self.history.tick());
                }
                if *status == Status::Concluded {
                    self.conclude(at)?;
                }
                if *status == Status::Null {
                    self.operator.jobs.remove(at);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
