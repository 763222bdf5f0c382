//! The arguments of `drive-backup`: a backup to a file that is made and opened for it.
//!
//! Knows its members; what it does is `blockdev-backup`'s, and the defaults are, too.

use tidemark_jobs::action::DriveBackupOptions;

use super::backup::{BackupPerf, BitmapSyncMode, BlockdevBackup, BlockdevOnError, MirrorSyncMode};
use crate::block::copy_before_write::OnCbwError;
use crate::context::Context;
use crate::schema::qapi_struct;
use crate::snapshot::NewImageMode;

qapi_struct! {
    /// A backup to a file.
    pub struct DriveBackup "DriveBackup" {
        /// The job's id: a letter, then letters, digits, `-`, `.` and `_`. The id of the export that exports the
        /// source if absent.
        "job-id" job_id: Option<String>,
        /// The node to copy from.
        "device" device: String,
        /// What to copy. The target of top shows the images below where it has nothing, that of none the source.
        "sync" sync: MirrorSyncMode,
        /// The most bytes to copy per second; 0, without limit, if absent.
        "speed" speed: Option<i64>,
        /// A bitmap of the source. Required for incremental and bitmap.
        "bitmap" bitmap: Option<String>,
        /// What becomes of the bitmap. Required with a bitmap, except for incremental, which means on-success.
        "bitmap-mode" bitmap_mode: Option<BitmapSyncMode>,
        /// As that of `blockdev-backup`. Off if absent.
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
        /// As that of `blockdev-backup`. Not in QEMU.
        "x-on-cbw-error" on_cbw_error: Option<OnCbwError>,
        /// As that of `blockdev-backup`. Not in QEMU.
        "x-cbw-timeout" cbw_timeout: Option<u32>,
        /// How to copy.
        "x-perf" x_perf: Option<BackupPerf>,
        /// The file to copy to, which no other program may have open. Zeroes become holes there.
        "target" target: String,
        /// Its format: `raw`, `qcow2`, `file` or `host_device`. That of the source if absent; of an existing image what its
        /// first bytes say.
        "format" format: Option<String>,
        /// Whether it is made; absolute-paths if absent.
        "mode" mode: Option<NewImageMode>,
    }
}

impl DriveBackup {
    /// What is to be done, with the job's id looked up if there is none.
    pub(crate) fn into_options(self, context: &Context) -> DriveBackupOptions {
        let backup = BlockdevBackup {
            job_id: self.job_id,
            device: self.device,
            sync: self.sync,
            speed: self.speed,
            bitmap: self.bitmap,
            bitmap_mode: self.bitmap_mode,
            compress: self.compress,
            on_source_error: self.on_source_error,
            on_target_error: self.on_target_error,
            auto_finalize: self.auto_finalize,
            auto_dismiss: self.auto_dismiss,
            filter_node_name: self.filter_node_name,
            discard_source: self.discard_source,
            on_cbw_error: self.on_cbw_error,
            cbw_timeout: self.cbw_timeout,
            x_perf: self.x_perf,
            // Its node has no name yet.
            target: String::new(),
        };
        let existing = self.mode == Some(NewImageMode::Existing);
        let backup = backup.into_options(context);
        DriveBackupOptions { backup, target: self.target, format: self.format, existing }
    }
}
