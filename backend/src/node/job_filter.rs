//! What stands for a job in lists of nodes: a filter over the node that the job follows. It shows what is below it and
//! has nothing itself; what the job wants of requests hangs on the node below.

use super::{Map, Node, Outcome, Request};
use crate::reactor::Handle;
use std::sync::Arc;

/// A filter that only stands for something.
pub struct JobFilter {
    child: Arc<Node>,
    driver: &'static str,
}

impl JobFilter {
    /// A filter over `child` that is listed with this driver.
    pub(crate) fn new(child: &Arc<Node>, driver: &'static str) -> Self {
        Self { child: child.clone(), driver }
    }

    /// The node below.
    pub fn child(&self) -> &Arc<Node> {
        &self.child
    }

    /// QEMU's name of the driver.
    pub fn driver_name(&self) -> &'static str {
        self.driver
    }

    #[inline(never)]
    pub(super) fn map(&self, request: &Request, offset: u64) -> Map {
        self.child.map_at(request, offset)
    }

    pub(super) async fn handle(&self, io: &Handle, request: Request) -> Outcome {
        self.child.handle(io, request).await
    }
}
