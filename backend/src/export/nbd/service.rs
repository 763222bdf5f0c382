//! One client's requests to its export: received one after the other, done at the same time, answered as they end.
//!
//! The receiver counts a request and its bytes before it takes memory for them, and waits when there are too many.

use super::buffers::Buffers;
use super::export::NbdExport;
use super::handshake::{Chosen, Contexts};
use super::limits::{Budget, Share};
use super::reply::Reply;
use super::request::{self, Payload, Refusal, Terms};
use crate::error::IoError;
use crate::io::Memory;
use crate::nbd_wire::handshake::export_flags;
use crate::nbd_wire::transmission::{Command, Request, WireError};
use crate::node::Root;
use crate::reactor::{EventBell, Handle};
use crate::stream::{Reader, Stream, Writer};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

/// What the extents of a BLOCK_STATUS take while they are made and sent.
const STATUS_BYTES: u64 = 4 * 1024 * 1024;
/// The most bytes of a payload that chooses contexts.
const CONTEXTS_MAX: u64 = 64 * 1024;
/// How long a client that asks nothing keeps the memory of what it has asked, in nanoseconds.
const IDLE_NS: u64 = 1_000_000_000;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The client has said so, or has gone.
    #[error("the client has left")]
    Left,
    /// It speaks something else.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It was cut, or closed by us.
    #[error("the connection was closed")]
    Closed(#[from] IoError),
    /// Where the next request begins is not known.
    #[error("a request has {0} bytes")]
    Endless(u64),
}

/// One client of one export.
pub struct Service {
    pub(super) io: Handle,
    pub(super) export: Arc<NbdExport>,
    pub(super) root: Rc<Root>,
    pub(super) terms: Terms,
    pub(super) buffers: Buffers,
    /// The place of the export's counters that this thread counts in.
    pub(super) thread: usize,
    writer: Writer,
    budget: Rc<Budget>,
}

/// A request with what came after its header.
pub(super) struct Received {
    pub(super) request: Request,
    /// Which contexts a BLOCK_STATUS asks for, if not for all that were agreed on.
    pub(super) contexts: Option<Contexts>,
    pub(super) memory: Memory,
    /// Its part of what the client may have under way, until it has been answered.
    _share: Share,
}

impl Service {
    /// Serves a client as it was agreed, until it leaves. All that it has asked has ended then.
    pub async fn run(
        io: &Handle,
        bell: &Arc<EventBell>,
        stream: Stream,
        export: Arc<NbdExport>,
        chosen: Chosen,
        thread: usize,
    ) -> End {
        let Stream { mut reader, writer } = stream;
        let Chosen { offer, headers, contexts } = chosen;
        let read_only = offer.flags & export_flags::READ_ONLY != 0;
        let service = Rc::new(Self {
            io: io.clone(),
            root: Root::of_sleeper(&export.door, bell.clone()),
            export,
            terms: Terms { headers, size: offer.size, read_only, contexts },
            buffers: Buffers::default(),
            thread,
            writer,
            budget: Rc::default(),
        });
        let end = loop {
            match service.receive(&mut reader).await {
                Ok(Some(received)) => service.start(received),
                Ok(None) => {}
                Err(end) => break end,
            }
        };
        service.root.hurry();
        service.budget.wait_idle().await;
        // It may have closed its end before.
        let _ = service.writer.finish().await;
        end
    }

    pub(super) fn reply(&self, request: &Request) -> Reply<'_> {
        Reply::new(&self.writer, self.terms.headers, request)
    }

    fn start(self: &Rc<Self>, received: Received) {
        let service = self.clone();
        self.io.spawn(async move { service.perform(received).await });
    }

    /// Receives a request; `None` if it was refused and answered.
    async fn receive(&self, reader: &mut Reader) -> Result<Option<Received>, End> {
        if !self.wait(reader).await? {
            return Err(End::Left);
        }
        let headers = self.terms.headers;
        let mut header = [0; 32];
        let header = &mut header[..Request::size(headers)];
        reader.read_exact(header).await?;
        let mut request = Request::decode(header, headers)?;
        if request.command == Command::Disconnect {
            return Err(End::Left);
        }
        let mut contexts = None;
        match request::payload(&request, headers) {
            Payload::Nothing => {}
            Payload::Data(len) => return self.receive_data(reader, request, len).await,
            Payload::Contexts(len) => match self.receive_contexts(reader, len).await? {
                Some((len, asked)) => (request.len, contexts) = (len, Some(asked)),
                None => {
                    self.refuse(&request, &Refusal::invalid("CMD_BLOCK_STATUS payload not valid")).await;
                    return Ok(None);
                }
            },
            Payload::Needless(len) => {
                reader.skip(len).await?;
                request.len = 0;
            }
            Payload::Endless(len) => {
                self.refuse(&request, &request::too_large(len)).await;
                return Err(End::Endless(len));
            }
        }
        if let Err(refusal) = request::check(&request, &self.terms) {
            self.refuse(&request, &refusal).await;
            return Ok(None);
        }
        let bytes = match request.command {
            Command::Read => request.len,
            Command::BlockStatus => STATUS_BYTES,
            _ => 0,
        };
        let share = self.budget.take(bytes).await;
        Ok(Some(Received { request, contexts, memory: Memory::empty(), _share: share }))
    }

    /// The data of a write. What is refused is not taken into memory.
    async fn receive_data(&self, reader: &mut Reader, request: Request, len: u64) -> Result<Option<Received>, End> {
        if let Err(refusal) = request::check(&request, &self.terms) {
            reader.skip(len).await?;
            self.refuse(&request, &refusal).await;
            return Ok(None);
        }
        let share = self.budget.take(len).await;
        let (memory, result) = match len {
            0 => (Memory::empty(), Ok(())),
            len => reader.read_memory(self.buffers.take(len)).await,
        };
        result?;
        Ok(Some(Received { request, contexts: None, memory, _share: share }))
    }

    /// Of how much which contexts are asked for, `None` if the payload makes no sense.
    async fn receive_contexts(&self, reader: &mut Reader, len: u64) -> Result<Option<(u64, Contexts)>, End> {
        let mut payload = vec![0; crate::io::byte_count(len.min(CONTEXTS_MAX))];
        if len > CONTEXTS_MAX {
            reader.skip(len).await?;
            payload.clear();
        } else {
            reader.read_exact(&mut payload).await?;
        }
        Ok(request::asked_contexts(&payload, &self.terms.contexts))
    }

    async fn refuse(&self, request: &Request, refusal: &Refusal) {
        // Whoever sends nothing but nonsense waits until it has read the answers.
        let _share = self.budget.take(0).await;
        self.reply(request).failed(refusal.error, &refusal.text).await;
    }

    /// Waits for the next request; false if none comes. Memory that has not been used for a while is given back.
    async fn wait(&self, reader: &mut Reader) -> Result<bool, IoError> {
        let mut next = pin!(reader.has_more());
        let mut idle = pin!(async {
            if !self.buffers.is_much() {
                std::future::pending::<()>().await;
            }
            self.io.sleep_until(self.io.now().saturating_add(IDLE_NS)).await;
        });
        let mut is_idle = false;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(more) = next.as_mut().poll(cx) {
                return Poll::Ready(more);
            }
            if !is_idle && idle.as_mut().poll(cx).is_ready() {
                is_idle = true;
                self.buffers.clear();
            }
            Poll::Pending
        })
        .await
    }
}
