//! The pivot: whoever used the source comes to the target, with requests under way and without waiting for storage.
//!
//! Both have been alike since the body ended: changes reach both, and flushes too. In one hold that is looked at once more
//! and the ways are swapped. Requests from before end where they began, on both sides.

use super::Mirror;
use crate::error::JobFailure;
use crate::points;
use crate::resize;
use tidemark_backend::error::IoError;
use tidemark_backend::node::qcow2::create::Preallocation;

fn text(error: impl std::fmt::Display) -> JobFailure {
    JobFailure::Text(error.to_string())
}

impl Mirror {
    /// Has the target as long as the source, or refuses.
    pub(super) async fn match_lengths(&self) -> Result<(), JobFailure> {
        let (source, target) = (&self.plan.source, &self.plan.target);
        let size = source.length();
        if self.plan.grows && target.length() < size {
            let _turn = self.registry.edit().await;
            return resize::change(&self.registry, &self.graph, target, (size, Preallocation::Off)).await.map_err(text);
        }
        if !self.plan.grows && target.length() != size {
            return Err(JobFailure::Text("Source and target image have different sizes".to_owned()));
        }
        Ok(())
    }

    /// Leads the users of what is replaced to the target, if the job was completed.
    ///
    /// # Errors
    /// Somebody may not come to the target, or a change has failed there since the body ended.
    pub(super) async fn pivot(&self) -> Result<(), JobFailure> {
        if !self.state.pivots.get() {
            return Ok(());
        }
        let _turn = self.registry.edit().await;
        self.holdings.allow();
        // What stands for the job comes there too, with whoever is above it.
        let mut swap = self.graph.prepare_swap(&self.plan.replaced, &self.plan.target).map_err(text)?;
        let mut nodes = swap.nodes().to_vec();
        points::add(&mut nodes, &self.plan.source);
        let mut sealed = false;
        let mut edit = || {
            sealed = self.mirroring.seal();
            if sealed {
                swap.commit();
                self.unhook();
            }
        };
        points::hold(self.io(), &nodes, &mut edit)
            .await
            .map_err(|_| JobFailure::Text("Cannot pivot: a queue does not leave its critical section".to_owned()))?;
        if !sealed {
            return Err(self.mirroring.take_failure().unwrap_or(IoError::Io).into());
        }
        self.state.installed.set(false);
        self.state.pivoted.set(true);
        swap.conclude(&self.graph, self.io()).await;
        Ok(())
    }
}
