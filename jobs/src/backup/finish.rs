//! The end of a backup: the source's writes wait no more, and the bitmap becomes what its mode says.

use super::Backup;
use crate::action::BitmapMode;
use crate::lead::lead_past_point;
use crate::point::Point;
use crate::{checkpoint, points};
use std::slice;
use std::sync::Arc;
use tidemark_backend::bitmaps::Outcome;
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::Released;
use tidemark_backend::node::copy_before_write::Phase;
use tidemark_cbt::Bitmap;

/// How often copies under way are looked at, in nanoseconds.
const QUIET_NS: u64 = 100_000;

impl Backup {
    /// In one hold: takes the point in time off the source and lets go of the bitmap.
    pub(super) async fn finish(&self, succeeded: bool) {
        if !self.installed.replace(false) {
            return;
        }
        let io = self.registry.io();
        self.copy.enter_phase(Phase::Ended);
        let _released = Released::of([self.source(), self.copy.target()]);
        while !self.copy.is_quiet() {
            // Copies that guests' writes have started still write to the target.
            io.sleep_until(io.read_clock().saturating_add(QUIET_NS)).await;
        }
        if let Some(image) = self.compressing() {
            image.end_compressing(io).await;
        }
        let mut released = None;
        let outcome = self.bitmap.as_ref().map(|tracked| (tracked, self.outcome(tracked.mode, succeeded)));
        let mut edit = || {
            self.copy.uninstall();
            if let Some((tracked, outcome)) = &outcome {
                released = Some(self.source().points().tracking().release(&tracked.name, outcome.clone()));
            }
        };
        let grace = points::hold_in_the_end(io, slice::from_ref(self.source()), &mut edit).await;
        points::over(io, &grace).await;
        if let Some(released) = released {
            released.settle();
            // Before anybody hears of the job's end.
            checkpoint::save(io, slice::from_ref(self.source())).await;
        }
    }

    /// What the bitmap becomes.
    fn outcome(&self, mode: BitmapMode, succeeded: bool) -> Outcome {
        match (mode, succeeded) {
            (BitmapMode::Never, _) | (BitmapMode::OnSuccess, false) => Outcome::Keep,
            (_, true) => Outcome::Replace(None),
            (BitmapMode::Always, false) => Outcome::Replace(Some(self.not_copied())),
        }
    }

    /// What is owed now; all that was owed is also in the job's own bitmap.
    fn not_copied(&self) -> Arc<Bitmap> {
        self.owed.clear_range(0, self.owed.len());
        self.copy.map().marked_undone(&self.owed);
        self.owed.clone()
    }

    /// Lets go of the nodes; who came to the filter comes to the source.
    pub(super) async fn end(&self) {
        self.stakes.take();
        if let Some(filter) = self.filter.take() {
            lead_past_point(&self.registry, &self.graph, &filter, self.began.get()).await;
        }
        self.let_go();
    }

    /// Lets go of the nodes.
    pub(super) fn let_go(&self) {
        self.stakes.take();
        if let Some(filter) = self.filter.take() {
            self.graph.remove_filter(&filter);
        }
        self.target.node().set_busy(None);
        self.target.node().let_go_for(Access::Target);
        self.discarding.take();
        if let Some(access) = self.access.take() {
            self.source().let_go_for(access);
        }
    }
}
