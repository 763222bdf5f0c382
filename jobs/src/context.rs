//! What a job's body uses: progress, pause points, the speed limit, what to do about errors, sleep.
//!
//! Everything that waits here ends at once when the job is cancelled.

use crate::error::JobFailure;
use crate::event::{ErrorAction, JobEvent, Operation};
use crate::job::{IoStatus, Job};
use crate::state::Status;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use tidemark_backend::error::IoError;
use tidemark_backend::reactor::Handle;

/// What a job does about a failed read or write (`on-source-error`, `on-target-error`, `on-error`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It fails.
    #[default]
    Report,
    /// It goes on.
    Ignore,
    /// It pauses until a user resumes it.
    Stop,
    /// It pauses if the storage is full, and fails otherwise.
    Enospc,
    /// As `Enospc`.
    Auto,
}

impl OnError {
    fn action(self, error: IoError) -> ErrorAction {
        match self {
            Self::Report => ErrorAction::Report,
            Self::Ignore => ErrorAction::Ignore,
            Self::Stop => ErrorAction::Stop,
            Self::Enospc | Self::Auto if error == IoError::NoSpace => ErrorAction::Stop,
            Self::Enospc | Self::Auto => ErrorAction::Report,
        }
    }
}

/// A body's way to its job. Clones are of the same job.
#[derive(Clone)]
pub struct JobContext {
    job: Rc<Job>,
    io: Handle,
}

impl JobContext {
    pub(crate) fn new(job: Rc<Job>, io: Handle) -> Self {
        Self { job, io }
    }

    /// The job thread's reactor.
    pub fn io(&self) -> &Handle {
        &self.io
    }

    /// The job.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Sets how much there is to do, in bytes, what is done included.
    pub fn progress(&self, total: u64) {
        self.update(|_, _| total, |current| current);
    }

    /// So much more has been done.
    pub fn advance(&self, bytes: u64) {
        self.update(|_, total| total, |current| current.saturating_add(bytes));
    }

    /// There is so much more to do.
    pub fn extend(&self, bytes: u64) {
        self.update(|_, total| total.saturating_add(bytes), |current| current);
    }

    fn update(&self, total: impl Fn(u64, u64) -> u64, current: impl Fn(u64) -> u64) {
        let mut progress = self.job.progress.get();
        progress.total = total(progress.current, progress.total);
        progress.current = current(progress.current);
        self.job.progress.set(progress);
    }

    /// Whether the job was cancelled for good: whatever it returns is no result.
    pub fn is_cancelled(&self) -> bool {
        self.job.is_cancelled()
    }

    /// Whether the job was asked to end, softly or for good.
    pub fn is_cancel_requested(&self) -> bool {
        self.job.cancelled.get()
    }

    /// Whether a user wants the ready job completed.
    pub fn is_completing(&self) -> bool {
        self.job.completing.get()
    }

    /// Whether the next pause point will wait. A body first waits for what it has under way.
    pub fn wants_pause(&self) -> bool {
        self.job.wants_pause() && !self.is_cancelled()
    }

    /// Waits as long as the job is paused. For the body itself, not for tasks beside it: a job pauses once.
    ///
    /// # Errors
    /// The job was cancelled for good; what the body returns then.
    pub async fn pause_point(&self) -> Result<(), JobFailure> {
        if self.wants_pause() {
            let job = &self.job;
            let status = job.status();
            job.transit(if status == Status::Ready { Status::Standby } else { Status::Paused });
            self.idle(job.changed.until(|| !job.wants_pause() || job.is_cancelled())).await;
            job.transit(status);
        }
        self.check()
    }

    fn check(&self) -> Result<(), JobFailure> {
        if self.is_cancelled() { Err(JobFailure::CANCELED) } else { Ok(()) }
    }

    /// Waits until the speed limit lets more bytes pass, and takes these from it. Copies that guests' writes have made
    /// meanwhile are taken from it too: those wait for no limit, the job waits for them. It may also pause here.
    ///
    /// # Errors
    /// The job was cancelled for good.
    pub async fn limit(&self, bytes: u64) -> Result<(), JobFailure> {
        loop {
            self.check()?;
            self.account_for_writes();
            let Some(time) = self.job.rate.get().wait_until(self.io.read_clock()) else { break };
            let speed = self.job.rate.get().speed();
            self.sleep_unless(time, || self.job.rate.get().speed() != speed).await;
            self.pause_point().await?;
        }
        self.account(bytes);
        Ok(())
    }

    fn account_for_writes(&self) {
        if let Some((_, bytes)) = self.job.driver.copies_before_writes() {
            self.account(bytes.saturating_sub(self.job.accounted.replace(bytes)));
        }
    }

    fn account(&self, bytes: u64) {
        let mut rate = self.job.rate.get();
        rate.account(bytes, self.io.now());
        self.job.rate.set(rate);
    }

    /// Sleeps for so many nanoseconds, or until something is asked of the job: a pause, a cancel, a completion.
    pub async fn sleep(&self, nanoseconds: u64) {
        self.sleep_unless(self.io.read_clock().saturating_add(nanoseconds), || false).await;
    }

    async fn sleep_unless(&self, deadline: u64, awake: impl Fn() -> bool) {
        let job = &self.job;
        let (cancelled, completing) = (job.cancelled.get(), job.completing.get());
        let asked =
            || awake() || self.wants_pause() || job.cancelled.get() != cancelled || job.completing.get() != completing;
        let until = self.io.sleep_until(deadline);
        let _ = self.idle(self.race(until, || asked() || job.is_cancelled())).await;
    }

    /// Runs `future` unless the job is cancelled for good first; then it is dropped where it is.
    ///
    /// # Errors
    /// The job was cancelled.
    pub async fn unless_cancelled<T>(&self, future: impl Future<Output = T>) -> Result<T, JobFailure> {
        self.race(future, || self.is_cancelled()).await.ok_or(JobFailure::CANCELED)
    }

    /// `None` if the condition came true before the future ended.
    async fn race<T>(&self, future: impl Future<Output = T>, condition: impl Fn() -> bool) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if condition() {
                return Poll::Ready(None);
            }
            self.job.changed.register(cx.waker());
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    async fn idle<T>(&self, future: impl Future<Output = T>) -> T {
        self.job.busy.set(false);
        let result = future.await;
        self.job.busy.set(true);
        result
    }

    /// Applies a policy to a failed operation: reports it, and for [`ErrorAction::Stop`] has the next pause point wait
    /// for a user. For [`ErrorAction::Report`] the body returns the error.
    pub fn on_error(&self, policy: OnError, operation: Operation, error: IoError) -> ErrorAction {
        let action = policy.action(error);
        let job = &self.job;
        job.emit(|job| JobEvent::Error { id: job.id.clone(), operation, action });
        if action == ErrorAction::Stop {
            if !job.user_paused.replace(true) {
                job.pause();
            }
            if job.io_status.get() == IoStatus::Ok {
                job.io_status.set(if error == IoError::NoSpace { IoStatus::NoSpace } else { IoStatus::Failed });
            }
        }
        action
    }

    /// The job can be completed from now on, and stays so.
    pub fn ready(&self) {
        self.job.transit(Status::Ready);
        self.job.emit(|job| JobEvent::Ready(job.facts()));
    }
}
