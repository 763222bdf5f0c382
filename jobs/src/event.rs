//! What jobs tell everybody of their own accord.
//!
//! Knows no wire format. The events of one job are reported in the order in which they happened, from the job thread.

use crate::job::JobKind;
use crate::state::Status;
use std::sync::Arc;

/// Something management wants to know about a job. All but the first are about block jobs only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// `JOB_STATUS_CHANGE`.
    StatusChange {
        /// The job's id.
        id: String,
        /// Its new status.
        status: Status,
    },
    /// `BLOCK_JOB_COMPLETED`: it has its result, or failed.
    Completed {
        /// Which job, and how far it came.
        job: JobFacts,
        /// Why it failed.
        error: Option<String>,
    },
    /// `BLOCK_JOB_CANCELLED`.
    Cancelled(JobFacts),
    /// `BLOCK_JOB_READY`: it can be completed.
    Ready(JobFacts),
    /// `BLOCK_JOB_PENDING`: it waits for a `finalize`.
    Pending {
        /// What it does.
        kind: JobKind,
        /// The job's id.
        id: String,
    },
    /// `BLOCK_JOB_ERROR`.
    Error {
        /// The job's id.
        id: String,
        /// What failed.
        operation: Operation,
        /// What the job does about it.
        action: ErrorAction,
    },
}

/// What most events say of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFacts {
    /// What it does.
    pub kind: JobKind,
    /// Its id; `device` on the wire.
    pub id: String,
    /// Its total progress.
    pub len: u64,
    /// Its progress so far.
    pub offset: u64,
    /// Its limit in bytes per second, 0 for none.
    pub speed: u64,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A read.
    Read,
    /// A write.
    Write,
}

/// What a job does about a failed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// It goes on: it tries again, or leaves this out.
    Ignore,
    /// It fails.
    Report,
    /// It pauses until a user resumes it, then tries again.
    Stop,
}

impl Operation {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl ErrorAction {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Report => "report",
            Self::Stop => "stop",
        }
    }
}

/// Takes events; must not block.
pub type JobEventSink = Arc<dyn Fn(JobEvent) + Send + Sync>;
