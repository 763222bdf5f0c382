//! The job thread: a reactor, its jobs, and a mailbox of what others want done on it.
//!
//! Advanced by [`Engine::step`], as a queue is, so that a simulator can step it. Whatever changes jobs or makes a point in
//! time runs here, one thing at a time between two awaits.

mod handle;

pub use handle::{Answer, EngineHandle};

use crate::event::JobEventSink;
use crate::registry::Registry;
use std::sync::Arc;
use tidemark_backend::io::Wait;
use tidemark_backend::mailbox::Mailbox;
use tidemark_backend::reactor::{Reactor, Waker};

/// What others ask of the job thread.
enum Letter {
    /// Run this.
    Do(Box<dyn FnOnce(&Registry) + Send>),
    /// End after this turn. Jobs that still run stay where they are.
    End,
}

type Mail = Mailbox<Letter, Waker>;

/// The job thread's content.
pub struct Engine {
    reactor: Reactor,
    mail: Arc<Mail>,
    registry: Registry,
}

impl Engine {
    /// An engine without jobs on the calling thread.
    pub fn new(reactor: Reactor, events: JobEventSink) -> Self {
        let mail = Arc::new(Mailbox::new(reactor.bell()));
        let registry = Registry::new(reactor.handle().clone(), events);
        Self { reactor, mail, registry }
    }

    /// The jobs, for whoever is on this thread.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether a letter or a task waits for the next step, so that whoever steps several engines and queues in one
    /// thread knows.
    pub fn has_work(&self) -> bool {
        self.mail.is_filled() || self.reactor.has_ready_tasks()
    }

    /// One round: letters, tasks and I/O; sleeps if there is nothing to do. False once it was told to end.
    pub fn step(&mut self) -> bool {
        for letter in self.mail.take() {
            match letter {
                Letter::Do(edit) => edit(&self.registry),
                Letter::End => return false,
            }
        }
        let mail = &self.mail;
        self.reactor.turn(Wait::Forever, || mail.is_filled(), |_| ());
        true
    }
}
