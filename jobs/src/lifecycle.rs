//! From start to end: how a job runs, and how the jobs of a group come to their results together.
//!
//! The order of events is QEMU's: `BLOCK_JOB_*` before `concluded`, members of a group newest first.

use crate::context::JobContext;
use crate::error::JobFailure;
use crate::event::JobEvent;
use crate::group::Group;
use crate::job::Job;
use crate::registry::Registry;
use crate::signal::Signal;
use crate::state::Status;
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// How long jobs that are ready may copy on when all are cancelled, in nanoseconds: a mirror looks for more each 0.1 s.
const CATCH_UP_NS: u64 = 300_000_000;
/// How often it is looked whether they have, in nanoseconds.
const LOOK_NS: u64 = 1_000_000;

impl Registry {
    /// Starts a job that was created; its body first runs when the reactor next runs tasks. Jobs of a transaction are
    /// started last to first.
    pub fn start(&self, job: &Rc<Job>) {
        job.started.set(true);
        job.busy.set(true);
        job.resume();
        job.transit(Status::Running);
        let (registry, job) = (self.clone(), job.clone());
        self.io().spawn(async move {
            let ctx = JobContext::new(job.clone(), registry.io().clone());
            let result = match ctx.pause_point().await {
                Ok(()) => job.driver.clone().run(ctx).await,
                canceled => canceled,
            };
            job.ended.set(true);
            job.busy.set(false);
            *job.failure.borrow_mut() = result.err();
            registry.completed(&job).await;
        });
    }

    /// Cancels a job in any state; with `force`, it has no result even if it is ready. Returns when a job that does not
    /// run is concluded, and at once if it runs. A concluded job is dismissed.
    pub async fn cancel(&self, job: &Rc<Job>, force: bool) {
        match job.status() {
            Status::Concluded => return self.forget(job),
            // Its group has taken it along.
            Status::Null => return,
            _ => {}
        }
        job.request_cancel(force);
        if !job.started.get() {
            self.completed(job).await;
        } else if job.ended.get() && job.is_cancelled() {
            self.abort_group(job).await;
        }
    }

    /// Lets the results of a pending job's group take effect, or fails it if they cannot.
    pub(crate) async fn finalize(&self, group: &Group) {
        group.begin_finalizing();
        for job in group.jobs() {
            if let Err(failure) = job.driver.prepare().await {
                *job.failure.borrow_mut() = Some(failure);
                group.end_finalizing();
                return self.abort_group(&job).await;
            }
        }
        for job in group.jobs() {
            self.finalize_one(&job).await;
        }
        group.end_finalizing();
    }

    /// Cancels all jobs for good and waits until none is left, also for those that are being made. Those that are ready
    /// get a moment for what guests have written before.
    pub async fn cancel_all(&self) {
        self.catch_up().await;
        while let Some(job) = self.jobs().first().cloned() {
            if !job.is_settled() {
                job.settle().await;
                continue;
            }
            self.cancel(&job, true).await;
            job.changed.until(|| matches!(job.status(), Status::Concluded | Status::Null)).await;
        }
    }

    /// Lets jobs that are ready come to their end as far as they do it soon; guests may write on.
    async fn catch_up(&self) {
        let io = self.io();
        let until = io.read_clock().saturating_add(CATCH_UP_NS);
        let is_behind = |job: &Rc<Job>| {
            job.status() == Status::Ready && job.driver.progress().is_some_and(|(done, total)| done < total)
        };
        while self.jobs().iter().any(is_behind) && io.read_clock() < until {
            io.sleep_until(io.read_clock().saturating_add(LOOK_NS)).await;
        }
    }

    async fn completed(&self, job: &Rc<Job>) {
        job.settle_result();
        if job.failure.borrow().is_some() {
            self.abort_group(job).await;
        } else {
            self.succeeded(job).await;
        }
    }

    async fn succeeded(&self, job: &Rc<Job>) {
        job.transit(Status::Waiting);
        let jobs = job.group.jobs();
        if !jobs.iter().all(|member| member.status().is_completed()) {
            return;
        }
        for member in &jobs {
            member.transit(Status::Pending);
            if !member.auto_finalize {
                member.emit(|job| JobEvent::Pending { kind: job.kind, id: job.id.clone() });
            }
        }
        if jobs.iter().all(|member| member.auto_finalize) {
            self.finalize(&job.group).await;
        }
    }

    /// One has failed: no result of the others counts. Whoever comes second leaves it to the first.
    async fn abort_group(&self, job: &Rc<Job>) {
        let group = &job.group;
        if group.aborting.replace(true) {
            return;
        }
        for other in group.jobs().iter().filter(|other| !Rc::ptr_eq(other, job)) {
            other.request_cancel(true);
        }
        group.begin_finalizing();
        // Those that hear of it at once abort before the first is over, as with QEMU.
        self.others_first().await;
        while let Some(member) = group.first() {
            let is_over = || !member.started.get() || member.status().is_completed();
            if !is_over() {
                // None is pending now, so no command can do harm.
                group.end_finalizing();
                member.changed.until(is_over).await;
                group.begin_finalizing();
            }
            self.finalize_one(&member).await;
        }
        group.end_finalizing();
    }

    /// Lets the tasks run that are ready. A task of its own marks their end: the calling one may have been woken for
    /// something else.
    async fn others_first(&self) {
        let mark = Rc::new((Cell::new(false), Signal::default()));
        let reached = mark.clone();
        self.io().spawn(async move {
            next_poll().await;
            reached.0.set(true);
            reached.1.notify();
        });
        mark.1.until(|| mark.0.get()).await;
    }

    async fn finalize_one(&self, job: &Rc<Job>) {
        job.settle_result();
        if job.failure.borrow().is_none() {
            job.driver.commit().await;
        } else {
            job.driver.abort().await;
        }
        job.driver.clean().await;
        if job.started.get() {
            job.emit(|job| match job.is_cancelled() {
                true => JobEvent::Cancelled(job.facts()),
                false => JobEvent::Completed { job: job.facts(), error: job.error_text() },
            });
        }
        job.group.remove(job);
        job.transit(Status::Concluded);
        if job.auto_dismiss || !job.started.get() {
            self.forget(job);
        }
    }
}

impl Job {
    /// Notes a cancel and wakes the body. Ends a user's pause: a job cannot be cancelled asleep.
    fn request_cancel(&self, force: bool) {
        let force = force || !(self.soft_cancel && self.status().is_ready());
        if self.user_paused.get() {
            self.resume_for_user();
        }
        if force || !self.ended.get() {
            self.cancelled.set(true);
            self.forced.set(self.forced.get() || force);
        }
        self.changed.notify();
    }

    /// A cancelled job has failed, and a failed one aborts.
    fn settle_result(&self) {
        if self.is_cancelled() {
            self.failure.borrow_mut().get_or_insert(JobFailure::CANCELED);
        }
        if self.failure.borrow().is_some() {
            self.transit(Status::Aborting);
        }
    }
}

/// Ends when the calling task is next polled.
async fn next_poll() {
    let mut passed = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
