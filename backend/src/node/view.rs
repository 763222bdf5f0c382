//! What one root sees hanging on its node and the nodes below, with where: made when the epoch has moved, then only read.

use super::copy_before_write::CopyBeforeWrite;
use super::options::Discard;
use super::points::{chain, shift};
use super::{Driver, Kind, Node, Request, Root};
use crate::error::IoError;
use crate::reactor::Handle;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_cbt::Bitmap;
use tidemark_cbt::journal::Areas;

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

/// The areas of a change journal, and whose it is.
struct Journaled {
    node: Arc<Node>,
    areas: Arc<Areas>,
    place: Place,
}

impl Journaled {
    #[inline]
    fn covers(&self, request: &Request) -> bool {
        self.areas.cover(request.offset.wrapping_add(self.place.shift), request.len) || !self.place.minds(request.kind)
    }
}

/// Bitmaps of the root's own bytes, with the same blocks: most often all there are.
#[derive(Default)]
struct Alike {
    /// Log2 of bytes per block.
    bits: u32,
    /// None if the bitmaps differ.
    bitmaps: Vec<Arc<Bitmap>>,
}

impl Alike {
    fn of(marks: &[(Arc<Bitmap>, Place)]) -> Self {
        let Some((first, _)) = marks.first() else { return Self::default() };
        let bits = first.granularity().bits();
        let alike = marks.iter().all(|(bitmap, place)| bitmap.granularity().bits() == bits && place.shift == 0);
        let bitmaps = if alike { marks.iter().map(|(bitmap, _)| bitmap.clone()).collect() } else { Vec::new() };
        Self { bits, bitmaps }
    }

    /// Marks a range that is in one block, which most often was marked before; whether it did.
    #[inline]
    fn mark(&self, offset: u64, len: u64) -> bool {
        let [first, rest @ ..] = self.bitmaps.as_slice() else { return false };
        if (offset ^ offset.wrapping_add(len).wrapping_sub(1)) >> self.bits != 0 {
            return false;
        }
        let block = offset >> self.bits;
        if !first.has_block(block) {
            mark_one(first, offset, len);
        }
        for bitmap in rest {
            if !bitmap.has_block(block) {
                mark_one(bitmap, offset, len);
            }
        }
        true
    }
}

#[inline(never)]
fn mark_one(bitmap: &Bitmap, start: u64, len: u64) {
    bitmap.mark(start, len);
}

/// The hooks of one epoch.
#[derive(Default)]
pub(super) struct View {
    marks: Vec<(Arc<Bitmap>, Place)>,
    alike: Alike,
    copies: Vec<Copying>,
    journals: Vec<Journaled>,
    /// Something below gives space back.
    counts_all: bool,
}

impl View {
    /// What hangs on `node` and below. Doors to targets are taken over from `last`.
    pub(super) fn new(node: &Arc<Node>, last: &View) -> Self {
        let mut view = Self::default();
        let mut place = Place { shift: 0, discards: true };
        for node in chain(node) {
            place.discards &= node.discard() != Discard::Ignore;
            let hooks = node.points.hooks();
            view.marks.extend(hooks.bitmaps.iter().map(|bitmap| (bitmap.clone(), place)));
            for copy in &hooks.copies {
                let known = last.copies.iter().find(|known| Arc::ptr_eq(&known.copy, copy));
                let target = known.map_or_else(|| Root::new(copy.target()), |known| known.target.clone());
                view.copies.push(Copying { copy: copy.clone(), target, place });
            }
            if let Some(areas) = &hooks.areas {
                view.journals.push(Journaled { node: node.clone(), areas: areas.clone(), place });
            }
            view.counts_all |= node.gives_space_back();
            place.shift += shift(node);
        }
        view.alike = Alike::of(&view.marks);
        view
    }

    /// Whether requests that change nothing are counted, too.
    #[inline]
    pub(super) fn counts_all(&self) -> bool {
        self.counts_all
    }

    /// Marks the range in every bitmap of this epoch.
    #[inline]
    pub(super) fn mark(&self, kind: Kind, offset: u64, len: u64) {
        let marked = kind != Kind::Discard && self.alike.mark(offset, len);
        if !marked && !self.marks.is_empty() {
            self.mark_each(kind, offset, len);
        }
    }

    #[inline(never)]
    fn mark_each(&self, kind: Kind, offset: u64, len: u64) {
        for (bitmap, place) in self.marks.iter().filter(|(_, place)| place.minds(kind)) {
            bitmap.mark(offset + place.shift, len);
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
        self.journals.iter().all(|journaled| journaled.covers(request))
    }

    /// Has the change journals have what this request needs.
    ///
    /// # Errors
    /// A journal cannot be written, nor given up.
    pub(super) async fn cover(&self, io: &Handle, request: &Request) -> Result<(), IoError> {
        for Journaled { node, areas, place } in self.journals.iter().filter(|journaled| !journaled.covers(request)) {
            if let Driver::Qcow2(image) = node.driver() {
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
