//! What there is to copy at first: everything, or what some images of a chain have.

use super::{Mirror, Start};
use crate::context::JobContext;
use crate::error::JobFailure;

impl Mirror {
    /// Owes what is to be copied at first. What changes meanwhile is marked by whoever changes it.
    pub(super) async fn owe(&self, ctx: &JobContext) -> Result<(), JobFailure> {
        let owed = self.mirroring.owed();
        match self.plan.start {
            Start::Nothing => Ok(()),
            Start::All => {
                owed.mark(0, owed.len());
                Ok(())
            }
            Start::Top(images) => self.owe_allocated(ctx, images).await,
        }
    }

    async fn owe_allocated(&self, ctx: &JobContext, images: u32) -> Result<(), JobFailure> {
        let owed = self.mirroring.owed();
        let mut at = 0;
        while at < owed.len() {
            ctx.pause_point().await?;
            let visit = self.source.visit();
            let status = visit.status(ctx.io(), at, owed.len() - at).await?;
            let len = status.len.clamp(1, owed.len() - at);
            if (1..=images).contains(&status.depth) {
                owed.mark(at, len);
            }
            at += len;
        }
        Ok(())
    }
}
