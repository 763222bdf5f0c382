//! The contexts of an export that a client has chosen, and their numbers.

use super::Offer;
use crate::nbd_wire::handshake::{
    ALLOCATION_DEPTH, BASE_ALLOCATION, DIRTY_BITMAP, Malformed, MetaContext, MetaQueries,
};

/// The number of `base:allocation`.
pub const BASE_ID: u32 = 0;
/// The number of `qemu:allocation-depth`.
pub const DEPTH_ID: u32 = 1;
/// The number of the export's first bitmap; the others follow.
pub const BITMAP_ID: u32 = 2;

/// What a client has selected of which export.
pub(super) struct Selection {
    pub(super) export: String,
    pub(super) contexts: Contexts,
}

/// Contexts of one export, by number, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contexts(Vec<u32>);

impl Contexts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their numbers.
    pub fn ids(&self) -> &[u32] {
        &self.0
    }

    /// Those of these numbers, `None` if one is not among them or comes twice.
    pub fn of_ids(&self, ids: &[u32]) -> Option<Self> {
        let mut some = ids.to_vec();
        some.sort_unstable();
        let twice = some.windows(2).any(|pair| pair[0] == pair[1]);
        let known = some.iter().all(|id| self.0.contains(id));
        (known && !twice).then_some(Self(some))
    }

    /// Those that queries match. In a list none is all, and the beginnings of names are names of many.
    pub(super) fn matching(offer: &Offer, queries: MetaQueries<'_>, is_list: bool) -> Result<Self, Malformed> {
        let all = all(offer);
        let takes_all = is_list && queries.is_empty();
        let mut taken = vec![takes_all; all.len()];
        for query in queries {
            let query = query?;
            let wild = is_list && [b"base:".as_slice(), b"qemu:", DIRTY_BITMAP.as_bytes()].contains(&query);
            for (taken, context) in taken.iter_mut().zip(&all) {
                let name = context.name.as_bytes();
                *taken |= name == query || (wild && name.starts_with(query));
            }
        }
        let ids = all.iter().zip(taken).filter(|(_, taken)| *taken).map(|(context, _)| context.id);
        Ok(Self(ids.collect()))
    }

    /// With their names. In a list their numbers say nothing.
    pub(super) fn described(&self, offer: &Offer, is_set: bool) -> Vec<MetaContext> {
        let mut described = all(offer);
        described.retain(|context| self.0.contains(&context.id));
        if !is_set {
            described.iter_mut().for_each(|context| context.id = 0);
        }
        described
    }
}

/// All contexts of an export.
fn all(offer: &Offer) -> Vec<MetaContext> {
    let depth = offer.allocation_depth.then(|| MetaContext { id: DEPTH_ID, name: ALLOCATION_DEPTH.into() });
    let bitmaps = offer.bitmaps.iter().zip(BITMAP_ID..);
    let bitmaps = bitmaps.map(|(bitmap, id)| MetaContext { id, name: format!("{DIRTY_BITMAP}{bitmap}") });
    let base = MetaContext { id: BASE_ID, name: BASE_ALLOCATION.into() };
    std::iter::once(base).chain(depth).chain(bitmaps).collect()
}
