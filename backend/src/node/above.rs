//! The chain of images below a node, and what those above one of them have of a range.
//!
//! A filter shows what is below it and is no image; a node that is no image ends its chain.

use super::qcow2::status::Own;
use super::{Driver, Node, Status};
use crate::error::IoError;
use crate::reactor::Handle;
use std::sync::Arc;

impl Node {
    /// Whether it shows what is below it, and has nothing itself.
    pub fn is_filter(&self) -> bool {
        matches!(
            &self.driver,
            Driver::BlkDebug(_) | Driver::Throttle(_) | Driver::Passing(_) | Driver::CopyBeforeWrite(_)
        )
    }

    /// The next node of the chain: what is below a filter, or what an image shows where it has nothing.
    pub fn below(&self) -> Option<Arc<Node>> {
        match self.driver() {
            Driver::Qcow2(image) => image.backing(),
            _ if self.is_filter() => self.child(),
            _ => None,
        }
    }

    /// Its chain, from itself on.
    pub fn chain(self: &Arc<Self>) -> impl Iterator<Item = Arc<Node>> + use<> {
        std::iter::successors(Some(self.clone()), |node| node.below())
    }

    /// The first of its chain that is no filter.
    pub fn unfiltered(self: &Arc<Self>) -> Arc<Node> {
        self.chain().find(|node| !node.is_filter()).unwrap_or_else(|| self.clone())
    }

    /// What the images from this node down to `last`, which is one of its chain, have of the bytes from `offset` on, at
    /// most `len` and at least one: of which of them it is says `depth`, 1 for the uppermost, 0 for none. An image that
    /// ends before `offset` has zeroes there for those above it.
    ///
    /// # Errors
    /// The storage's.
    pub async fn status_above(
        self: &Arc<Self>,
        io: &Handle,
        offset: u64,
        len: u64,
        last: &Arc<Node>,
    ) -> Result<Status, IoError> {
        let (mut node, mut len, mut depth) = (self.clone(), len, 1);
        loop {
            let Driver::Qcow2(image) = node.driver() else {
                if !node.is_filter() {
                    let status = node.status(io, offset, len).await?;
                    return Ok(Status { depth: if status.depth > 0 { depth } else { 0 }, ..status });
                }
                let Some(child) = node.child() else { return Ok(Status::nothing(len)) };
                node = child;
                continue;
            };
            let (own_len, own) = image.own(io, offset, len).await?;
            match own {
                Own::Nothing => {}
                Own::Zero { .. } => return Ok(Status { depth, ..Status::zeroes(own_len) }),
                Own::Data { .. } | Own::Compressed => return Ok(Status { depth, ..Status::data(own_len) }),
            }
            let Some(next) = image.backing().filter(|_| !Arc::ptr_eq(&node, last)) else {
                return Ok(Status::nothing(own_len));
            };
            depth += 1;
            len = match next.length().checked_sub(offset) {
                Some(rest) if rest > 0 => own_len.min(rest),
                _ => return Ok(Status { depth, ..Status::zeroes(own_len) }),
            };
            node = next;
        }
    }
}
