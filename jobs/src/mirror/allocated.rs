//! What there is to copy at first: everything, or what some images of a chain have.

use super::{Mirror, Start};
use crate::context::JobContext;
use crate::copy::survey::Survey;
use crate::error::JobFailure;
use std::sync::Arc;
use tidemark_backend::node::Node;

impl Mirror {
    /// Owes what is to be copied at first. What changes meanwhile is marked by whoever changes it.
    pub(super) async fn owe(&self, ctx: &JobContext) -> Result<(), JobFailure> {
        let owed = self.mirroring.owed();
        match &self.plan.start {
            Start::Nothing => Ok(()),
            Start::All => {
                owed.mark(0, owed.len());
                Ok(())
            }
            Start::Above(last) => self.owe_allocated(ctx, last).await,
        }
    }

    async fn owe_allocated(&self, ctx: &JobContext, last: &Arc<Node>) -> Result<(), JobFailure> {
        let owed = self.mirroring.owed();
        let (survey, mut at) = (Survey::new(owed.granularity().bytes()), 0);
        while at < owed.len() {
            ctx.pause_point().await?;
            let visit = self.source.visit();
            let asked = survey.ahead(owed.len() - at);
            let status = visit.status_above(ctx.io(), at, asked, last).await?;
            let len = status.len.clamp(1, asked);
            survey.learn(at, asked, len, status.depth);
            if status.depth > 0 {
                owed.mark(at, len);
            }
            at += len;
        }
        Ok(())
    }
}
