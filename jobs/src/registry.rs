//! All jobs, by id.
//!
//! Belongs to the job thread; clones are of the same registry. An id is in use from creation until the job is null.

use crate::error::JobError;
use crate::event::JobEventSink;
use crate::job::{Job, JobDriver, JobOptions};
use crate::query::{BlockJobInfo, JobInfo};
use crate::rate::RateLimit;
use crate::signal::Signal;
use crate::state::Status;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tidemark_backend::reactor::Handle;

struct Shared {
    /// Newest first.
    jobs: RefCell<Vec<Rc<Job>>>,
    removed: Signal,
    /// A transaction is being made: the next one begins when it has ended.
    edited: Cell<bool>,
    edits: Signal,
    events: JobEventSink,
    io: Handle,
}

/// The jobs of one engine and the reactor they run on.
#[derive(Clone)]
pub struct Registry(Rc<Shared>);

impl Registry {
    pub(crate) fn new(io: Handle, events: JobEventSink) -> Self {
        Self(Rc::new(Shared {
            jobs: RefCell::default(),
            removed: Signal::default(),
            edited: Cell::new(false),
            edits: Signal::default(),
            events,
            io,
        }))
    }

    /// Waits until no other transaction is under way; the next one waits until the guard is dropped. What one stages
    /// is true only as long as no other changes it.
    pub(crate) async fn edit(&self) -> Editing {
        self.0.edits.until(|| !self.0.edited.get()).await;
        self.0.edited.set(true);
        Editing(self.clone())
    }

    /// The job thread's reactor.
    pub fn io(&self) -> &Handle {
        &self.0.io
    }

    /// Makes a job that waits for [`Registry::start`], [`Registry::cancel`] or [`Registry::fail_early`] by whoever makes
    /// it; everybody else's commands wait until then. Its driver's `abort` and `clean` run if it is cancelled.
    ///
    /// # Errors
    /// An id that is invalid or in use: then there was no job and no event. A negative speed: the job was created and
    /// is null again.
    pub fn create(&self, options: JobOptions, driver: Rc<dyn JobDriver>) -> Result<Rc<Job>, JobError> {
        self.check_id(&options.id)?;
        let speed = u64::try_from(options.speed);
        let job = Job::create(options, driver, self.0.events.clone());
        self.0.jobs.borrow_mut().insert(0, job.clone());
        let Ok(speed) = speed else {
            self.fail_early(&job);
            return Err(JobError::NegativeSpeed);
        };
        let mut rate = RateLimit::default();
        rate.set_speed(speed);
        job.rate.set(rate);
        Ok(job)
    }

    /// Whether a new job may have this id.
    ///
    /// # Errors
    /// It is no identifier, or in use.
    pub fn check_id(&self, id: &str) -> Result<(), JobError> {
        if !is_well_formed(id) {
            return Err(JobError::InvalidId(id.to_owned()));
        }
        match self.find(id) {
            Some(_) => Err(JobError::IdTaken(id.to_owned())),
            None => Ok(()),
        }
    }

    /// Ends a job whose start has failed: it is gone without a result, and its driver hears nothing of it.
    pub fn fail_early(&self, job: &Rc<Job>) {
        debug_assert_eq!(job.status(), Status::Created);
        self.forget(job);
    }

    /// The job of an id.
    pub fn find(&self, id: &str) -> Option<Rc<Job>> {
        self.0.jobs.borrow().iter().find(|job| job.id == id).cloned()
    }

    /// All jobs, newest first.
    pub fn jobs(&self) -> Vec<Rc<Job>> {
        self.0.jobs.borrow().clone()
    }

    /// Answers `query-jobs`.
    pub fn query_jobs(&self) -> Vec<JobInfo> {
        self.jobs().iter().map(|job| JobInfo::of(job)).collect()
    }

    /// Answers `query-block-jobs`.
    pub fn query_block_jobs(&self) -> Vec<BlockJobInfo> {
        self.jobs().iter().filter(|job| job.kind.is_block_job()).map(|job| BlockJobInfo::of(job)).collect()
    }

    /// The job is null, and its id free.
    pub(crate) fn forget(&self, job: &Rc<Job>) {
        job.group.remove(job);
        self.0.jobs.borrow_mut().retain(|other| !Rc::ptr_eq(other, job));
        job.transit(Status::Null);
        self.0.removed.notify();
    }
}

/// The turn of one transaction.
pub(crate) struct Editing(Registry);

impl Drop for Editing {
    fn drop(&mut self) {
        self.0.0.edited.set(false);
        self.0.0.edits.notify();
    }
}

/// A letter first, then letters, digits, `-`, `.`, `_`.
fn is_well_formed(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}
