//! Which parts of a file are holes: asked of the file system, and remembered where there was data.
//!
//! What was data may be taken for data until somebody makes a hole: it is only read in vain. A hole is never remembered.

use super::File;
use crate::error::IoError;
use crate::io::{Op, OpKind};
use crate::reactor::Handle;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The run of data that was found last.
#[derive(Default)]
pub(super) struct Known(Mutex<Range<u64>>);

impl Known {
    /// Bytes from `offset` on that are data for all that is known, of at most `len`.
    fn data_at(&self, offset: u64, len: u64) -> Option<u64> {
        let run = self.run();
        run.contains(&offset).then(|| len.min(run.end - offset))
    }

    fn learn(&self, run: Range<u64>) {
        *self.run() = run;
    }

    /// Somebody makes a hole, or has.
    pub(super) fn forget(&self) {
        *self.run() = 0..0;
    }

    fn run(&self) -> MutexGuard<'_, Range<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File {
    /// How far the file is all hole or may be data, and which of the two. Block devices cannot tell. It is asked for all
    /// up to `end`: that costs the file system no more, or costs it once instead of again for each part.
    ///
    /// # Errors
    /// The storage's.
    pub(in crate::node) async fn extent(
        &self,
        io: &Handle,
        (offset, len): (u64, u64),
        end: u64,
    ) -> Result<(u64, bool), IoError> {
        if self.block_device {
            return Ok((len, true));
        }
        if let Some(len) = self.known.data_at(offset, len) {
            return Ok((len, true));
        }
        let most = end.saturating_sub(offset).max(len);
        let (op, result) = io.run(Op::bare(OpKind::Extent { data: true }, self.id(), offset, most)).await;
        let data = op.kind == OpKind::Extent { data: true };
        if data && result.is_ok() {
            self.known.learn(offset..offset.saturating_add(op.len));
        }
        result.map(|()| (op.len.min(len), data))
    }
}
