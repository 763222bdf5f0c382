//! Links that have to stay as they are: those from a `copy-on-read` filter with a `bottom` down to that.

use super::Graph;
use crate::node::{Driver, Node};
use std::fmt;
use std::sync::Arc;

/// A link that stays.
pub struct Frozen {
    above: Arc<Node>,
    below: Arc<Node>,
}

impl Frozen {
    /// What the node above calls the one below.
    pub fn role(&self) -> &'static str {
        if self.above.is_filter() { "file" } else { "backing" }
    }
}

/// As in QEMU's texts.
impl fmt::Display for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' link from '{}' to '{}'", self.role(), self.above.name(), self.below.name())
    }
}

impl Graph {
    /// The first link that stays of those from `node` down to `last`.
    pub fn frozen_between(&self, node: &Arc<Node>, last: &Arc<Node>) -> Option<Frozen> {
        let ends = |above: &Arc<Node>| Arc::ptr_eq(above, last);
        node.chain().take_while(|above| !ends(above)).find_map(|above| self.frozen_below(&above))
    }

    /// The link from `above` down, if it stays.
    pub(in crate::graph) fn frozen_below(&self, above: &Arc<Node>) -> Option<Frozen> {
        self.frozen().find(|link| Arc::ptr_eq(&link.above, above))
    }

    /// A link to `below` that stays.
    pub fn frozen_above(&self, below: &Arc<Node>) -> Option<Frozen> {
        self.frozen().find(|link| Arc::ptr_eq(&link.below, below))
    }

    fn frozen(&self) -> impl Iterator<Item = Frozen> {
        self.nodes().into_iter().flat_map(|filter| {
            let bottom = match filter.driver() {
                Driver::Passing(passing) => passing.bottom().cloned(),
                _ => None,
            };
            let links = filter.chain().zip(filter.chain().skip(1));
            let Some(bottom) = bottom else { return Vec::new() };
            let links = links.take_while(|(above, _)| !Arc::ptr_eq(above, &bottom));
            links.map(|(above, below)| Frozen { above, below }).collect()
        })
    }
}
