//! What a job keeps others from at nodes whose content it is about to change for everybody but its own chain.
//!
//! The texts are those of QEMU's permissions. Exports that were there before are looked for by [`Node::check_export`].

use super::{Driver, Node};
use crate::error::GraphError;
use crate::io::lock::Access;
use std::sync::Arc;

/// What others may not do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Read and write, also through images above that are not of the job's chain.
    All,
    /// Write.
    Writes,
}

/// A job's word on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What.
    pub denied: Denied,
    /// Whose, as QEMU says it: `commit job 'j' (uses node 'n' as 'intermediate node' child)`.
    pub by: String,
    /// Nodes right above, by name, through which the job's own chain comes.
    pub chain: Vec<String>,
}

impl Denial {
    /// QEMU's names of what such a user needs and does not get.
    fn refused(&self, access: Access) -> Option<&'static str> {
        match (self.denied, access) {
            (Denied::All, Access::Write) => Some("consistent read, write"),
            (Denied::All, Access::Read | Access::Format) => Some("consistent read"),
            (Denied::All | Denied::Writes, Access::Target) | (Denied::Writes, Access::Write) => Some("write"),
            (Denied::Writes, Access::Read | Access::Format) => None,
        }
    }
}

/// An export of a node, as QEMU calls it.
fn unnamed(node: &str) -> String {
    format!("an unnamed block device (uses node '{node}' as 'root' child)")
}

/// A node that comes to one below.
fn parent(above: &Node, node: &str) -> String {
    let role = if matches!(above.driver(), Driver::Qcow2(_)) { "backing" } else { "file" };
    format!("node '{}' (uses node '{node}' as '{role}' child)", above.name())
}

fn conflict(node: &str, what: &str, by: &str, denial: &Denial) -> GraphError {
    let unshared = &denial.by;
    GraphError::Options(format!(
        "Permission conflict on node '{node}': permissions '{what}' are both required by {by} and unshared by {unshared}."
    ))
}

impl Node {
    /// Has others refused from now on until [`Node::allow`].
    pub fn deny(&self, denial: Denial) {
        self.claims().denied().push(denial);
    }

    /// Takes one denial back.
    pub fn allow(&self, denial: &Denial) {
        let mut claims = self.claims();
        let at = claims.denied().iter().position(|other| other == denial);
        at.into_iter().for_each(|at| drop(claims.denied().remove(at)));
    }

    /// Refuses a user whom a job keeps from this node or from one below.
    pub(super) fn check_denied(&self, access: Access) -> Result<(), GraphError> {
        let refused = |denial: &Denial| Some((denial.refused(access)?, denial.clone()));
        if let Some((what, denial)) = self.claims().denied().iter().find_map(refused) {
            return Err(conflict(self.name(), what, &unnamed(self.name()), &denial));
        }
        let Some(mut below) = self.below() else { return Ok(()) };
        let mut conflicts = self.conflict_with(&below);
        while let (None, Some(next)) = (&conflicts, below.below()) {
            conflicts = below.conflict_with(&next);
            below = next;
        }
        conflicts.map_or(Ok(()), Err)
    }

    /// What a reader of this node would meet right below it.
    fn conflict_with(&self, below: &Node) -> Option<GraphError> {
        let reads = |denial: &&Denial| denial.denied == Denied::All && !denial.chain.iter().any(|of| of == self.name());
        let denial = below.claims().denied().iter().find(reads).cloned()?;
        Some(conflict(below.name(), "consistent read", &parent(self, below.name()), &denial))
    }

    /// Refuses a denial that comes too late: this node is an export's, which is denied what it does with the node `at`,
    /// itself or one below it.
    ///
    /// # Errors
    /// A permission conflict.
    pub fn check_export(self: &Arc<Self>, at: &Arc<Node>, denial: &Denial) -> Result<(), GraphError> {
        if !self.points().has_doors() {
            return Ok(());
        }
        if Arc::ptr_eq(self, at) {
            let access = if self.is_written() { Access::Write } else { Access::Read };
            return match denial.refused(access) {
                Some(what) => Err(conflict(at.name(), what, &unnamed(at.name()), denial)),
                None => Ok(()),
            };
        }
        let mut links = self.chain().zip(self.chain().skip(1));
        let stranger = links
            .find(|(above, below)| Arc::ptr_eq(below, at) && !denial.chain.iter().any(|name| name == above.name()));
        match stranger.filter(|_| denial.denied == Denied::All) {
            Some((above, _)) => Err(conflict(at.name(), "consistent read", &parent(&above, at.name()), denial)),
            None => Ok(()),
        }
    }
}
