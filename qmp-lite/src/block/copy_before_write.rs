//! The options of driver `copy-before-write`.
//!
//! Knows its members and defaults; keeps nothing.

use tidemark_backend::node::copy_before_write::{self as backend, CbwOptions};
use tidemark_backend::node::options::CopyBeforeWriteOptions;

use super::options::BlockdevRef;
use crate::bitmap::BlockDirtyBitmap;
use crate::error::QmpError;
use crate::schema::{Size, qapi_enum, qapi_struct};

const NS_PER_SECOND: u64 = 1_000_000_000;

qapi_struct! {
    /// Options of driver `copy-before-write`: a filter. Before a write through it changes its child, what is overwritten
    /// is copied to the target, so that a `snapshot-access` node can read what was there when the filter was opened.
    pub struct BlockdevOptionsCbw "BlockdevOptionsCbw" {
        /// The child: what is kept and written.
        "file" file: BlockdevRef,
        /// The node to copy to.
        "target" target: BlockdevRef,
        /// Keep only what this bitmap marks now; the rest cannot be read. All is kept if absent.
        "bitmap" bitmap: Option<BlockDirtyBitmap>,
        /// What becomes of a write if a copy fails; break-guest-write if absent.
        "on-cbw-error" on_cbw_error: Option<OnCbwError>,
        /// Seconds after which a copy has failed; 0, never, if absent.
        "cbw-timeout" cbw_timeout: Option<u32>,
        /// The least bytes to copy for a write, a power of two; 0, what suits, if absent.
        "min-cluster-size" min_cluster_size: Option<Size>,
    }
}

qapi_enum! {
    /// What becomes of a write when the copy before it fails.
    pub enum OnCbwError "OnCbwError" {
        /// The write fails.
        BreakGuestWrite = "break-guest-write",
        /// The write is done, and all reads of what was kept fail from then on.
        BreakSnapshot = "break-snapshot",
    }
}

impl From<OnCbwError> for backend::OnCbwError {
    fn from(on_error: OnCbwError) -> Self {
        match on_error {
            OnCbwError::BreakGuestWrite => Self::BreakGuestWrite,
            OnCbwError::BreakSnapshot => Self::BreakSnapshot,
        }
    }
}

impl TryFrom<BlockdevOptionsCbw> for CopyBeforeWriteOptions {
    type Error = QmpError;

    fn try_from(options: BlockdevOptionsCbw) -> Result<Self, QmpError> {
        let Size(min_chunk) = options.min_cluster_size.unwrap_or(Size(0));
        let on_error = options.on_cbw_error.unwrap_or(OnCbwError::BreakGuestWrite).into();
        let timeout_ns = u64::from(options.cbw_timeout.unwrap_or(0)) * NS_PER_SECOND;
        Ok(Self {
            file: options.file.try_into()?,
            target: options.target.try_into()?,
            bitmap: options.bitmap.map(|bitmap| (bitmap.node, bitmap.name)),
            copying: CbwOptions { on_error, timeout_ns, min_chunk },
        })
    }
}
