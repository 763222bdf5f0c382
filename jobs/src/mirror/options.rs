//! What is asked of a mirror, as QMP says it: names are not looked up yet, values not checked.

use crate::context::OnError;

/// When changes of the source reach the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyMode {
    /// Some time later.
    #[default]
    Background,
    /// Before they complete.
    WriteBlocking,
}

/// What there is to copy at first.
#[derive(Clone, Debug)]
pub enum MirrorSync {
    /// Everything.
    Full,
    /// What the topmost image has of its own.
    Top,
    /// Nothing: only what is changed from now on.
    None,
    /// What QEMU knows and a mirror cannot.
    Unsupported(&'static str),
}

/// Arguments of `blockdev-mirror`.
#[derive(Clone, Debug)]
pub struct MirrorOptions {
    /// The job's id; there may be none to make one of.
    pub job_id: Option<String>,
    /// The node to copy from.
    pub device: String,
    /// The node to copy to.
    pub target: String,
    /// The node that the target is to replace; the source if `None`.
    pub replaces: Option<String>,
    /// What there is to copy at first.
    pub sync: MirrorSync,
    /// Bytes per second, 0 for no limit.
    pub speed: i64,
    /// Bytes per chunk; 0 for what suits the target.
    pub granularity: u32,
    /// Bytes under way at a time; 0 for what suits.
    pub buf_size: i64,
    /// About reads.
    pub on_source_error: OnError,
    /// About writes.
    pub on_target_error: OnError,
    /// Whether zeroes may give space back on the target.
    pub unmap: bool,
    /// A name for what stands for the job among the nodes.
    pub filter_node_name: Option<String>,
    /// When changes reach the target.
    pub copy_mode: CopyMode,
    /// Whether the result takes effect by itself.
    pub auto_finalize: bool,
    /// Whether the job is forgotten by itself.
    pub auto_dismiss: bool,
}
