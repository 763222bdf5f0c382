//! What a job on a chain has of the graph while it runs: what is listed for it, nodes that it uses, and nodes that nobody
//! else may use meanwhile.

use crate::lead::lead_past;
use crate::registry::Registry;
use std::cell::RefCell;
use std::sync::Arc;
use tidemark_backend::error::GraphError;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::{Node, Stake, Staked};
use tidemark_backend::reactor::Handle;

/// What one job has. All of it is given back when this is dropped, if it was not before.
pub(crate) struct Holdings {
    graph: Arc<Graph>,
    /// What others are told who ask for a reserved node.
    reason: &'static str,
    listed: RefCell<Option<Arc<Node>>>,
    used: RefCell<Vec<(Arc<Node>, Access)>>,
    reserved: RefCell<Vec<Arc<Node>>>,
    stakes: RefCell<Vec<Staked>>,
}

impl Holdings {
    /// Nothing yet.
    pub(crate) fn new(graph: &Arc<Graph>, reason: &'static str) -> Self {
        let (listed, used, reserved, stakes) = Default::default();
        Self { graph: graph.clone(), reason, listed, used, reserved, stakes }
    }

    /// `filter` stands for the job among the nodes.
    pub(crate) fn list(&self, filter: Arc<Node>) {
        *self.listed.borrow_mut() = Some(filter);
    }

    /// What stands for the job.
    pub(crate) fn listed(&self) -> Option<Arc<Node>> {
        self.listed.borrow().clone()
    }

    /// Takes a node into use; what is required of others for that, [`Holdings::stake`] says.
    ///
    /// # Errors
    /// As [`Node::hold_for`].
    pub(crate) fn take(&self, node: &Arc<Node>, access: Access) -> Result<(), GraphError> {
        node.hold_for(access)?;
        self.used.borrow_mut().push((node.clone(), access));
        Ok(())
    }

    /// Keeps other processes from reading an image that shows something else while the job runs.
    ///
    /// # Errors
    /// As [`Node::hold_for`]: somebody reads there.
    pub(crate) fn hide(&self, image: &Arc<Node>) -> Result<(), GraphError> {
        // Locks are on the file, which the image holds by itself for all its users.
        image.child().map_or(Ok(()), |file| self.take(&file, Access::Hidden))
    }

    /// Nobody else may use these nodes as a whole.
    pub(crate) fn reserve(&self, nodes: impl IntoIterator<Item = Arc<Node>>) {
        for node in nodes {
            node.set_busy(Some(self.reason));
            self.reserved.borrow_mut().push(node);
        }
    }

    /// Requires something of a node, or keeps others from it.
    ///
    /// # Errors
    /// A permission conflict.
    pub(crate) fn stake(&self, node: &Arc<Node>, stake: Stake) -> Result<(), GraphError> {
        self.stakes.borrow_mut().push(node.stake(stake)?);
        Ok(())
    }

    /// Keeps nobody from anything any more.
    pub(crate) fn allow(&self) {
        self.stakes.take();
    }

    /// Nothing stands for the job any more: who came to that comes to what is below it. In a turn of [`Registry::edit`].
    pub(crate) async fn unlist(&self, io: &Handle) {
        self.allow();
        if let Some(filter) = self.listed.take() {
            lead_past(io, &self.graph, &filter).await;
        }
    }

    /// Others may use the nodes that were reserved.
    pub(crate) fn free(&self) {
        self.allow();
        self.reserved.take().iter().for_each(|node| node.set_busy(None));
    }

    /// The job uses no nodes any more.
    pub(crate) fn release(&self) {
        self.used.take().into_iter().for_each(|(node, access)| node.let_go_for(access));
    }

    /// Gives all of it back when the job has ended.
    pub(crate) async fn end(&self, registry: &Registry) {
        let _turn = registry.edit().await;
        self.unlist(registry.io()).await;
        self.let_go();
    }

    /// Gives all of it back; who comes to what stands for the job stays there.
    pub(crate) fn let_go(&self) {
        self.listed.take().iter().for_each(|filter| self.graph.remove_filter(filter));
        self.free();
        self.release();
    }
}

impl Drop for Holdings {
    fn drop(&mut self) {
        self.let_go();
    }
}
