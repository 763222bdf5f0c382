//! What queries tell of jobs: copies of the moment.

use crate::job::{IoStatus, Job, JobKind, Progress};
use crate::state::Status;

/// One entry of `query-jobs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// Where it is in its life.
    pub status: Status,
    /// Work done, in bytes.
    pub current_progress: u64,
    /// Work there is, in bytes.
    pub total_progress: u64,
    /// Why it failed.
    pub error: Option<String>,
}

impl JobInfo {
    pub(crate) fn of(job: &Job) -> Self {
        let Progress { current, total } = job.progress();
        Self {
            id: job.id.clone(),
            kind: job.kind,
            status: job.status(),
            current_progress: current,
            total_progress: total,
            error: job.error_text(),
        }
    }
}

/// One entry of `query-block-jobs`, members in QEMU's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockJobInfo {
    /// What it does; `type` on the wire.
    pub kind: JobKind,
    /// Its id.
    pub device: String,
    /// Work there is, in bytes.
    pub len: u64,
    /// Work done, in bytes.
    pub offset: u64,
    /// Whether its body is at work.
    pub busy: bool,
    /// Whether it waits or will at its next pause point.
    pub paused: bool,
    /// Its limit in bytes per second, 0 for none.
    pub speed: u64,
    /// Whether it waits because of an error.
    pub io_status: IoStatus,
    /// Whether it can be completed.
    pub ready: bool,
    /// Where it is in its life.
    pub status: Status,
    /// Whether its results take effect by themselves.
    pub auto_finalize: bool,
    /// Whether it is forgotten by itself.
    pub auto_dismiss: bool,
    /// Copies that a backup has made because a guest's write needed them: how many, and bytes.
    pub copies_before_writes: Option<(u64, u64)>,
    /// Whether a mirror's target has what guests have changed as soon as that completes, and all else.
    pub actively_synced: Option<bool>,
    /// Whether guests change more than a mirror gets to copy.
    pub is_behind: bool,
    /// Why it failed.
    pub error: Option<String>,
}

impl BlockJobInfo {
    pub(crate) fn of(job: &Job) -> Self {
        let Progress { current, total } = job.progress();
        Self {
            kind: job.kind,
            device: job.id.clone(),
            len: total,
            offset: current,
            busy: job.busy.get(),
            paused: job.wants_pause(),
            speed: job.rate.get().speed(),
            io_status: job.io_status.get(),
            ready: job.status().is_ready(),
            status: job.status(),
            auto_finalize: job.auto_finalize,
            auto_dismiss: job.auto_dismiss,
            copies_before_writes: job.driver.copies_before_writes(),
            actively_synced: job.driver.actively_synced(),
            is_behind: job.driver.is_behind(),
            error: job.error_text(),
        }
    }
}
