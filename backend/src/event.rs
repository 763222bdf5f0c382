//! What the data plane tells the control plane of its own accord.
//!
//! Knows no wire format: whoever listens gives it one.

use crate::error::IoError;
use crate::node::qcow2::corruption::Corruption;
use std::sync::Arc;

/// Something operators and management want to know.
#[derive(Clone, Debug)]
pub enum Event {
    /// An export is gone.
    ExportDeleted {
        /// Its id.
        id: String,
    },
    /// A guest's request failed.
    IoError {
        /// The export's id.
        export: String,
        /// The node's name.
        node: String,
        /// True for a write, write-zeroes, discard or flush.
        write: bool,
        /// Why.
        error: IoError,
    },
    /// An image was found to be corrupt.
    ImageCorrupted {
        /// The node's name.
        node: String,
        /// What was found.
        corruption: Corruption,
    },
    /// Bitmaps of an image that was not closed go on.
    BitmapsRecovered {
        /// The node's name.
        node: String,
        /// Their names, each with the bytes that it has more than it was stored with.
        bitmaps: Vec<(String, u64)>,
    },
    /// Bitmaps of an image do not survive a crash any more.
    ChangeJournalLost {
        /// The node's name.
        node: String,
        /// Why.
        error: IoError,
    },
}

/// Takes events from any thread; must not block.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;
