//! A server in memory, on the simulated machine: well-behaved, or not from some reply on.

use super::super::dial::{Dial, Dialing};
use crate::error::IoError;
use crate::io::sim::World;
use crate::io::{Buf, Memory, Socket, byte_count};
use crate::nbd_wire::handshake::{
    Greeting, Info, MetaContext, OptionHeader, encode_reply, handshake_flags, option, reply,
};
use crate::nbd_wire::transmission::{
    Chunk, Command, Extent, Headers, REPLY_DONE, Request, chunk_kind, export_flags, offset_data, simple_reply, status,
};
use crate::reactor::Handle;
use crate::stream::Stream;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};

/// Bytes of the disk.
pub const SIZE: usize = 256 * 1024;
/// The number of the context.
pub const CONTEXT: u32 = 7;

/// What a server answers to the next command instead of what it should.
pub type Answer = fn(&Request, Headers) -> Vec<u8>;

/// What all connections to a server share.
pub struct Server {
    world: World,
    io: Handle,
    pub disk: RefCell<Vec<u8>>,
    pub headers: Headers,
    /// Bytes after which the next connections are cut, in both directions together with those of the handshake.
    pub cuts: RefCell<Vec<u64>>,
    /// How many attempts find nobody.
    pub absent: Cell<u32>,
    pub connections: Cell<u32>,
    pub answer: Cell<Option<Answer>>,
    /// What is said instead of a greeting.
    pub greeting: RefCell<Option<Vec<u8>>>,
    /// Flags of the export besides the usual ones.
    pub flags_more: RefCell<u16>,
    /// The server's ends.
    pub sockets: RefCell<Vec<Weak<Socket>>>,
}

impl Server {
    pub fn new(world: &World, io: &Handle, headers: Headers) -> Rc<Self> {
        Rc::new(Self {
            world: world.clone(),
            io: io.clone(),
            disk: RefCell::new(vec![0; SIZE]),
            headers,
            cuts: RefCell::default(),
            absent: Cell::new(0),
            connections: Cell::new(0),
            answer: Cell::new(None),
            greeting: RefCell::default(),
            flags_more: RefCell::default(),
            sockets: RefCell::default(),
        })
    }

    async fn serve(self: Rc<Self>, socket: Arc<Socket>) {
        let mut stream = Stream::plain(&self.io, socket.clone());
        let served = async {
            self.shake_hands(&mut stream).await?;
            loop {
                self.serve_one(&mut stream).await?;
            }
        };
        let _: Result<(), IoError> = served.await;
        socket.shutdown();
    }

    async fn send(&self, stream: &Stream, bytes: &[u8]) -> Result<(), IoError> {
        stream.writer.write(bytes, Memory::empty()).await.1
    }

    async fn shake_hands(&self, stream: &mut Stream) -> Result<(), IoError> {
        let greeting = self.greeting.borrow().clone();
        if let Some(greeting) = greeting {
            stream.writer.write(&greeting, Memory::empty()).await.1?;
            return Err(IoError::Io);
        }
        let flags = handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES;
        self.send(stream, &Greeting { flags }.encode()).await?;
        stream.reader.read_exact(&mut [0; 4]).await?;
        loop {
            let mut header = [0; OptionHeader::LEN];
            stream.reader.read_exact(&mut header).await?;
            let header = OptionHeader::decode(&header).unwrap();
            stream.reader.skip(header.len.into()).await?;
            let mut out = Vec::new();
            let taken = match header.option {
                option::EXTENDED_HEADERS => self.headers == Headers::Extended,
                option::STRUCTURED_REPLY => self.headers == Headers::Structured,
                option::SET_META_CONTEXT => {
                    let context = MetaContext { id: CONTEXT, name: "base:allocation".into() };
                    encode_reply(&mut out, header.option, reply::META_CONTEXT, &context.encode());
                    true
                }
                _ => {
                    let can = export_flags::HAS_FLAGS | export_flags::SEND_FLUSH | export_flags::SEND_WRITE_ZEROES;
                    let info = Info::Export { size: SIZE as u64, flags: can | *self.flags_more.borrow() };
                    encode_reply(&mut out, header.option, reply::INFO, &info.encode());
                    true
                }
            };
            encode_reply(&mut out, header.option, if taken { reply::ACK } else { reply::ERR_UNSUP }, &[]);
            self.send(stream, &out).await?;
            if header.option == option::GO {
                return Ok(());
            }
        }
    }

    async fn serve_one(&self, stream: &mut Stream) -> Result<(), IoError> {
        let mut header = [0; 32];
        let header = &mut header[..Request::size(self.headers)];
        stream.reader.read_exact(header).await?;
        let request = Request::decode(header, self.headers).expect("the client keeps to the protocol");
        let range = byte_count(request.offset)..byte_count(request.offset + request.len);
        if request.command == Command::Write {
            let (memory, read) = stream.reader.read_memory(Buf::new(range.len()).into()).await;
            read?;
            memory.copy_to(0, &mut self.disk.borrow_mut()[range.clone()]);
        }
        if let Some(answer) = self.answer.get() {
            return self.send(stream, &answer(&request, self.headers)).await;
        }
        let reply = match request.command {
            Command::Disconnect => return Err(IoError::Io),
            Command::Read => data(&request, self.headers, &self.disk.borrow()[range]),
            Command::WriteZeroes => {
                self.disk.borrow_mut()[range].fill(0);
                done(&request, self.headers)
            }
            Command::BlockStatus => {
                let extents = [Extent { len: request.len, flags: 3 }];
                chunk(&request, self.headers, chunk_kind::BLOCK_STATUS, &status(CONTEXT, &extents, self.headers))
            }
            _ => done(&request, self.headers),
        };
        self.send(stream, &reply).await
    }
}

/// A reply of one chunk.
pub fn chunk(request: &Request, headers: Headers, kind: u16, payload: &[u8]) -> Vec<u8> {
    chunk_of(request, headers, REPLY_DONE, kind, payload)
}

pub fn chunk_of(request: &Request, headers: Headers, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let wide = kind == chunk_kind::BLOCK_STATUS && headers == Headers::Extended;
    let kind = if wide { chunk_kind::BLOCK_STATUS_EXT } else { kind };
    let (cookie, offset) = (request.cookie, request.offset);
    let mut bytes = Vec::new();
    Chunk { flags, kind, cookie, offset, len: payload.len() as u64 }.encode(headers, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// A reply with data.
pub fn data(request: &Request, headers: Headers, bytes: &[u8]) -> Vec<u8> {
    match headers {
        Headers::Simple => [&simple_reply(request.cookie, 0)[..], bytes].concat(),
        _ => chunk(request, headers, chunk_kind::OFFSET_DATA, &[&offset_data(request.offset)[..], bytes].concat()),
    }
}

/// A reply that says nothing but yes.
pub fn done(request: &Request, headers: Headers) -> Vec<u8> {
    match headers {
        Headers::Extended => chunk(request, headers, chunk_kind::NONE, &[]),
        _ => simple_reply(request.cookie, 0).to_vec(),
    }
}

/// The way to a server.
pub struct SimDial(pub Rc<Server>);

impl Dial for SimDial {
    fn dial(&self) -> Dialing {
        let server = self.0.clone();
        if server.absent.get() > 0 {
            server.absent.set(server.absent.get() - 1);
            return Box::pin(async { Err("Failed to connect to 'there': Connection refused".to_owned()) });
        }
        let (near, far) = server.world.socket_pair();
        if let Some(bytes) = server.cuts.borrow_mut().pop() {
            // Replies or commands, whichever reaches it first.
            let end = if bytes % 2 == 0 { near.id() } else { far.id() };
            server.world.cut_after(end, bytes);
        }
        server.connections.set(server.connections.get() + 1);
        let far = Arc::new(far);
        server.sockets.borrow_mut().push(Arc::downgrade(&far));
        server.io.spawn(server.clone().serve(far));
        Box::pin(async move { Ok(near) })
    }
}
