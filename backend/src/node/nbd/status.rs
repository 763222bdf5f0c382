//! What the server says of content without sending it.

use super::Nbd;
use crate::error::IoError;
use crate::nbd_wire::transmission::{Command, Extent, Headers, STATE_HOLE, STATE_ZERO, command_flags};
use crate::node::status::Status;

/// Bytes asked for at once, with 32 bits of length.
const ASKED_MAX: u64 = 1 << 31;

impl Nbd {
    /// What the context that was asked for on opening (`base:allocation`, or `x-dirty-bitmap`) says of the bytes from
    /// `offset` on: at least one extent, together maybe less than `len`, never more. `None` if the server has no such
    /// context.
    ///
    /// # Errors
    /// The server's.
    pub async fn extents(&self, offset: u64, len: u64, only_one: bool) -> Result<Option<Vec<Extent>>, IoError> {
        let end = offset.saturating_add(len).min(self.agreed.size);
        if self.agreed.context.is_none() || offset >= end {
            return Ok(None);
        }
        let align = u64::from(self.agreed.minimum);
        let start = offset / align * align;
        let most = if self.agreed.headers == Headers::Extended { end - start } else { ASKED_MAX };
        let asked = (end.next_multiple_of(align).min(self.agreed.size) - start).min(most);
        let flags = if only_one { command_flags::REQ_ONE } else { 0 };
        let done = self.client.run((Command::BlockStatus, flags), (start, asked), None).await?;
        done.result?;
        Ok(Some(cut_out(done.extents, offset - start, end - offset)))
    }

    /// The same as [`Status`].
    pub(in crate::node) async fn status(&self, offset: u64, len: u64) -> Result<Status, IoError> {
        // Bytes of a last sector that the server has only a part of.
        if offset >= self.agreed.size {
            return Ok(Status::zeroes(len));
        }
        let Some(extents) = self.extents(offset, len, true).await? else { return Ok(Status::data(len)) };
        let Some(Extent { len, flags }) = extents.first().copied() else { return Ok(Status::data(len)) };
        // Deeper is not different.
        let is_depth = self.options.dirty_bitmap.as_deref() == Some("qemu:allocation-depth");
        let flags = if is_depth && flags > 2 { 2 } else { flags };
        Ok(Status { len, data: flags & STATE_HOLE == 0, zero: flags & STATE_ZERO != 0, depth: 1 })
    }

    /// How far the content is all zeroes or may be data. What some other context says is no word on that.
    pub(in crate::node) async fn extent(&self, offset: u64, len: u64) -> Result<(u64, bool), IoError> {
        if self.options.dirty_bitmap.is_some() {
            return Ok((len, true));
        }
        let status = self.status(offset, len).await?;
        Ok((status.len, !status.zero))
    }
}

/// Leaves out `skip` bytes at the beginning and what comes after `len` more.
fn cut_out(extents: Vec<Extent>, skip: u64, len: u64) -> Vec<Extent> {
    let (mut skip, mut left) = (skip, len);
    let mut cut = Vec::with_capacity(extents.len());
    for Extent { len, flags } in extents {
        let here = len.saturating_sub(skip).min(left);
        skip = skip.saturating_sub(len);
        left -= here;
        if here > 0 {
            cut.push(Extent { len: here, flags });
        }
    }
    cut
}
