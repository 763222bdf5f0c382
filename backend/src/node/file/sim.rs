//! File nodes for the simulator: storage whose blocks are as large as a test wants, whatever this machine's are.

use super::File;
use super::mode::Mode;
use crate::node::{Driver, Node, NodeOptions};
use std::sync::Arc;

impl File {
    /// This file as if it had been opened with O_DIRECT on storage with blocks of `alignment` bytes.
    #[must_use]
    pub fn with_direct_alignment(self, alignment: u32) -> Self {
        self.mode.set(Mode { direct: true, alignment, memory_alignment: alignment, ..self.mode.get() });
        self
    }
}

impl Node {
    /// A node around a driver, outside of any graph; a driver with a child becomes its parent.
    pub fn simulated(options: &NodeOptions, driver: Driver, length: u64) -> Arc<Node> {
        let name = options.node_name.clone().unwrap_or_default();
        let node = Arc::new(Node::new(name, true, options, length, driver));
        node.adopt_children().expect("nobody closes what is in no graph");
        node
    }
}
