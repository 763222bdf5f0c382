//! What a mirror is to do, once that was checked, and how far it is.

use super::CopyMode;
use crate::context::OnError;
use std::cell::Cell;
use std::sync::Arc;
use tidemark_backend::node::qcow2::image::Image;
use tidemark_backend::node::{Driver, Node};
use tidemark_cbt::Granularity;

/// What a mirror and an active commit have in common.
pub(super) struct Plan {
    pub(super) source: Arc<Node>,
    pub(super) target: Arc<Node>,
    /// What the target takes the place of.
    pub(super) replaced: Arc<Node>,
    pub(super) start: Start,
    /// What is said of nodes that the job has for itself.
    pub(super) reason: &'static str,
    pub(super) granularity: Granularity,
    /// Copies at a time.
    pub(super) workers_max: usize,
    pub(super) on_source_error: OnError,
    pub(super) on_target_error: OnError,
    pub(super) unmap: bool,
    pub(super) copy_mode: CopyMode,
    /// The target is made as long as the source.
    pub(super) grows: bool,
    /// The target did not take writes before the job.
    pub(super) reopened: bool,
    /// The target, if it was opened for the job.
    pub(super) opened: Option<Arc<Node>>,
    /// Nodes between the two, which nobody else may use meanwhile.
    pub(super) between: Vec<Arc<Node>>,
}

impl Plan {
    /// Whether the target shows zeroes for good where it has nothing. An image that its header or its user puts over
    /// another one need not be over that yet.
    pub(super) fn keeps_its_zeroes(&self) -> bool {
        let named = |image: &Image| image.backing().is_some() || image.header().backing.is_some();
        let is_over_another = |node: &Arc<Node>| matches!(node.driver(), Driver::Qcow2(image) if named(image));
        let mut shown = std::iter::successors(Some(self.target.clone()), |node| node.child());
        matches!(self.start, Start::All) && !shown.any(|node| is_over_another(&node))
    }
}

/// What is copied at first.
pub(super) enum Start {
    All,
    /// What the images down to this one have.
    Above(Arc<Node>),
    Nothing,
}

/// How far it is.
#[derive(Default)]
pub(super) struct State {
    /// Bytes that were copied.
    pub(super) done: Cell<u64>,
    /// Bytes that are taken or being copied.
    pub(super) under_way: Cell<u64>,
    /// Changes have to reach the target before they complete from now on.
    pub(super) wants_blocking: Cell<bool>,
    /// They do, and what was under way before has ended.
    pub(super) blocks: Cell<bool>,
    /// The guest's flushes reach the target, too.
    pub(super) flushes_along: Cell<bool>,
    /// It was in sync when it was last looked at, and changes reach both.
    pub(super) synced: Cell<bool>,
    /// It does not get to the end of what is changed.
    pub(super) behind: Cell<bool>,
    pub(super) installed: Cell<bool>,
    /// The target is to take the source's place.
    pub(super) pivots: Cell<bool>,
    /// It has.
    pub(super) pivoted: Cell<bool>,
}
