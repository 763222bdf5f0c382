//! The events of jobs.
//!
//! Knows their data; which of them come when is up to the jobs.

use tidemark_jobs::{ErrorAction, JobEvent, JobFacts, Operation};

use super::{BlockErrorAction, Event, IoOperationType};
use crate::job::info::{JobStatus, JobType};
use crate::schema::qapi_struct;

qapi_struct! {
    /// A job has come to another state.
    pub struct JobStatusChange "JOB_STATUS_CHANGE-data" {
        /// The job's id.
        "id" id: String,
        /// The new state.
        "status" status: JobStatus,
    }
}

qapi_struct! {
    /// A block job has its result, or failed.
    pub struct BlockJobCompleted "BLOCK_JOB_COMPLETED-data" {
        /// What it did.
        "type" kind: JobType,
        /// The job's id.
        "device" device: String,
        /// The work there was, in bytes.
        "len" len: u64,
        /// The work done, in bytes.
        "offset" offset: u64,
        /// The most bytes it copied per second; 0 if there was no limit.
        "speed" speed: u64,
        /// Why it failed.
        "error" error: Option<String>,
    }
}

qapi_struct! {
    /// A block job was cancelled.
    pub struct BlockJobCancelled "BLOCK_JOB_CANCELLED-data" {
        /// What it did.
        "type" kind: JobType,
        /// The job's id.
        "device" device: String,
        /// The work there was, in bytes.
        "len" len: u64,
        /// The work done, in bytes.
        "offset" offset: u64,
        /// The most bytes it copied per second; 0 if there was no limit.
        "speed" speed: u64,
    }
}

qapi_struct! {
    /// A block job can be completed.
    pub struct BlockJobReady "BLOCK_JOB_READY-data" {
        /// What it does.
        "type" kind: JobType,
        /// The job's id.
        "device" device: String,
        /// The work there is, in bytes.
        "len" len: u64,
        /// The work done so far, in bytes.
        "offset" offset: u64,
        /// The most bytes it copies per second; 0 if there is no limit.
        "speed" speed: u64,
    }
}

qapi_struct! {
    /// The result of a block job waits for a `job-finalize`.
    pub struct BlockJobPending "BLOCK_JOB_PENDING-data" {
        /// What it does.
        "type" kind: JobType,
        /// The job's id.
        "id" id: String,
    }
}

qapi_struct! {
    /// A block job met an error.
    pub struct BlockJobError "BLOCK_JOB_ERROR-data" {
        /// The job's id.
        "device" device: String,
        /// What failed.
        "operation" operation: IoOperationType,
        /// What the job does about it.
        "action" action: BlockErrorAction,
    }
}

impl From<JobEvent> for Event {
    fn from(event: JobEvent) -> Self {
        match event {
            JobEvent::StatusChange { id, status } => {
                Self::JobStatusChange(JobStatusChange { id, status: status.into() })
            }
            JobEvent::Completed { job, error } => {
                let JobFacts { kind, id: device, len, offset, speed } = job;
                Self::BlockJobCompleted(BlockJobCompleted { kind: kind.into(), device, len, offset, speed, error })
            }
            JobEvent::Cancelled(JobFacts { kind, id: device, len, offset, speed }) => {
                Self::BlockJobCancelled(BlockJobCancelled { kind: kind.into(), device, len, offset, speed })
            }
            JobEvent::Ready(JobFacts { kind, id: device, len, offset, speed }) => {
                Self::BlockJobReady(BlockJobReady { kind: kind.into(), device, len, offset, speed })
            }
            JobEvent::Pending { kind, id } => Self::BlockJobPending(BlockJobPending { kind: kind.into(), id }),
            JobEvent::Error { id, operation, action } => {
                Self::BlockJobError(BlockJobError { device: id, operation: operation.into(), action: action.into() })
            }
        }
    }
}

impl From<Operation> for IoOperationType {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Read => Self::Read,
            Operation::Write => Self::Write,
        }
    }
}

impl From<ErrorAction> for BlockErrorAction {
    fn from(action: ErrorAction) -> Self {
        match action {
            ErrorAction::Ignore => Self::Ignore,
            ErrorAction::Report => Self::Report,
            ErrorAction::Stop => Self::Stop,
        }
    }
}
