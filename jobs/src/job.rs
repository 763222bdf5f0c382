//! A job: what is known of it, whatever it does.
//!
//! Belongs to the job thread. Its status changes only along the transition table, and each change is an event.

use crate::context::JobContext;
use crate::error::{JobError, JobFailure};
use crate::event::{JobEvent, JobEventSink, JobFacts};
use crate::group::Group;
use crate::mirror::CopyMode;
use crate::rate::RateLimit;
use crate::signal::Signal;
use crate::state::Status;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;

/// A future of the job thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a job does. All of it runs on the job thread, each at most once per job.
pub trait JobDriver: 'static {
    /// The body. It calls [`JobContext::pause_point`] often, and whatever may take long (a flush of the target) is done
    /// here, where it can be cancelled. Nothing it started may be under way when it returns.
    fn run(self: Rc<Self>, ctx: JobContext) -> LocalFuture<'static, Result<(), JobFailure>>;

    /// Bytes done and bytes in all, if the job knows better than what its context was told.
    fn progress(&self) -> Option<(u64, u64)> {
        None
    }

    /// Copies made because a guest's write needed them: how many, and bytes; `None` for jobs that are no backups.
    fn copies_before_writes(&self) -> Option<(u64, u64)> {
        None
    }

    /// Whether what guests change reaches the target before it completes and nothing else is different; `None` for jobs
    /// that are no mirrors.
    fn actively_synced(&self) -> Option<bool> {
        None
    }

    /// Whether guests change more than the job gets to copy.
    fn is_behind(&self) -> bool {
        false
    }

    /// Changes when what guests change reaches the target.
    ///
    /// # Errors
    /// The job has no such option, or not this change of it.
    fn change(&self, _job: &Job, _mode: CopyMode) -> Result<(), JobError> {
        Err(JobError::Unchangeable)
    }

    /// The work of all of the group is done and the results are about to take effect: does what may fail of that.
    ///
    /// # Errors
    /// Why they cannot: the job, and its group with it, fails.
    fn prepare(&self) -> LocalFuture<'_, Result<(), JobFailure>> {
        Box::pin(async { Ok(()) })
    }

    /// All of the group have succeeded: lets the results take effect.
    fn commit(&self) -> LocalFuture<'_, ()> {
        Box::pin(async {})
    }

    /// The job, or one of its group, has failed or was cancelled, perhaps before it was started: takes back what was done.
    fn abort(&self) -> LocalFuture<'_, ()> {
        Box::pin(async {})
    }

    /// After either of them: lets go of nodes.
    fn clean(&self) -> LocalFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// QEMU's `JobType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// `block-commit`
    Commit,
    /// `block-stream`
    Stream,
    /// `blockdev-mirror`
    Mirror,
    /// `blockdev-backup`
    Backup,
    /// `blockdev-create`
    Create,
    /// `x-fleece`
    Fleece,
}

impl JobKind {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Stream => "stream",
            Self::Mirror => "mirror",
            Self::Backup => "backup",
            Self::Create => "create",
            Self::Fleece => "x-fleece",
        }
    }

    /// Whether the `block-job-*` commands and `BLOCK_JOB_*` events are about it too.
    pub fn is_block_job(self) -> bool {
        !matches!(self, Self::Create | Self::Fleece)
    }
}

/// Whether a job has met an error it waits because of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoStatus {
    /// It has not.
    Ok,
    /// Some I/O failed.
    Failed,
    /// The storage is full.
    NoSpace,
}

impl IoStatus {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::NoSpace => "nospace",
        }
    }
}

/// How to make a job.
#[derive(Clone)]
pub struct JobOptions {
    /// Its id; the registry refuses what is no identifier.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// Bytes per second, 0 for no limit; less is refused.
    pub speed: i64,
    /// Whether its results take effect by themselves.
    pub auto_finalize: bool,
    /// Whether it is forgotten by itself.
    pub auto_dismiss: bool,
    /// Whether a cancel without force ends it successfully once it is ready.
    pub soft_cancel: bool,
    /// Whom it succeeds or fails together with.
    pub group: Option<Rc<Group>>,
}

impl JobOptions {
    /// An unlimited job of its own that finalizes and dismisses itself.
    pub fn new(id: impl Into<String>, kind: JobKind) -> Self {
        Self { id: id.into(), kind, speed: 0, auto_finalize: true, auto_dismiss: true, soft_cancel: false, group: None }
    }
}

/// Work done and to be done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) current: u64,
    pub(crate) total: u64,
}

/// One job.
pub struct Job {
    pub(crate) id: String,
    pub(crate) kind: JobKind,
    pub(crate) auto_finalize: bool,
    pub(crate) auto_dismiss: bool,
    pub(crate) soft_cancel: bool,
    pub(crate) driver: Rc<dyn JobDriver>,
    pub(crate) group: Rc<Group>,
    pub(crate) started: Cell<bool>,
    /// The body has returned.
    pub(crate) ended: Cell<bool>,
    /// The body is at work: it neither sleeps nor pauses.
    pub(crate) busy: Cell<bool>,
    pub(crate) pause_count: Cell<u32>,
    pub(crate) user_paused: Cell<bool>,
    pub(crate) cancelled: Cell<bool>,
    pub(crate) forced: Cell<bool>,
    pub(crate) completing: Cell<bool>,
    pub(crate) io_status: Cell<IoStatus>,
    pub(crate) progress: Cell<Progress>,
    pub(crate) rate: Cell<RateLimit>,
    /// Bytes that guests' writes had copied when the limit last took account of them.
    pub(crate) accounted: Cell<u64>,
    pub(crate) failure: RefCell<Option<JobFailure>>,
    /// Anything of the above has changed.
    pub(crate) changed: Signal,
    status: Cell<Status>,
    events: JobEventSink,
}

impl Job {
    /// A job that is created, and says so. It counts as paused until it is started.
    pub(crate) fn create(options: JobOptions, driver: Rc<dyn JobDriver>, events: JobEventSink) -> Rc<Self> {
        let job = Rc::new(Self {
            id: options.id,
            kind: options.kind,
            auto_finalize: options.auto_finalize,
            auto_dismiss: options.auto_dismiss,
            soft_cancel: options.soft_cancel,
            driver,
            group: options.group.unwrap_or_default(),
            started: Cell::new(false),
            ended: Cell::new(false),
            busy: Cell::new(false),
            pause_count: Cell::new(1),
            user_paused: Cell::new(false),
            cancelled: Cell::new(false),
            forced: Cell::new(false),
            completing: Cell::new(false),
            io_status: Cell::new(IoStatus::Ok),
            progress: Cell::default(),
            rate: Cell::default(),
            accounted: Cell::default(),
            failure: RefCell::default(),
            changed: Signal::default(),
            status: Cell::new(Status::Created),
            events,
        });
        job.group.add(&job);
        job.emit_status();
        job
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it does.
    pub fn kind(&self) -> JobKind {
        self.kind
    }

    /// Where it is in its life.
    pub fn status(&self) -> Status {
        self.status.get()
    }

    /// Whom it succeeds or fails with.
    pub fn group(&self) -> &Rc<Group> {
        &self.group
    }

    /// Whether it was cancelled and has no result.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.get() && self.forced.get()
    }

    /// Goes on to another status.
    ///
    /// # Panics
    /// When the table does not have this transition: a bug of the engine.
    pub(crate) fn transit(&self, next: Status) {
        let from = self.status.replace(next);
        assert!(from.may_become(next), "job '{}' cannot go from {from} to {next}", self.id);
        if from != next {
            self.emit_status();
            self.changed.notify();
        }
    }

    /// One more reason to wait at the next pause point.
    pub(crate) fn pause(&self) {
        self.pause_count.set(self.pause_count.get() + 1);
        self.changed.notify();
    }

    /// One reason less.
    pub(crate) fn resume(&self) {
        self.pause_count.set(self.pause_count.get().saturating_sub(1));
        self.changed.notify();
    }

    /// A user's pause ends, and with it the error it waited for.
    pub(crate) fn resume_for_user(&self) {
        self.io_status.set(IoStatus::Ok);
        self.user_paused.set(false);
        self.resume();
    }

    /// Whether it waits, or will at the next pause point.
    pub(crate) fn wants_pause(&self) -> bool {
        self.pause_count.get() > 0
    }

    /// Whether it is neither being made nor taking effect.
    pub(crate) fn is_settled(&self) -> bool {
        self.status() != Status::Created && !self.group.is_finalizing()
    }

    /// Waits until it may be settled.
    pub(crate) async fn settle(&self) {
        self.changed.until(|| self.status() != Status::Created).await;
        self.group.settled().await;
    }

    /// Reports an event that only block jobs have.
    pub(crate) fn emit(&self, event: impl FnOnce(&Self) -> JobEvent) {
        if self.kind.is_block_job() {
            (self.events)(event(self));
        }
    }

    /// Work done and to be done.
    pub(crate) fn progress(&self) -> Progress {
        let known = self.driver.progress().map(|(current, total)| Progress { current, total });
        known.unwrap_or_else(|| self.progress.get())
    }

    pub(crate) fn facts(&self) -> JobFacts {
        let Progress { current, total } = self.progress();
        let speed = self.rate.get().speed();
        JobFacts { kind: self.kind, id: self.id.clone(), len: total, offset: current, speed }
    }

    pub(crate) fn error_text(&self) -> Option<String> {
        self.failure.borrow().as_ref().map(ToString::to_string)
    }

    fn emit_status(&self) {
        (self.events)(JobEvent::StatusChange { id: self.id.clone(), status: self.status.get() });
    }
}
