//! One reply, or one chunk of one: checked against the command that it is a reply to, and its payload put where it belongs.

use super::session::{Lost, Session};
use crate::error::IoError;
use crate::nbd_wire::transmission::{
    Chunk, Command, Failure, Headers, Hole, REPLY_DONE, ReplyHead, STATUS_EXTENTS_MAX, Status, WireError, chunk_kind,
    from_wire,
};
use crate::stream::Reader;

/// Descriptors of a block status that are looked at; a server may know more, and is asked again.
const EXTENTS_MAX: u64 = 64 * 1024;

fn broken(text: &str) -> Lost {
    Lost::Protocol(text.to_owned())
}

impl From<WireError> for Lost {
    fn from(error: WireError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// A connection that ends in the middle was cut; whoever is behind it may be back.
impl From<IoError> for Lost {
    fn from(_: IoError) -> Self {
        Self::Cut
    }
}

/// Takes what comes next.
pub(super) async fn take(session: &Session, reader: &mut Reader) -> Result<(), Lost> {
    let headers = session.agreed.headers;
    let mut bytes = [0; 32];
    reader.read_exact(&mut bytes[..4]).await?;
    let size = ReplyHead::size([bytes[0], bytes[1], bytes[2], bytes[3]], headers)?;
    reader.read_exact(&mut bytes[4..size]).await?;
    match ReplyHead::decode(&bytes[..size], headers)? {
        ReplyHead::Simple { cookie, error } => take_simple(session, reader, cookie, error).await,
        ReplyHead::Chunk(chunk) => take_chunk(session, reader, chunk).await,
    }
}

async fn take_simple(session: &Session, reader: &mut Reader, cookie: u64, error: u32) -> Result<(), Lost> {
    let structured = session.agreed.headers != Headers::Simple;
    let reads = session.with(cookie, |pending| match pending.command {
        Command::Read | Command::BlockStatus if structured => {
            Err(broken("Protocol error: simple reply when structured reply chunk was expected"))
        }
        command => Ok((command == Command::Read && error == 0).then_some((pending.offset, pending.len))),
    })?;
    if let Some((offset, len)) = reads {
        take_data(session, reader, cookie, offset, len).await?;
    }
    session.with(cookie, |pending| {
        pending.error = (error != 0).then(|| from_wire(error));
        pending.end(Ok(()));
        Ok(())
    })
}

async fn take_chunk(session: &Session, reader: &mut Reader, chunk: Chunk) -> Result<(), Lost> {
    let command = session.with(chunk.cookie, |pending| Ok(pending.command))?;
    match chunk.kind {
        chunk_kind::NONE if chunk.len > 0 => return Err(broken("Protocol error: NONE chunk with payload")),
        chunk_kind::NONE if chunk.flags & REPLY_DONE == 0 => {
            return Err(broken("Protocol error: NBD_REPLY_TYPE_NONE chunk without NBD_REPLY_FLAG_DONE flag set"));
        }
        chunk_kind::NONE => {}
        chunk_kind::OFFSET_DATA if command == Command::Read => {
            let len = chunk.len.checked_sub(8).filter(|len| *len > 0);
            let len = len.ok_or_else(|| broken("Protocol error: invalid payload for NBD_REPLY_TYPE_OFFSET_DATA"))?;
            let mut offset = [0; 8];
            reader.read_exact(&mut offset).await?;
            take_data(session, reader, chunk.cookie, u64::from_be_bytes(offset), len).await?;
        }
        chunk_kind::OFFSET_HOLE if command == Command::Read => take_hole(session, reader, chunk).await?,
        chunk_kind::BLOCK_STATUS | chunk_kind::BLOCK_STATUS_EXT if command == Command::BlockStatus => {
            take_status(session, reader, chunk).await?;
        }
        kind if kind & chunk_kind::IS_ERROR != 0 => take_error(session, reader, chunk).await?,
        kind => return Err(Lost::Protocol(format!("Unexpected reply type: {kind} for a command of another kind"))),
    }
    if chunk.flags & REPLY_DONE == 0 { Ok(()) } else { session.with(chunk.cookie, |pending| pending.complete()) }
}

/// Data of a read, for a part of its range.
async fn take_data(session: &Session, reader: &mut Reader, cookie: u64, offset: u64, len: u64) -> Result<(), Lost> {
    let (mut memory, at) = session.with(cookie, |pending| {
        let at = pending.cover(offset, len)?;
        let memory = pending.memory.take().ok_or_else(|| broken("Protocol error: data for nobody"))?;
        Ok((memory, at))
    })?;
    memory.enter();
    memory.narrow(at, len);
    let (mut memory, read) = reader.read_memory(memory).await;
    memory.leave();
    session.with(cookie, |pending| {
        pending.memory = Some(memory);
        Ok(())
    })?;
    Ok(read?)
}

async fn take_hole(session: &Session, reader: &mut Reader, chunk: Chunk) -> Result<(), Lost> {
    let mut payload = [0; Hole::SIZE];
    if chunk.len != payload.len() as u64 {
        return Err(broken("Protocol error: invalid payload for NBD_REPLY_TYPE_OFFSET_HOLE"));
    }
    reader.read_exact(&mut payload).await?;
    let hole = Hole::decode(&payload)?;
    session.with(chunk.cookie, |pending| {
        let at = pending.cover(hole.offset, hole.len.into())?;
        pending.memory.iter_mut().for_each(|memory| memory.fill_zero(at, hole.len.into()));
        Ok(())
    })
}

async fn take_status(session: &Session, reader: &mut Reader, chunk: Chunk) -> Result<(), Lost> {
    let headers = session.agreed.headers;
    let wide = chunk.kind == chunk_kind::BLOCK_STATUS_EXT;
    if wide != (headers == Headers::Extended) {
        return Err(broken("Protocol error: block status of a form that was not agreed on"));
    }
    let (head, each) = Status::sizes(headers);
    // Before any of it is waited for.
    if chunk.len > head + each * STATUS_EXTENTS_MAX as u64 {
        return Err(WireError::Length.into());
    }
    let looked_at = chunk.len.min(head + each * EXTENTS_MAX);
    let mut payload = vec![0; crate::io::byte_count(looked_at)];
    reader.read_exact(&mut payload).await?;
    let status = Status::decode(&payload, chunk.len, headers)?;
    reader.skip(chunk.len - looked_at).await?;
    if Some(status.context) != session.agreed.context {
        return Err(broken("Protocol error: unexpected context id for NBD_REPLY_TYPE_BLOCK_STATUS"));
    }
    session.with(chunk.cookie, |pending| match pending.extents.is_empty() {
        true => {
            pending.extents = status.extents;
            Ok(())
        }
        false => Err(broken("Several BLOCK_STATUS chunks in reply")),
    })
}

async fn take_error(session: &Session, reader: &mut Reader, chunk: Chunk) -> Result<(), Lost> {
    if chunk.len > Failure::SIZE_MAX {
        return Err(broken("Protocol error: the message of an error is too long"));
    }
    let mut payload = vec![0; crate::io::byte_count(chunk.len)];
    reader.read_exact(&mut payload).await?;
    let failure = Failure::decode(&payload)?;
    session.with(chunk.cookie, |pending| {
        pending.error.get_or_insert(from_wire(failure.error));
        Ok(())
    })
}

impl super::session::Pending {
    /// Notes that a part of a read has come; where it is in its memory.
    fn cover(&mut self, offset: u64, len: u64) -> Result<u64, Lost> {
        let at = offset.checked_sub(self.offset);
        let at = at.filter(|at| at.checked_add(len).is_some_and(|end| end <= self.len));
        let at = at.ok_or_else(|| broken("Protocol error: server sent chunk exceeding requested region"))?;
        self.covered += len;
        match self.covered <= self.len {
            true => Ok(at),
            false => Err(broken("Protocol error: server sent the same bytes twice")),
        }
    }

    /// The last chunk has come.
    fn complete(&mut self) -> Result<(), Lost> {
        let whole = match self.command {
            Command::Read => self.covered == self.len,
            Command::BlockStatus => !self.extents.is_empty(),
            _ => true,
        };
        if !whole && self.error.is_none() {
            return Err(broken("Protocol error: the reply is not whole"));
        }
        self.end(Ok(()));
        Ok(())
    }
}
