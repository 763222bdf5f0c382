//! What one root sees: its node, and what hangs there and on the nodes below, with where. Made when the epoch has moved,
//! then only read.

use super::copy_before_write::CopyBeforeWrite;
use super::gate::Gate;
use super::mirroring::{Active, Mirroring};
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

/// A gate, and where it stands.
struct Gated {
    gate: Arc<Gate>,
    place: Place,
}

impl Gated {
    #[inline]
    fn stops(&self, request: &Request) -> bool {
        self.place.minds(request.kind) && !self.gate.lets_pass(request.offset + self.place.shift, request.len)
    }
}

/// A mirror, and this thread's way to its target.
struct Mirrored {
    mirror: Arc<Mirroring>,
    target: Rc<Root>,
    /// What changes reaches the target before it completes.
    blocking: bool,
    place: Place,
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
    gates: Vec<Gated>,
    mirrors: Vec<Mirrored>,
    flushed_along: Vec<FlushedAlong>,
}

impl View {
    /// A node with nothing hanging there.
    pub(super) fn bare(node: Arc<Node>) -> Self {
        let (copies, gates, mirrors) = (Vec::new(), Vec::new(), Vec::new());
        Self { node, recorded: Vec::new(), copies, gates, mirrors, flushed_along: Vec::new() }
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
            view.gates.extend(hooks.gates.iter().map(|gate| Gated { gate: gate.clone(), place }));
            for mirror in &hooks.mirrors {
                let known = last.mirrors.iter().find(|known| Arc::ptr_eq(&known.mirror, mirror));
                let target = known.map_or_else(|| Root::new(mirror.target()), |known| known.target.clone());
                let (mirror, blocking) = (mirror.clone(), mirror.is_blocking());
                view.mirrors.push(Mirrored { mirror, target, blocking, place });
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

    /// The mirror whose target a request of this kind reaches before it completes. If there are several, the others get
    /// what changes later.
    fn blocking_mirror(&self, kind: Kind) -> Option<&Mirrored> {
        self.mirrors.iter().find(|mirrored| mirrored.blocking && kind.changes() && mirrored.place.minds(kind))
    }

    /// Whether a request of this kind has to go to a mirror's target, too.
    #[inline]
    pub(super) fn is_mirrored(&self, kind: Kind) -> bool {
        !self.mirrors.is_empty() && self.blocking_mirror(kind).is_some()
    }

    /// Waits until a request that has to go to a mirror's target has its range to itself.
    pub(super) async fn hold_mirrored(&self, request: &Request) -> Option<Active> {
        let Mirrored { mirror, target, place, .. } = self.blocking_mirror(request.kind)?;
        Some(Active::begin(mirror, target, request, place.shift).await)
    }

    /// Whether that is the mirror that a request of this kind has to go to, if any.
    pub(super) fn mirrors_as(&self, kind: Kind, active: Option<&Active>) -> bool {
        self.blocking_mirror(kind).map(|mirrored| &mirrored.mirror).map(Arc::as_ptr)
            == active.map(|active| Arc::as_ptr(active.mirroring()))
    }

    /// Runs a stamped request to its end, with the mirror whose target it has to go to.
    pub(super) async fn handle(&self, io: &Handle, request: Request, active: Option<Active>) -> Outcome {
        let stable = request.is_stable();
        let (memory, result) = match active {
            None => self.node.handle(io, request).await,
            Some(active) => Box::pin(active.handle(io, &self.node, request)).await,
        };
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
        self.mirrors.is_empty() && self.recorded.iter().all(settled)
    }

    /// Marks the range in every bitmap of this epoch.
    pub(super) fn mark(&self, kind: Kind, offset: u64, len: u64) {
        for Recorded { recording, place, .. } in &self.recorded {
            if place.minds(kind) {
                recording.mark(offset.wrapping_add(place.shift), len);
            }
        }
        if !self.mirrors.is_empty() {
            self.mark_mirrored(kind, offset, len);
        }
    }

    /// Marks the range for the mirrors that get what changes later.
    #[cold]
    fn mark_mirrored(&self, kind: Kind, offset: u64, len: u64) {
        let active = self.blocking_mirror(kind).map(std::ptr::from_ref);
        for mirrored in self.mirrors.iter().filter(|mirrored| mirrored.place.minds(kind)) {
            if active != Some(std::ptr::from_ref(mirrored)) {
                mirrored.mirror.mark(offset.wrapping_add(mirrored.place.shift), len);
            }
        }
    }

    /// Whether something has to be copied or waited for before this request.
    #[inline]
    pub(super) fn owes(&self, request: &Request) -> bool {
        self.copies.iter().any(|copying| copying.owes(request)) || self.gates.iter().any(|gated| gated.stops(request))
    }

    /// Whether something has to be copied before this request, not counting one copy.
    pub(super) fn is_owed_to_others(&self, request: &Request, copy: &Arc<CopyBeforeWrite>) -> bool {
        self.copies.iter().any(|copying| !Arc::ptr_eq(&copying.copy, copy) && copying.owes(request))
            || self.gates.iter().any(|gated| gated.stops(request))
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

    /// Has everything copied that has to be before this request, and waits at gates.
    ///
    /// # Errors
    /// What the guest is told if a copy fails, by the copy's `on-cbw-error`.
    pub(super) async fn copy_before(&self, io: &Handle, request: &Request, root: &Root) -> Result<(), IoError> {
        for Copying { copy, target, place } in self.copies.iter().filter(|copying| copying.place.minds(request.kind)) {
            copy.before(io, target, request.offset + place.shift, request.len, root).await?;
        }
        for Gated { gate, place } in self.gates.iter().filter(|gated| gated.place.minds(request.kind)) {
            gate.passage(request.offset + place.shift, request.len).await;
        }
        Ok(())
    }
}
