//! One virtqueue's thread: fetch, submit, complete, publish, and sleep when there is nothing of that to do.
//!
//! A request that maps to one extent of a file goes to the ring from here and comes back here; any other becomes a task.
//! Nothing on that path locks, and it allocates only for tasks. The thread belongs to one export and queue index; rings
//! come and go with the guest's driver. Commands come by mail and are answered when they are true: a stopped ring has
//! no I/O in flight.

mod active;
mod handle;
mod idle;

pub use handle::{Letter, QueueHandle, RingStart};

use super::shared::ExportShared;
use crate::io::Wait;
use crate::mailbox::Mailbox;
use crate::reactor::{Reactor, Waker};
use active::Active;
use idle::Idle;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Cookie of the kick watch; requests have smaller ones.
const KICK: u32 = 1 << 31;

/// How often a ring without a kick descriptor is looked at, in nanoseconds.
const WITHOUT_KICKS: u64 = 1_000_000;

/// Commands to a queue.
pub type Mail = Mailbox<Letter, Waker>;

/// One virtqueue on one reactor, advanced by [`Queue::step`].
pub struct Queue {
    index: u16,
    export: Arc<ExportShared>,
    reactor: Reactor,
    mail: Arc<Mail>,
    active: Option<Active>,
    /// Who waits for the ring to be drained, and whether the thread ends then.
    stopping: Option<Sender<u16>>,
    ending: bool,
    idle: Idle,
}

impl Queue {
    /// Queue `index` of an export, without a ring so far.
    pub fn new(index: u16, export: Arc<ExportShared>, reactor: Reactor) -> Self {
        let mail = Arc::new(Mailbox::new(reactor.bell()));
        let idle = Idle::new(export.polling);
        Self { index, export, reactor, mail, active: None, stopping: None, ending: false, idle }
    }

    /// Where its commands go.
    pub fn mail(&self) -> &Arc<Mail> {
        &self.mail
    }

    /// Whether a command or a task waits for the next step, so that whoever steps several queues in one thread knows.
    pub fn has_work(&self) -> bool {
        self.mail.is_filled() || self.reactor.has_ready_tasks()
    }

    /// One round: commands, fetch, submit and complete, publish; sleeps if there is nothing to do. False once it was
    /// told to end and has drained its ring.
    pub fn step(&mut self) -> bool {
        for letter in self.mail.take() {
            self.obey(letter);
        }
        let fetched = self.active.as_mut().map_or(0, |active| active.fetch(&self.reactor));
        if fetched > 0 {
            self.idle.fetched(fetched, self.reactor.handle().now());
        }
        if self.finish_stopping() {
            return false;
        }
        let wait = self.wait();
        let (mail, active) = (&self.mail, &mut self.active);
        self.reactor.turn(
            wait,
            || mail.is_filled(),
            |done| {
                if let Some(active) = active {
                    active.complete(done);
                }
            },
        );
        let published = self.active.as_mut().map_or(0, Active::publish);
        if published > 0 {
            self.idle.published(published, self.reactor.handle().now());
        }
        true
    }

    /// How this turn may wait. Before it sleeps, the guest is asked for kicks.
    fn wait(&mut self) -> Wait {
        let Some(active) = &mut self.active else { return Wait::Forever };
        let now = self.reactor.handle().now();
        if active.has_unpublished() {
            return Wait::No;
        }
        if !active.can_fetch() {
            return Wait::Forever;
        }
        if self.idle.polls(now) || active.arm_kicks() {
            return Wait::No;
        }
        if active.has_kick() { Wait::Forever } else { Wait::Until(now.saturating_add(WITHOUT_KICKS)) }
    }

    fn obey(&mut self, letter: Letter) {
        match letter {
            Letter::Start(start, reply) => {
                let result = Active::start(self.index, *start, &self.export, &self.reactor);
                // The session waits for the answer; if it does not, there is nobody to tell.
                let _ = reply.send(result.map(|active| self.active = Some(active)));
            }
            Letter::Stop(reply) => self.stop(reply),
            Letter::End => self.ending = true,
            Letter::Memory(table, reply) => {
                if let Some(active) = &mut self.active {
                    active.set_memory(table);
                }
                let _ = reply.send(());
            }
            Letter::Kick(fd) => {
                if let Some(active) = &mut self.active {
                    active.set_kick(fd, self.reactor.handle());
                }
            }
            Letter::Call(fd) => self.active.iter_mut().for_each(|active| active.set_call(fd.clone())),
            Letter::Err(fd) => self.active.iter_mut().for_each(|active| active.set_err(fd.clone())),
            Letter::Enabled(enabled) => {
                self.active.iter_mut().for_each(|active| active.set_enabled(enabled));
            }
        }
    }

    fn stop(&mut self, reply: Sender<u16>) {
        match &mut self.active {
            Some(active) => {
                active.stop_fetching();
                self.stopping = Some(reply);
            }
            None => drop(reply.send(0)),
        }
    }

    /// Answers a stop once the ring is drained; true when the thread is to end.
    fn finish_stopping(&mut self) -> bool {
        if self.ending {
            self.active.iter_mut().for_each(Active::stop_fetching);
        }
        if self.stopping.is_none() && !self.ending {
            return false;
        }
        let drained = self.active.as_ref().is_none_or(Active::is_drained);
        if drained {
            let base = self.active.take().map_or(0, |active| active.end(self.reactor.handle()));
            if let Some(reply) = self.stopping.take() {
                // A session that is gone needs no answer.
                let _ = reply.send(base);
            }
        }
        // A copy that a write has started outlives the write.
        drained && self.ending && !self.reactor.has_tasks()
    }
}
