//! What the control plane reads and writes itself, on the simulated machine and while nobody else takes a step.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_backend::error::{GraphError, IoError};
use tidemark_backend::graph::{Errand, Runner};
use tidemark_backend::io::sim::World;
use tidemark_backend::io::{Buf, Memory, Wait};
use tidemark_backend::node::{Kind, Node, Request, Root};
use tidemark_backend::reactor::{Handle, Reactor};

/// Runs tasks on a reactor of their own.
pub struct Errands<'a>(pub &'a World);

impl Runner for Errands<'_> {
    fn run(&self, errand: Errand) -> Result<(), GraphError> {
        let io = self.0.io(64);
        let port = io.port();
        let mut reactor = Reactor::new(Box::new(io)).unwrap();
        let task = errand(reactor.handle().clone());
        reactor.handle().spawn(task);
        while reactor.has_tasks() {
            reactor.turn(Wait::Forever, || false, |_| ());
            let goes_on = reactor.has_ready_tasks() || self.0.is_awake(port) || self.0.advance();
            assert!(goes_on || !reactor.has_tasks(), "an errand waits for ever");
        }
        Ok(())
    }
}

impl Errands<'_> {
    /// Runs a task that has a result.
    pub fn ask<T: 'static, F: Future<Output = T> + 'static>(&self, task: impl FnOnce(Handle) -> F + 'static) -> T {
        let slot = Rc::new(RefCell::new(None));
        let result = slot.clone();
        let errand = move |io| async move {
            let value = task(io).await;
            *result.borrow_mut() = Some(value);
        };
        self.run(Box::new(move |io| Box::pin(errand(io)))).unwrap();
        slot.take().expect("it has ended")
    }

    /// All of a node.
    pub fn content(&self, node: &Arc<Node>) -> Result<Vec<u8>, IoError> {
        let (node, len) = (node.clone(), node.length());
        self.ask(move |io| async move {
            let memory = Memory::from(Buf::new(usize::try_from(len).unwrap()));
            let read = Request { kind: Kind::Read, fua: false, offset: 0, len, memory };
            let (memory, result) = Root::new(&node).handle(&io, read).await;
            result.map(|()| memory.into_buf().unwrap().as_slice().to_vec())
        })
    }
}
