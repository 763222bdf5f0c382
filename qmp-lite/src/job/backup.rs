//! The arguments of `blockdev-backup`, as a command and as an action of a transaction.
//!
//! Knows QEMU's defaults and that a job without an id is called like its source's export; checks nothing else.

use tidemark_backend::node::copy_before_write::CbwOptions;
use tidemark_jobs::OnError;
use tidemark_jobs::action::{BackupOptions, BackupSync, BitmapMode};

use crate::block::copy_before_write::OnCbwError;
use crate::context::Context;
use crate::schema::{Size, qapi_enum, qapi_struct};

/// Copies at a time if nothing is said.
const MAX_WORKERS: i64 = 64;
const NS_PER_SECOND: u64 = 1_000_000_000;

qapi_struct! {
    /// A backup.
    pub struct BlockdevBackup "BlockdevBackup" {
        /// The job's id: a letter, then letters, digits, `-`, `.` and `_`. The id of the export that exports the
        /// source if absent.
        "job-id" job_id: Option<String>,
        /// The node to copy from.
        "device" device: String,
        /// What to copy.
        "sync" sync: MirrorSyncMode,
        /// The most bytes to copy per second; 0, without limit, if absent.
        "speed" speed: Option<i64>,
        /// A bitmap of the source. Required for incremental and bitmap.
        "bitmap" bitmap: Option<String>,
        /// What becomes of the bitmap. Required with a bitmap, except for incremental, which means on-success.
        "bitmap-mode" bitmap_mode: Option<BitmapSyncMode>,
        /// Whether what is copied is compressed; the target has to be a qcow2 image without a data file. Off if absent.
        "compress" compress: Option<bool>,
        /// What to do if the source cannot be read; report if absent.
        "on-source-error" on_source_error: Option<BlockdevOnError>,
        /// What to do if the target cannot be written; report if absent.
        "on-target-error" on_target_error: Option<BlockdevOnError>,
        /// Whether the result takes effect without a `job-finalize`. On if absent.
        "auto-finalize" auto_finalize: Option<bool>,
        /// Whether the job is forgotten without a `job-dismiss`. On if absent.
        "auto-dismiss" auto_dismiss: Option<bool>,
        /// A name for the filter that the job puts above the source; made up if absent.
        "filter-node-name" filter_node_name: Option<String>,
        /// Whether to discard from the source what was copied. Off if absent.
        "discard-source" discard_source: Option<bool>,
        /// What becomes of a guest's write if what it overwrites cannot be copied in time: with break-guest-write it
        /// fails, with break-snapshot the job does. break-guest-write if absent. Not in QEMU.
        "x-on-cbw-error" on_cbw_error: Option<OnCbwError>,
        /// Seconds after which that is so; 0, never, if absent. Not in QEMU.
        "x-cbw-timeout" cbw_timeout: Option<u32>,
        /// How to copy.
        "x-perf" x_perf: Option<BackupPerf>,
        /// The node to copy to, as long as the source.
        "target" target: String,
    }
}

qapi_struct! {
    /// How a backup copies.
    #[derive(Default)]
    pub struct BackupPerf "BackupPerf" {
        /// Accepted for compatibility: how data is moved is up to the program. Off if absent.
        "use-copy-range" use_copy_range: Option<bool>,
        /// The most copies at a time; 64 if absent.
        "max-workers" max_workers: Option<i64>,
        /// The most bytes of one copy; 0, what suits, if absent.
        "max-chunk" max_chunk: Option<i64>,
        /// The least bytes that are copied for a write, a power of two; 0, what suits, if absent.
        "min-cluster-size" min_cluster_size: Option<Size>,
    }
}

qapi_enum! {
    /// What to copy.
    pub enum MirrorSyncMode "MirrorSyncMode" {
        /// What the topmost image has of its own.
        Top = "top",
        /// Everything.
        Full = "full",
        /// Nothing but what is about to be overwritten.
        None = "none",
        /// What a bitmap marks, which then marks what was changed since.
        Incremental = "incremental",
        /// What a bitmap marks; what becomes of it is up to its mode.
        Bitmap = "bitmap",
    }
}

qapi_enum! {
    /// What becomes of a job's bitmap.
    pub enum BitmapSyncMode "BitmapSyncMode" {
        /// If the job succeeds, it marks what was changed since the job began; else it marks that too.
        OnSuccess = "on-success",
        /// It marks as much as without the job.
        Never = "never",
        /// It marks what was changed since the job began and what the job did not copy.
        Always = "always",
    }
}

qapi_enum! {
    /// What a job does about an error.
    pub enum BlockdevOnError "BlockdevOnError" {
        /// It fails.
        Report = "report",
        /// It tries again.
        Ignore = "ignore",
        /// It pauses if the storage is full, and fails otherwise.
        Enospc = "enospc",
        /// It pauses until it is resumed, then tries again.
        Stop = "stop",
        /// As enospc.
        Auto = "auto",
    }
}

impl BlockdevBackup {
    /// What is to be done, with the job's id looked up if there is none.
    pub(crate) fn into_options(self, context: &Context) -> BackupOptions {
        let perf = self.x_perf.unwrap_or_default();
        let Size(min_chunk) = perf.min_cluster_size.unwrap_or(Size(0));
        let on_error = self.on_cbw_error.unwrap_or(OnCbwError::BreakGuestWrite).into();
        let timeout_ns = u64::from(self.cbw_timeout.unwrap_or(0)) * NS_PER_SECOND;
        BackupOptions {
            job_id: self.job_id.or_else(|| context.export_of(&self.device)),
            device: self.device,
            target: self.target,
            sync: self.sync.into(),
            speed: self.speed.unwrap_or(0),
            bitmap: self.bitmap,
            bitmap_mode: self.bitmap_mode.map(Into::into),
            compress: self.compress.unwrap_or(false),
            on_source_error: self.on_source_error.map(Into::into).unwrap_or_default(),
            on_target_error: self.on_target_error.map(Into::into).unwrap_or_default(),
            auto_finalize: self.auto_finalize.unwrap_or(true),
            auto_dismiss: self.auto_dismiss.unwrap_or(true),
            filter_node_name: self.filter_node_name,
            discard_source: self.discard_source.unwrap_or(false),
            max_workers: perf.max_workers.unwrap_or(MAX_WORKERS),
            max_chunk: perf.max_chunk.unwrap_or(0),
            copying: CbwOptions { on_error, timeout_ns, min_chunk },
        }
    }
}

impl From<MirrorSyncMode> for BackupSync {
    fn from(sync: MirrorSyncMode) -> Self {
        match sync {
            MirrorSyncMode::Top => Self::Top,
            MirrorSyncMode::Full => Self::Full,
            MirrorSyncMode::None => Self::None,
            MirrorSyncMode::Incremental => Self::Incremental,
            MirrorSyncMode::Bitmap => Self::Bitmap,
        }
    }
}

impl From<BitmapSyncMode> for BitmapMode {
    fn from(mode: BitmapSyncMode) -> Self {
        match mode {
            BitmapSyncMode::OnSuccess => Self::OnSuccess,
            BitmapSyncMode::Never => Self::Never,
            BitmapSyncMode::Always => Self::Always,
        }
    }
}

impl From<BlockdevOnError> for OnError {
    fn from(policy: BlockdevOnError) -> Self {
        match policy {
            BlockdevOnError::Report => Self::Report,
            BlockdevOnError::Ignore => Self::Ignore,
            BlockdevOnError::Enospc => Self::Enospc,
            BlockdevOnError::Stop => Self::Stop,
            BlockdevOnError::Auto => Self::Auto,
        }
    }
}
