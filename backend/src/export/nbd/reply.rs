//! Replies in the form that was agreed on, as messages of one piece each.

use crate::io::Memory;
use crate::nbd_wire::transmission::{
    Chunk, Extent, Headers, REPLY_DONE, Request, chunk_kind, failure, hole, offset_data, simple_reply, status,
};
use crate::stream::Writer;

/// Replies to one request. What is sent to a client that has gone is lost, and the connection's reader knows.
pub struct Reply<'a> {
    writer: &'a Writer,
    headers: Headers,
    cookie: u64,
    offset: u64,
}

impl<'a> Reply<'a> {
    /// Replies to `request`.
    pub fn new(writer: &'a Writer, headers: Headers, request: &Request) -> Self {
        Self { writer, headers, cookie: request.cookie, offset: request.offset }
    }

    /// It is done.
    pub async fn done(&self) {
        match self.headers {
            Headers::Simple | Headers::Structured => self.send(&simple_reply(self.cookie, 0), Memory::empty()).await,
            Headers::Extended => self.chunk(chunk_kind::NONE, &[], Memory::empty(), true).await,
        };
    }

    /// It has failed. Nothing more comes, whatever has come.
    pub async fn failed(&self, error: u32, text: &str) {
        match self.headers {
            Headers::Simple => self.send(&simple_reply(self.cookie, error), Memory::empty()).await,
            Headers::Structured | Headers::Extended => {
                self.chunk(chunk_kind::ERROR, &failure(error, text, None), Memory::empty(), true).await
            }
        };
    }

    /// A part of what was read, or all of it. The memory comes back.
    pub async fn data(&self, offset: u64, memory: Memory, last: bool) -> Memory {
        match self.headers {
            Headers::Simple => self.send(&simple_reply(self.cookie, 0), memory).await,
            // A chunk of no data has no offset either.
            _ if memory.is_empty() => self.chunk(chunk_kind::NONE, &[], memory, true).await,
            _ => self.chunk(chunk_kind::OFFSET_DATA, &offset_data(offset), memory, last).await,
        }
    }

    /// Zeroes, as a part of what was read or all of it; not in simple replies.
    pub async fn zeroes(&self, offset: u64, len: u32, last: bool) {
        self.chunk(chunk_kind::OFFSET_HOLE, &hole(offset, len), Memory::empty(), last).await;
    }

    /// What one context says.
    pub async fn extents(&self, context: u32, extents: &[Extent], last: bool) {
        let kind = match self.headers {
            Headers::Extended => chunk_kind::BLOCK_STATUS_EXT,
            Headers::Simple | Headers::Structured => chunk_kind::BLOCK_STATUS,
        };
        self.chunk(kind, &status(context, extents, self.headers), Memory::empty(), last).await;
    }

    async fn chunk(&self, kind: u16, begin: &[u8], memory: Memory, last: bool) -> Memory {
        let len = begin.len() as u64 + memory.len();
        let flags = if last { REPLY_DONE } else { 0 };
        let mut head = Vec::with_capacity(32 + begin.len());
        Chunk { flags, kind, cookie: self.cookie, offset: self.offset, len }.encode(self.headers, &mut head);
        head.extend_from_slice(begin);
        self.send(&head, memory).await
    }

    async fn send(&self, head: &[u8], memory: Memory) -> Memory {
        self.writer.write(head, memory).await.0
    }
}
