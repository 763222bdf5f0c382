//! `x-query-changed-extents`: what has changed on a node, for tools that copy it by themselves.
//!
//! Knows pages and names on the wire; which bitmaps answer is decided below.

use tidemark_backend::bitmaps::Changed;
use tidemark_jobs::changed::{Wanted, changed};

use crate::block;
use crate::command::declare_commands;
use crate::context::Context;
use crate::error::QmpError;
use crate::schema::qapi_struct;

/// The extents of a reply if nobody says how many.
const LIMIT: u32 = 1000;
/// The most extents of a reply.
const LIMIT_MAX: u32 = 65536;

declare_commands! {
    /// Tells which parts of a disk may have changed since a point in time, from the bitmaps that have recorded since then:
    /// every change since then, in whole blocks of these bitmaps, and what else they mark. Not in QEMU.
    "x-query-changed-extents" => query: (QueryChangedExtents) -> ChangedExtents;
}

qapi_struct! {
    /// Arguments of `x-query-changed-extents`. One of `since` and `bitmap` is needed.
    pub struct QueryChangedExtents "x-query-changed-extents-arg" {
        /// The node.
        "node" node: String,
        /// The `x-change-id` that the node or one of its bitmaps had at a point in time, or the `change-id` of an earlier
        /// reply.
        "since" since: Option<String>,
        /// A bitmap of the node: tells what it marks, also while somebody uses it.
        "bitmap" bitmap: Option<String>,
        /// Where to begin, in bytes: `next` of the reply before. 0 if absent.
        "offset" offset: Option<u64>,
        /// How many extents to tell of at most, up to 65536; 1000 if absent.
        "limit" limit: Option<u32>,
    }
}

qapi_struct! {
    /// What may have changed.
    pub struct ChangedExtents "ChangedExtents" {
        /// In order, none touching another.
        "extents" extents: Vec<ChangedExtent>,
        /// Present if there may be more: the `offset` to ask with then.
        "next" next: Option<u64>,
        /// The last point in time before the reply, if there has been one: all that was changed before it is told, and on
        /// the disk. Ask since this one next time; of several replies in a row, since that of the first.
        "change-id" change_id: Option<String>,
        /// The bitmaps that the reply is made of.
        "bitmaps" bitmaps: Vec<String>,
    }
}

qapi_struct! {
    /// A part of a disk.
    pub struct ChangedExtent "ChangedExtent" {
        /// Where it begins, in bytes.
        "offset" offset: u64,
        /// Its length in bytes.
        "length" length: u64,
    }
}

impl ChangedExtents {
    fn new(changed: &Changed, from: u64, limit: u32) -> Self {
        let page = changed.page(from, usize::try_from(limit).unwrap_or(usize::MAX));
        let extent = |extent: std::ops::Range<u64>| ChangedExtent {
            offset: extent.start,
            length: extent.end.saturating_sub(extent.start),
        };
        Self {
            extents: page.extents.into_iter().map(extent).collect(),
            next: page.next,
            change_id: changed.point.map(|point| point.to_string()),
            bitmaps: changed.bitmaps.clone(),
        }
    }
}

fn query(context: &Context, arguments: QueryChangedExtents) -> Result<ChangedExtents, QmpError> {
    let node = block::node(context, &arguments.node)?;
    let wanted = match (arguments.since, arguments.bitmap) {
        (Some(id), None) => Wanted::Since(id),
        (None, Some(bitmap)) => Wanted::MarkedIn(bitmap),
        _ => return Err(QmpError::generic("Exactly one of 'since' and 'bitmap' is needed")),
    };
    let limit = arguments.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(QmpError::generic(format!("Parameter 'limit' expects a value from 1 to {LIMIT_MAX}")));
    }
    let changed = changed(&context.jobs, &context.graph, &node, wanted)?;
    Ok(ChangedExtents::new(&changed, arguments.offset.unwrap_or(0), limit))
}
