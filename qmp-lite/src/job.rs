//! Commands about jobs: starting, steering and listing them.
//!
//! Knows both families of verbs, `job-*` and `block-job-*`, and that they are answered on the job thread; knows no
//! states. Starting a job is a transaction of one action.

pub mod backup;
mod drive_backup;
pub mod info;
mod mirror;

use tidemark_jobs::action::Action;
use tidemark_jobs::mirror::CopyMode;
use tidemark_jobs::{Command, Family, JobError};

use crate::command::declare_commands;
use crate::context::Context;
use crate::error::{ErrorClass, QmpError};
use crate::schema::{Empty, qapi_enum, qapi_struct, qapi_union};
use crate::transaction;
use backup::BlockdevBackup;
pub(crate) use drive_backup::DriveBackup;
use info::{BlockJobInfo, JobInfo, JobType};
use mirror::{BlockdevMirror, DriveMirror};

declare_commands! {
    /// Copies a node as it is now to another node, while guests go on writing.
    "blockdev-backup" => blockdev_backup: (BlockdevBackup) -> Empty;
    /// Copies a node as it is now to a file, while guests go on writing.
    "drive-backup" => drive_backup: (DriveBackup) -> Empty;
    /// Copies a node to another one, which keeps up with it until it takes its place.
    "blockdev-mirror" => blockdev_mirror: (BlockdevMirror) -> Empty;
    /// Copies a node to a file, which keeps up with it until it takes its place.
    "drive-mirror" => drive_mirror: (DriveMirror) -> Empty;
    /// Lists the jobs, newest first.
    "query-jobs" => query_jobs: (Empty) -> Vec<JobInfo>;
    /// Lists the block jobs, newest first.
    "query-block-jobs" => query_block_jobs: (Empty) -> Vec<BlockJobInfo>;
    /// Has a job wait as soon as it can.
    "job-pause" => job_pause: (JobId) -> Empty;
    /// Has a job go on that was paused by a user or because of an error.
    "job-resume" => job_resume: (JobId) -> Empty;
    /// Ends a job without a result, also one that is paused or ready.
    "job-cancel" => job_cancel: (JobId) -> Empty;
    /// Ends a ready job with its result.
    "job-complete" => job_complete: (JobId) -> Empty;
    /// Lets the result of a pending job, and of all jobs that it succeeds together with, take effect.
    "job-finalize" => job_finalize: (JobId) -> Empty;
    /// Forgets a concluded job.
    "job-dismiss" => job_dismiss: (JobId) -> Empty;
    /// Has a block job wait as soon as it can.
    "block-job-pause" => block_job_pause: (BlockJobDevice) -> Empty;
    /// Has a block job go on that was paused by a user or because of an error.
    "block-job-resume" => block_job_resume: (BlockJobDevice) -> Empty;
    /// Ends a block job: without a result, or with it if it is ready and nobody forces it.
    "block-job-cancel" => block_job_cancel: (BlockJobCancel) -> Empty;
    /// Ends a ready block job with its result.
    "block-job-complete" => block_job_complete: (BlockJobDevice) -> Empty;
    /// Lets the result of a pending block job, and of all jobs that it succeeds together with, take effect.
    "block-job-finalize" => block_job_finalize: (BlockJobId) -> Empty;
    /// Forgets a concluded block job.
    "block-job-dismiss" => block_job_dismiss: (BlockJobId) -> Empty;
    /// Changes how many bytes per second a block job copies at most, from now on.
    "block-job-set-speed" => block_job_set_speed: (BlockJobSetSpeed) -> Empty;
    /// Changes options of a running block job. Only mirrors have one that changes.
    "block-job-change" => block_job_change: (BlockJobChangeOptions) -> Empty;
}

qapi_struct! {
    /// A job.
    pub struct JobId "job-arg" {
        /// Its id.
        "id" id: String,
    }
}

qapi_struct! {
    /// A block job.
    pub struct BlockJobDevice "block-job-device-arg" {
        /// Its id.
        "device" device: String,
    }
}

qapi_struct! {
    /// A block job.
    pub struct BlockJobId "block-job-id-arg" {
        /// Its id.
        "id" id: String,
    }
}

qapi_struct! {
    /// Arguments of `block-job-cancel`.
    pub struct BlockJobCancel "block-job-cancel-arg" {
        /// The job's id.
        "device" device: String,
        /// End it without a result in any case, and also if it is paused. Off if absent.
        "force" force: Option<bool>,
    }
}

qapi_struct! {
    /// Arguments of `block-job-set-speed`.
    pub struct BlockJobSetSpeed "block-job-set-speed-arg" {
        /// The job's id.
        "device" device: String,
        /// The most bytes per second; 0 for no limit.
        "speed" speed: i64,
    }
}

qapi_union! {
    /// Arguments of `block-job-change`.
    pub struct BlockJobChangeOptions "BlockJobChangeOptions" {
        /// The job's id.
        "id" id: String,
        /// What it does.
        "type" kind: JobType,
    }
    /// What changes.
    pub enum BlockJobChangeTypeOptions by "type" kind: JobType {
        /// `commit`
        Commit(Empty),
        /// `stream`
        Stream(Empty),
        /// `mirror`
        Mirror(BlockJobChangeOptionsMirror),
        /// `backup`
        Backup(Empty),
        /// `create`
        Create(Empty),
        /// `x-fleece`
        XFleece(Empty),
    }
}

qapi_struct! {
    /// What changes of a mirror.
    pub struct BlockJobChangeOptionsMirror "BlockJobChangeOptionsMirror" {
        /// When writes reach the target.
        "copy-mode" copy_mode: MirrorCopyMode,
    }
}

qapi_enum! {
    /// When writes to a mirror's source reach its target.
    pub enum MirrorCopyMode "MirrorCopyMode" {
        /// Some time later.
        Background = "background",
        /// Before they complete.
        WriteBlocking = "write-blocking",
    }
}

impl From<JobError> for QmpError {
    fn from(error: JobError) -> Self {
        Self { class: error.class().into(), ..Self::generic(error.to_string()) }
    }
}

impl From<tidemark_jobs::ErrorClass> for ErrorClass {
    fn from(class: tidemark_jobs::ErrorClass) -> Self {
        match class {
            tidemark_jobs::ErrorClass::Generic => Self::GenericError,
            tidemark_jobs::ErrorClass::DeviceNotActive => Self::DeviceNotActive,
        }
    }
}

fn blockdev_backup(context: &Context, arguments: BlockdevBackup) -> Result<Empty, QmpError> {
    transaction::single(context, Action::Backup(arguments.into_options(context)))
}

fn drive_backup(context: &Context, arguments: DriveBackup) -> Result<Empty, QmpError> {
    transaction::single(context, Action::DriveBackup(arguments.into_options(context)))
}

fn blockdev_mirror(context: &Context, arguments: BlockdevMirror) -> Result<Empty, QmpError> {
    let options = arguments.into_options(context);
    tidemark_jobs::mirror::start(&context.jobs, &context.graph, options)?;
    Ok(Empty {})
}

fn drive_mirror(context: &Context, arguments: DriveMirror) -> Result<Empty, QmpError> {
    let options = arguments.into_options(context);
    tidemark_jobs::mirror::start_drive(&context.jobs, &context.graph, options)?;
    Ok(Empty {})
}

fn query_jobs(context: &Context, _: Empty) -> Result<Vec<JobInfo>, QmpError> {
    Ok(context.jobs.query_jobs()?.into_iter().map(Into::into).collect())
}

fn query_block_jobs(context: &Context, _: Empty) -> Result<Vec<BlockJobInfo>, QmpError> {
    Ok(context.jobs.query_block_jobs()?.into_iter().map(Into::into).collect())
}

fn job(context: &Context, id: &str, command: Command) -> Result<Empty, QmpError> {
    context.jobs.command(Family::Job, id, command)?;
    Ok(Empty {})
}

fn block_job(context: &Context, id: &str, command: Command) -> Result<Empty, QmpError> {
    context.jobs.command(Family::BlockJob, id, command)?;
    Ok(Empty {})
}

fn job_pause(context: &Context, arguments: JobId) -> Result<Empty, QmpError> {
    job(context, &arguments.id, Command::Pause)
}

fn job_resume(context: &Context, arguments: JobId) -> Result<Empty, QmpError> {
    job(context, &arguments.id, Command::Resume)
}

fn job_cancel(context: &Context, arguments: JobId) -> Result<Empty, QmpError> {
    job(context, &arguments.id, Command::Cancel { force: true })
}

fn job_complete(context: &Context, arguments: JobId) -> Result<Empty, QmpError> {
    job(context, &arguments.id, Command::Complete)
}

fn job_finalize(context: &Context, arguments: JobId) -> Result<Empty, QmpError> {
    job(context, &arguments.id, Command::Finalize)
}

fn job_dismiss(context: &Context, arguments: JobId) -> Result<Empty, QmpError> {
    job(context, &arguments.id, Command::Dismiss)
}

fn block_job_pause(context: &Context, arguments: BlockJobDevice) -> Result<Empty, QmpError> {
    block_job(context, &arguments.device, Command::Pause)
}

fn block_job_resume(context: &Context, arguments: BlockJobDevice) -> Result<Empty, QmpError> {
    block_job(context, &arguments.device, Command::Resume)
}

fn block_job_cancel(context: &Context, arguments: BlockJobCancel) -> Result<Empty, QmpError> {
    let force = arguments.force.unwrap_or(false);
    block_job(context, &arguments.device, Command::Cancel { force })
}

fn block_job_complete(context: &Context, arguments: BlockJobDevice) -> Result<Empty, QmpError> {
    block_job(context, &arguments.device, Command::Complete)
}

fn block_job_finalize(context: &Context, arguments: BlockJobId) -> Result<Empty, QmpError> {
    block_job(context, &arguments.id, Command::Finalize)
}

fn block_job_dismiss(context: &Context, arguments: BlockJobId) -> Result<Empty, QmpError> {
    block_job(context, &arguments.id, Command::Dismiss)
}

fn block_job_set_speed(context: &Context, arguments: BlockJobSetSpeed) -> Result<Empty, QmpError> {
    block_job(context, &arguments.device, Command::SetSpeed(arguments.speed))
}

fn block_job_change(context: &Context, arguments: BlockJobChangeOptions) -> Result<Empty, QmpError> {
    let mode = match arguments.branch {
        BlockJobChangeTypeOptions::Mirror(mirror) => mirror.copy_mode.into(),
        // As QEMU does, which takes what is not said for the first.
        _ => CopyMode::Background,
    };
    block_job(context, &arguments.id, Command::Change(mode))
}
