//! What is told of jobs, in queries and in events.
//!
//! Knows jobs from outside only.

use tidemark_jobs::{IoStatus, JobKind, Status};

use crate::schema::{qapi_enum, qapi_struct};

qapi_struct! {
    /// A job.
    pub struct JobInfo "JobInfo" {
        /// Its id.
        "id" id: String,
        /// What it does.
        "type" kind: JobType,
        /// Where it is in its life.
        "status" status: JobStatus,
        /// The work done so far, in bytes.
        "current-progress" current_progress: u64,
        /// The work there is, in bytes, as far as it is known.
        "total-progress" total_progress: u64,
        /// Why it failed.
        "error" error: Option<String>,
    }
}

qapi_struct! {
    /// A block job.
    pub struct BlockJobInfo "BlockJobInfo" {
        /// What it does.
        "type" kind: JobType,
        /// Its id.
        "device" device: String,
        /// The work there is, in bytes, as far as it is known.
        "len" len: u64,
        /// The work done so far, in bytes.
        "offset" offset: u64,
        /// Whether it is at work, rather than waiting for something.
        "busy" busy: bool,
        /// Whether it is paused or about to be.
        "paused" paused: bool,
        /// The most bytes it copies per second; 0 if there is no limit.
        "speed" speed: u64,
        /// Whether it is paused because of an error.
        "io-status" io_status: BlockDeviceIoStatus,
        /// Whether it can be completed.
        "ready" ready: bool,
        /// Where it is in its life.
        "status" status: JobStatus,
        /// Whether its result takes effect by itself.
        "auto-finalize" auto_finalize: bool,
        /// Whether it is forgotten by itself.
        "auto-dismiss" auto_dismiss: bool,
        /// Of a mirror: whether the target has everything, and gets what guests change before that completes.
        "actively-synced" actively_synced: Option<bool>,
        /// Of a mirror in the background: guests change more than it copies, so that it does not come to an end. Not in
        /// QEMU.
        "x-behind" behind: Option<bool>,
        /// How many copies a backup has made because a guest's write needed them. Not in QEMU.
        "x-cbw-copies" cbw_copies: Option<u64>,
        /// The bytes of these copies. Not in QEMU.
        "x-cbw-bytes" cbw_bytes: Option<u64>,
        /// Why it failed.
        "error" error: Option<String>,
    }
}

qapi_enum! {
    /// The kinds of job.
    pub enum JobType "JobType" {
        /// `block-commit`
        Commit = "commit",
        /// `block-stream`
        Stream = "stream",
        /// `blockdev-mirror`
        Mirror = "mirror",
        /// `blockdev-backup`
        Backup = "backup",
        /// `blockdev-create`
        Create = "create",
        /// `x-fleece`. Not in QEMU.
        XFleece = "x-fleece",
    }
    unsupported "Job type" ["amend", "snapshot-load", "snapshot-save", "snapshot-delete"]
}

qapi_enum! {
    /// The states of a job.
    pub enum JobStatus "JobStatus" {
        /// It has not begun.
        Created = "created",
        /// It is at work.
        Running = "running",
        /// It waits until it is resumed.
        Paused = "paused",
        /// It can be completed, and goes on until then.
        Ready = "ready",
        /// Paused while ready.
        Standby = "standby",
        /// Its work is done; it waits for the others of its transaction.
        Waiting = "waiting",
        /// Its result waits for a `job-finalize`.
        Pending = "pending",
        /// It has failed or was cancelled.
        Aborting = "aborting",
        /// It is over and waits for a `job-dismiss`.
        Concluded = "concluded",
        /// It is forgotten.
        Null = "null",
    }
}

qapi_enum! {
    /// What a block job waits for.
    pub enum BlockDeviceIoStatus "BlockDeviceIoStatus" {
        /// Nothing: there was no error.
        Ok = "ok",
        /// Some I/O failed.
        Failed = "failed",
        /// The storage is full.
        Nospace = "nospace",
    }
}

impl From<JobKind> for JobType {
    fn from(kind: JobKind) -> Self {
        match kind {
            JobKind::Commit => Self::Commit,
            JobKind::Stream => Self::Stream,
            JobKind::Mirror => Self::Mirror,
            JobKind::Backup => Self::Backup,
            JobKind::Create => Self::Create,
            JobKind::Fleece => Self::XFleece,
        }
    }
}

impl From<Status> for JobStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Created => Self::Created,
            Status::Running => Self::Running,
            Status::Paused => Self::Paused,
            Status::Ready => Self::Ready,
            Status::Standby => Self::Standby,
            Status::Waiting => Self::Waiting,
            Status::Pending => Self::Pending,
            Status::Aborting => Self::Aborting,
            Status::Concluded => Self::Concluded,
            Status::Null => Self::Null,
        }
    }
}

impl From<IoStatus> for BlockDeviceIoStatus {
    fn from(status: IoStatus) -> Self {
        match status {
            IoStatus::Ok => Self::Ok,
            IoStatus::Failed => Self::Failed,
            IoStatus::NoSpace => Self::Nospace,
        }
    }
}

impl From<tidemark_jobs::JobInfo> for JobInfo {
    fn from(info: tidemark_jobs::JobInfo) -> Self {
        Self {
            id: info.id,
            kind: info.kind.into(),
            status: info.status.into(),
            current_progress: info.current_progress,
            total_progress: info.total_progress,
            error: info.error,
        }
    }
}

impl From<tidemark_jobs::BlockJobInfo> for BlockJobInfo {
    fn from(info: tidemark_jobs::BlockJobInfo) -> Self {
        Self {
            kind: info.kind.into(),
            device: info.device,
            len: info.len,
            offset: info.offset,
            busy: info.busy,
            paused: info.paused,
            speed: info.speed,
            io_status: info.io_status.into(),
            ready: info.ready,
            status: info.status.into(),
            auto_finalize: info.auto_finalize,
            auto_dismiss: info.auto_dismiss,
            actively_synced: info.actively_synced,
            behind: info.is_behind.then_some(true),
            cbw_copies: info.copies_before_writes.map(|(copies, _)| copies),
            cbw_bytes: info.copies_before_writes.map(|(_, bytes)| bytes),
            error: info.error,
        }
    }
}
