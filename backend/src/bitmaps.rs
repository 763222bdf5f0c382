//! The named bitmaps of a node.

use std::sync::{Arc, Mutex, PoisonError};
use tidemark_cbt::Bitmap;

/// What one node tracks.
#[derive(Default)]
pub struct Tracking(Mutex<Vec<Arc<Bitmap>>>);

impl Tracking {
    /// The bitmaps that record writes now.
    pub fn recording(&self) -> Vec<Arc<Bitmap>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a named bitmap marks.
    pub fn content(&self, _name: &str) -> Option<Arc<Bitmap>> {
        None
    }
}
