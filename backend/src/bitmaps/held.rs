//! Bitmaps that somebody reads for long, and that nobody else uses meanwhile.

use super::persistent::{Use, check};
use super::{BitmapError, Record, Tracking};
use std::sync::Arc;
use tidemark_cbt::Bitmap;

/// A named bitmap that is in use as long as this lives. It goes on recording, if it did.
#[derive(Debug)]
pub struct Held {
    bits: Arc<Bitmap>,
    enabled: bool,
    /// What the bitmap's record looks at.
    _token: Arc<()>,
}

impl Held {
    /// What it marks.
    pub fn bits(&self) -> &Arc<Bitmap> {
        &self.bits
    }

    /// Whether it recorded writes when it was taken.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }
}

impl Record {
    /// Whether somebody uses it.
    pub(super) fn is_busy(&self) -> bool {
        self.successor.is_some() || self.held.strong_count() > 0
    }
}

impl Tracking {
    /// Whether there is a bitmap of that name.
    pub fn has(&self, name: &str) -> bool {
        self.lock().iter().any(|record| record.name == name)
    }

    /// Takes a bitmap into use for reading.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be used.
    pub fn hold(&self, name: &str) -> Result<Held, BitmapError> {
        let mut records = self.lock();
        let record = records.iter_mut().find(|record| record.name == name);
        let record = record.ok_or_else(|| BitmapError::NotFound(name.to_owned()))?;
        check(name, record.state(), Use::Read)?;
        let token = Arc::new(());
        record.held = Arc::downgrade(&token);
        Ok(Held { bits: record.bits.clone(), enabled: record.enabled, _token: token })
    }
}
