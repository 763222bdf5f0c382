//! What a node says of a range of its content, as the extents of a context.

use super::extents::Extents;
use crate::error::IoError;
use crate::nbd_wire::transmission::{STATE_HOLE, STATE_ZERO};
use crate::node::{Node, Status};
use crate::reactor::Handle;
use std::ops::Range;
use std::task::Poll;

/// Bytes of which a node is asked at a time, and times that it is asked before others have their turn: what is in memory
/// is answered without waiting, and there may be terabytes of it.
const PIECE: u64 = 4 << 30;
const TURN: u32 = 1024;

/// Which context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// `base:allocation`
    Allocation,
    /// `qemu:allocation-depth`
    Depth,
}

/// Adds what a node says of a range, as far as there is room.
///
/// # Errors
/// The storage's.
pub async fn look(
    io: &Handle,
    node: &Node,
    range: Range<u64>,
    told: Told,
    extents: &mut Extents,
) -> Result<(), IoError> {
    let mut at = range.start;
    let mut looks = 0;
    while at < range.end {
        let status = node.status(io, at, (range.end - at).min(PIECE)).await?;
        if !extents.add(status.len, flags(&status, told)) {
            return Ok(());
        }
        at += status.len;
        looks += 1;
        if looks % TURN == 0 || status.len == PIECE {
            let_others().await;
        }
    }
    Ok(())
}

fn flags(status: &Status, told: Told) -> u64 {
    match told {
        Told::Depth => u64::from(status.depth),
        Told::Allocation => {
            let hole = if status.data { 0 } else { STATE_HOLE };
            let zero = if status.zero { STATE_ZERO } else { 0 };
            hole | zero
        }
    }
}

/// Has other tasks of the thread, and its ring, have a turn.
async fn let_others() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
