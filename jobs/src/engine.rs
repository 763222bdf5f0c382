//! The job thread: a reactor, its jobs, and a mailbox of what others want done on it.
//!
//! Advanced by [`Engine::step`], as a queue is, so that a simulator can step it. Whatever changes jobs or makes a point in
//! time runs here, one thing at a time between two awaits.

mod handle;

pub use handle::{Answer, EngineHandle};

use crate::event::JobEventSink;
use crate::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
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

/// The mailbox of a thread that may end: a letter that comes too late is dropped, which its sender notices.
struct Mail {
    letters: Mailbox<Letter, Waker>,
    closed: AtomicBool,
}

impl Mail {
    fn send(&self, letter: Letter) {
        self.letters.send(letter);
        // Either we see that it was closed, or whoever closes it sees the letter.
        if self.closed.load(Ordering::SeqCst) {
            self.letters.take();
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.letters.take();
    }
}

/// The job thread's content.
pub struct Engine {
    reactor: Reactor,
    mail: Arc<Mail>,
    registry: Registry,
}

impl Engine {
    /// An engine without jobs on the calling thread.
    pub fn new(reactor: Reactor, events: JobEventSink) -> Self {
        let mail = Arc::new(Mail { letters: Mailbox::new(reactor.bell()), closed: AtomicBool::new(false) });
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
        self.mail.letters.is_filled() || self.reactor.has_ready_tasks()
    }

    /// One round: letters, tasks and I/O; sleeps if there is nothing to do. False once it was told to end.
    pub fn step(&mut self) -> bool {
        for letter in self.mail.letters.take() {
            match letter {
                Letter::Do(edit) => edit(&self.registry),
                Letter::End => return false,
            }
        }
        let mail = &self.mail;
        self.reactor.turn(Wait::Forever, || mail.letters.is_filled(), |_| ());
        true
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.mail.close();
    }
}
