//! Jobs that succeed or fail together: those of a grouped transaction, or one by itself.
//!
//! Only lists them; what follows from it is in `lifecycle`.

use crate::job::Job;
use crate::signal::Signal;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A set of jobs that have one result.
#[derive(Default)]
pub struct Group {
    /// Newest first, the order in which they are finalized. A concluded job is no member any more.
    jobs: RefCell<Vec<Rc<Job>>>,
    /// One has failed and takes the others with it.
    pub(crate) aborting: Cell<bool>,
    /// Results are taking effect; commands wait until they have.
    finalizing: Cell<bool>,
    settled: Signal,
}

impl Group {
    /// A group without jobs.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    pub(crate) fn add(&self, job: &Rc<Job>) {
        self.jobs.borrow_mut().insert(0, job.clone());
    }

    pub(crate) fn remove(&self, job: &Rc<Job>) {
        self.jobs.borrow_mut().retain(|member| !Rc::ptr_eq(member, job));
    }

    pub(crate) fn jobs(&self) -> Vec<Rc<Job>> {
        self.jobs.borrow().clone()
    }

    pub(crate) fn first(&self) -> Option<Rc<Job>> {
        self.jobs.borrow().first().cloned()
    }

    pub(crate) fn begin_finalizing(&self) {
        self.finalizing.set(true);
    }

    pub(crate) fn end_finalizing(&self) {
        self.finalizing.set(false);
        self.settled.notify();
    }

    pub(crate) fn is_finalizing(&self) -> bool {
        self.finalizing.get()
    }

    /// Waits until no results are taking effect.
    pub(crate) async fn settled(&self) {
        self.settled.until(|| !self.is_finalizing()).await;
    }
}
