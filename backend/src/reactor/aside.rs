//! Work that takes a processor for long, done by another thread while this one goes on.

use super::Handle;
use super::promise::promise;

impl Handle {
    /// What `work` gives, computed where it keeps no other task of this thread waiting; `None` if it panicked. If the
    /// future is dropped the work goes on for nobody.
    pub async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (ticket, kept) = promise();
        self.0.io.borrow_mut().offload(Box::new(move || ticket.keep(work())));
        kept.await
    }
}

#[cfg(test)]
mod tests {
    use crate::io::sim::World;
    use crate::io::{FileTable, Uring, Wait, Workers};
    use crate::reactor::Reactor;
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    fn real() -> Reactor {
        Reactor::new(Box::new(Uring::new(Arc::new(FileTable::default()), Workers::new()).unwrap())).unwrap()
    }

    /// What `work` gives, run aside by a task of this reactor.
    fn aside<T: Send + 'static>(reactor: &mut Reactor, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (io, slot) = (reactor.handle().clone(), Rc::new(Cell::new(None)));
        let ended = slot.clone();
        reactor.handle().spawn(async move { ended.set(Some(io.aside(work).await)) });
        loop {
            if let Some(ended) = slot.take() {
                return ended;
            }
            reactor.turn(Wait::Forever, || false, |_| ());
        }
    }

    #[test]
    fn other_tasks_of_the_thread_go_on_meanwhile() {
        let mut reactor = real();
        let (sender, receiver) = channel();
        reactor.handle().spawn(async move { sender.send(7).unwrap() });
        // Whoever waits for the other task in its own thread waits for ever.
        let patience = Duration::from_secs(60);
        assert_eq!(aside(&mut reactor, move || receiver.recv_timeout(patience)), Some(Ok(7)));
    }

    #[test]
    fn work_that_panics_is_told_from_work_that_ends_and_others_go_on() {
        let mut reactor = real();
        for _ in 0..10 {
            assert_eq!(aside(&mut reactor, || -> u8 { panic!("by intent") }), None);
        }
        assert_eq!(aside(&mut reactor, || 7), Some(7));
    }

    #[test]
    fn in_a_simulated_machine_it_is_done_by_the_only_thread() {
        let mut reactor = Reactor::new(Box::new(World::new(1).io(8))).unwrap();
        let here = std::thread::current().id();
        assert_eq!(aside(&mut reactor, || std::thread::current().id()), Some(here));
    }
}
