//! The arguments of `blockdev-mirror`, `drive-mirror` and of changes to a mirror.
//!
//! Knows QEMU's defaults and that a job without an id is called like its source's export; checks nothing else.

use tidemark_jobs::mirror::{CopyMode, DriveMirrorOptions, MirrorOptions, MirrorSync};

use super::MirrorCopyMode;
use super::backup::{BlockdevOnError, MirrorSyncMode};
use crate::context::Context;
use crate::schema::qapi_struct;
use crate::snapshot::NewImageMode;

qapi_struct! {
    /// A mirror.
    pub struct BlockdevMirror "blockdev-mirror-arg" {
        /// The job's id: a letter, then letters, digits, `-`, `.` and `_`. The id of the export that exports the
        /// source if absent.
        "job-id" job_id: Option<String>,
        /// The node to copy from. No other node may be above it.
        "device" device: String,
        /// The node to copy to, as long as the source.
        "target" target: String,
        /// The node whose place the target takes: the source if absent, or one that its filters show.
        "replaces" replaces: Option<String>,
        /// What to copy before what is changed. Only full, top and none are supported.
        "sync" sync: MirrorSyncMode,
        /// The most bytes to copy per second; 0, without limit, if absent. What reaches the target before it completes
        /// waits for no limit.
        "speed" speed: Option<i64>,
        /// The bytes that are copied if one of them is changed: a power of two from 512 to 64M. What suits the target if
        /// absent or 0.
        "granularity" granularity: Option<u32>,
        /// The most bytes under way at a time; 16M if absent or 0.
        "buf-size" buf_size: Option<i64>,
        /// What to do if the source cannot be read; report if absent.
        "on-source-error" on_source_error: Option<BlockdevOnError>,
        /// What to do if the target cannot be written; report if absent.
        "on-target-error" on_target_error: Option<BlockdevOnError>,
        /// A name for the filter that the job puts above the source; made up if absent.
        "filter-node-name" filter_node_name: Option<String>,
        /// When what guests change reaches the target; background if absent.
        "copy-mode" copy_mode: Option<MirrorCopyMode>,
        /// Whether the result takes effect without a `job-finalize`. On if absent.
        "auto-finalize" auto_finalize: Option<bool>,
        /// Whether the job is forgotten without a `job-dismiss`. On if absent.
        "auto-dismiss" auto_dismiss: Option<bool>,
    }
}

qapi_struct! {
    /// A mirror to a file.
    pub struct DriveMirror "DriveMirror" {
        /// The job's id: a letter, then letters, digits, `-`, `.` and `_`. The id of the export that exports the
        /// source if absent.
        "job-id" job_id: Option<String>,
        /// The node to copy from. No other node may be above it.
        "device" device: String,
        /// The file to copy to, which no other program may have open.
        "target" target: String,
        /// Its format: `raw`, `qcow2`, `file` or `host_device`. That of the source if absent; of an existing image what its
        /// first bytes say.
        "format" format: Option<String>,
        /// The name that the target's node gets; made up if absent.
        "node-name" node_name: Option<String>,
        /// As that of `blockdev-mirror`.
        "replaces" replaces: Option<String>,
        /// What to copy before what is changed. Only full, top and none are supported.
        "sync" sync: MirrorSyncMode,
        /// Whether the file is made; absolute-paths if absent.
        "mode" mode: Option<NewImageMode>,
        /// The most bytes to copy per second; 0, without limit, if absent.
        "speed" speed: Option<i64>,
        /// As that of `blockdev-mirror`.
        "granularity" granularity: Option<u32>,
        /// The most bytes under way at a time; 16M if absent or 0.
        "buf-size" buf_size: Option<i64>,
        /// What to do if the source cannot be read; report if absent.
        "on-source-error" on_source_error: Option<BlockdevOnError>,
        /// What to do if the target cannot be written; report if absent.
        "on-target-error" on_target_error: Option<BlockdevOnError>,
        /// Whether zeroes become holes in the target. On if absent.
        "unmap" unmap: Option<bool>,
        /// When what guests change reaches the target; background if absent.
        "copy-mode" copy_mode: Option<MirrorCopyMode>,
        /// Whether the result takes effect without a `job-finalize`. On if absent.
        "auto-finalize" auto_finalize: Option<bool>,
        /// Whether the job is forgotten without a `job-dismiss`. On if absent.
        "auto-dismiss" auto_dismiss: Option<bool>,
    }
}

impl BlockdevMirror {
    /// What is to be done, with the job's id looked up if there is none.
    pub(super) fn into_options(self, context: &Context) -> MirrorOptions {
        MirrorOptions {
            job_id: self.job_id.or_else(|| context.export_of(&self.device)),
            device: self.device,
            target: self.target,
            replaces: self.replaces,
            sync: self.sync.into(),
            speed: self.speed.unwrap_or(0),
            granularity: self.granularity.unwrap_or(0),
            buf_size: self.buf_size.unwrap_or(0),
            on_source_error: self.on_source_error.map(Into::into).unwrap_or_default(),
            on_target_error: self.on_target_error.map(Into::into).unwrap_or_default(),
            unmap: true,
            filter_node_name: self.filter_node_name,
            copy_mode: self.copy_mode.map(Into::into).unwrap_or_default(),
            auto_finalize: self.auto_finalize.unwrap_or(true),
            auto_dismiss: self.auto_dismiss.unwrap_or(true),
        }
    }
}

impl DriveMirror {
    /// What is to be done, with the job's id looked up if there is none.
    pub(super) fn into_options(self, context: &Context) -> DriveMirrorOptions {
        let mirror = BlockdevMirror {
            job_id: self.job_id,
            device: self.device,
            // Its node is not open yet.
            target: String::new(),
            replaces: self.replaces,
            sync: self.sync,
            speed: self.speed,
            granularity: self.granularity,
            buf_size: self.buf_size,
            on_source_error: self.on_source_error,
            on_target_error: self.on_target_error,
            filter_node_name: None,
            copy_mode: self.copy_mode,
            auto_finalize: self.auto_finalize,
            auto_dismiss: self.auto_dismiss,
        };
        let mirror = MirrorOptions { unmap: self.unmap.unwrap_or(true), ..mirror.into_options(context) };
        let existing = self.mode == Some(NewImageMode::Existing);
        let (target, format, node_name) = (self.target, self.format, self.node_name);
        DriveMirrorOptions { mirror, target, format, node_name, existing }
    }
}

impl From<MirrorSyncMode> for MirrorSync {
    fn from(sync: MirrorSyncMode) -> Self {
        match sync {
            MirrorSyncMode::Top => Self::Top,
            MirrorSyncMode::Full => Self::Full,
            MirrorSyncMode::None => Self::None,
            MirrorSyncMode::Incremental => Self::Unsupported("incremental"),
            MirrorSyncMode::Bitmap => Self::Unsupported("bitmap"),
        }
    }
}

impl From<MirrorCopyMode> for CopyMode {
    fn from(mode: MirrorCopyMode) -> Self {
        match mode {
            MirrorCopyMode::Background => Self::Background,
            MirrorCopyMode::WriteBlocking => Self::WriteBlocking,
        }
    }
}
