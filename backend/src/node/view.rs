//! What one root sees: its node, and what hangs there and on the nodes below, with where. Made when the epoch has moved,
//! then only read.

use super::copy_before_write::CopyBeforeWrite;
use super::options::Discard;
use super::points::{chain, shift};
use super::recording::Recording;
use super::{Driver, Kind, Node, Outcome, Request, Root};
use crate::error::IoError;
use crate::reactor::Handle;
use std::rc::Rc;
use std::sync::Arc;

/// Where a hook hangs.
#[derive(Clone, Copy)]
struct Place {
    /// Bytes from the root's node to the hook's.
    shift: u64,
    /// Whether discards get there.
    discards: bool,
}

impl Place {
    fn minds(self, kind: Kind) -> bool {
        kind != Kind::Discard || self.discards
    }
}

/// A copy, and this thread's door to its target.
struct Copying {
    copy: Arc<CopyBeforeWrite>,
    target: Rc<Root>,
    place: Place,
}

impl Copying {
    #[inline]
    fn owes(&self, request: &Request) -> bool {
        self.place.minds(request.kind) && !self.copy.lets_pass(request.offset + self.place.shift, request.len)
    }
}

/// What is recorded, and of which node.
struct Recorded {
    node: Arc<Node>,
    recording: Arc<Recording>,
    place: Place,
}

impl Recorded {
    #[inline]
    fn covers(&self, request: &Request) -> bool {
        let offset = request.offset.wrapping_add(self.place.shift);
        self.recording.covers(offset, request.len) || !self.place.minds(request.kind)
    }
}

/// A node, and this thread's way to it.
struct FlushedAlong {
    node: Arc<Node>,
    root: Rc<Root>,
}

/// The node and the hooks of one epoch.
pub(super) struct View {
    node: Arc<Node>,
    recorded: Vec<Recorded>,
    copies: Vec<Copying>,
    flushed_along: Vec<FlushedAlong>,
}

impl View {
    /// A node with nothing hanging there.
    pub(super) fn bare(node: Arc<Node>) -> Self {
        Self { node, recorded: Vec::new(), copies: Vec::new(), flushed_along: Vec::new() }
    }

    /// `node`, and what hangs there and below. Ways to other nodes are taken over from `last`.
    pub(super) fn new(node: &Arc<Node>, last: &View) -> Self {
        let mut view = Self::bare(node.clone());
        let mut place = Place { shift: 0, discards: true };
        for node in chain(node) {
            place.discards &= node.discard() != Discard::Ignore;
            let hooks = node.points.hooks();
            for copy in &hooks.copies {
                let known = last.copies.iter().find(|known| Arc::ptr_eq(&known.copy, copy));
                let target = known.map_or_else(|| Root::new(copy.target()), |known| known.target.clone());
                view.copies.push(Copying { copy: copy.clone(), target, place });
            }
            for node in &hooks.flushed_along {
                let known = last.flushed_along.iter().find(|known| Arc::ptr_eq(&known.node, node));
                let root = known.map_or_else(|| Root::new(node), |known| known.root.clone());
                view.flushed_along.push(FlushedAlong { node: node.clone(), root });
            }
            if !hooks.recording.is_none() {
                view.recorded.push(Recorded { node: node.clone(), recording: hooks.recording.clone(), place });
            }
            place.shift += shift(&node);
        }
        view
    }

    /// The node that requests go to.
    #[inline]
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Whether other nodes are flushed with this one.
    #[inline]
    pub(super) fn flushes_along(&self) -> bool {
        !self.flushed_along.is_empty()
    }

    /// Runs a stamped request to its end.
    pub(super) async fn handle(&self, io: &Handle, request: Request) -> Outcome {
        let stable = request.is_stable();
        let (memory, result) = self.node.handle(io, request).await;
        match result {
            Ok(()) if stable => (memory, self.flush_along(io).await),
            _ => (memory, result),
        }
    }

    async fn flush_along(&self, io: &Handle) -> Result<(), IoError> {
        for FlushedAlong { root, .. } in &self.flushed_along {
            // Such a node may have others in turn.
            Box::pin(root.handle(io, Request::flush())).await.1?;
        }
        Ok(())
    }

    /// Whether nothing is left to record of this request: it is covered and marked wherever changes are recorded.
    #[inline]
    pub(super) fn is_settled(&self, request: &Request) -> bool {
        let settled = |Recorded { recording, place, .. }: &Recorded| {
            recording.is_settled(request.offset.wrapping_add(place.shift), request.len)
        };
        self.recorded.iter().all(settled)
    }

    /// Marks the range in every bitmap of this epoch.
    pub(super) fn mark(&self, kind: Kind, offset: u64, len: u64) {
        for Recorded { recording, place, .. } in &self.recorded {
            if place.minds(kind) {
                recording.mark(offset.wrapping_add(place.shift), len);
            }
        }
    }

    /// Whether something has to be copied before this request.
    #[inline]
    pub(super) fn owes(&self, request: &Request) -> bool {
        self.copies.iter().any(|copying| copying.owes(request))
    }

    /// Whether something has to be copied before this request, not counting one copy.
    pub(super) fn is_owed_to_others(&self, request: &Request, copy: &Arc<CopyBeforeWrite>) -> bool {
        self.copies.iter().any(|copying| !Arc::ptr_eq(&copying.copy, copy) && copying.owes(request))
    }

    /// Whether this request stays within what the change journals have.
    #[inline]
    pub(super) fn covers(&self, request: &Request) -> bool {
        self.recorded.iter().all(|recorded| recorded.covers(request))
    }

    /// Has the change journals have what this request needs.
    ///
    /// # Errors
    /// A journal cannot be written, nor given up.
    pub(super) async fn cover(&self, io: &Handle, request: &Request) -> Result<(), IoError> {
        for Recorded { node, recording, place } in self.recorded.iter().filter(|recorded| !recorded.covers(request)) {
            if let (Driver::Qcow2(image), Some(areas)) = (node.driver(), recording.areas()) {
                image.cover_changes(io, areas, request.offset + place.shift, request.len).await?;
            }
        }
        Ok(())
    }

    /// Has everything copied that has to be before this request.
    ///
    /// # Errors
    /// What the guest is told if a copy fails, by the copy's `on-cbw-error`.
    pub(super) async fn copy_before(&self, io: &Handle, request: &Request, root: &Root) -> Result<(), IoError> {
        for Copying { copy, target, place } in self.copies.iter().filter(|copying| copying.place.minds(request.kind)) {
            copy.before(io, target, request.offset + place.shift, request.len, root).await?;
        }
        Ok(())
    }
}
