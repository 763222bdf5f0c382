//! What one root sees hanging on its node and the nodes below, with where: made when the epoch has moved, then only read.

use super::copy_before_write::CopyBeforeWrite;
use super::options::Discard;
use super::points::{chain, shift};
use super::{Kind, Node, Request, Root};
use crate::error::IoError;
use crate::reactor::Handle;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_cbt::Bitmap;

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

/// The blocks that all bitmaps have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Grid {
    /// Log2 of bytes per block.
    bits: u32,
    /// Bytes from the root's node to the bitmaps'.
    shift: u64,
}

/// The hooks of one epoch.
#[derive(Default)]
pub(super) struct View {
    marks: Vec<(Arc<Bitmap>, Place)>,
    /// `None` if there are no bitmaps, or such with different blocks.
    grid: Option<Grid>,
    copies: Vec<Copying>,
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
            view.counts_all |= node.gives_space_back();
            place.shift += shift(node);
        }
        let mut grids = view.marks.iter().map(|(bitmap, place)| {
            let bits = bitmap.granularity().bits();
            Grid { bits, shift: place.shift }
        });
        view.grid = grids.next().filter(|first| grids.all(|grid| grid == *first));
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
        if self.marks.is_empty() {
            return;
        }
        let Some(Grid { bits, shift }) = self.grid.filter(|_| kind != Kind::Discard) else {
            return self.mark_each(kind, offset, len);
        };
        let start = offset + shift;
        let (first, last) = (start >> bits, start.wrapping_add(len).wrapping_sub(1) >> bits);
        if first != last {
            return self.mark_each(kind, offset, len);
        }
        // Most changes end here: one block, marked before.
        for (bitmap, _) in &self.marks {
            if !bitmap.has_block(first) {
                bitmap.mark(start, len);
            }
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
