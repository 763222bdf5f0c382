//! What the control plane has to read or write itself: a task that runs to its end on a ring of its own.
//!
//! Opening and closing an image takes I/O, and whoever opens and closes nodes has no ring. Knows no images.

use crate::error::GraphError;
use crate::io::{FileTable, Uring, Wait, Workers};
use crate::reactor::{Handle, Reactor};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

/// A task, made for a ring.
pub type Errand = Box<dyn FnOnce(Handle) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Runs tasks to their end, one at a time.
pub trait Runner {
    /// Runs a task.
    ///
    /// # Errors
    /// The system has no ring for it.
    fn run(&self, errand: Errand) -> Result<(), GraphError>;
}

/// A ring of the kernel's for each task.
pub struct KernelRing {
    files: Arc<FileTable>,
    workers: Arc<Workers>,
}

impl KernelRing {
    /// Rings over these files.
    pub fn new(files: Arc<FileTable>, workers: Arc<Workers>) -> Self {
        Self { files, workers }
    }
}

impl Runner for KernelRing {
    fn run(&self, errand: Errand) -> Result<(), GraphError> {
        let ring = Uring::new(self.files.clone(), self.workers.clone())?;
        let mut reactor = Reactor::new(Box::new(ring)).map_err(|error| GraphError::Uring(error.to_string()))?;
        let task = errand(reactor.handle().clone());
        reactor.handle().spawn(task);
        while reactor.has_tasks() {
            reactor.turn(Wait::Forever, || false, |_| ());
        }
        Ok(())
    }
}

/// Runs a task that has a result.
///
/// # Errors
/// As [`Runner::run`].
pub(super) fn run<T: 'static, F: Future<Output = T> + 'static>(
    runner: &dyn Runner,
    task: impl FnOnce(Handle) -> F + 'static,
) -> Result<T, GraphError> {
    let slot = Rc::new(RefCell::new(None));
    let result = slot.clone();
    runner.run(Box::new(move |io| {
        Box::pin(async move {
            let value = task(io).await;
            *result.borrow_mut() = Some(value);
        })
    }))?;
    slot.take().ok_or_else(|| GraphError::Uring("A task of the control plane has not ended".into()))
}
