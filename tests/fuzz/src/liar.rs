//! An NBD server that lies as its input says.

use crate::bytes::Bytes;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use tidemark_backend::nbd_wire::handshake::{
    BASE_ALLOCATION, Greeting, Info, MetaContext, encode_reply, handshake_flags, option, reply,
};
use tidemark_backend::nbd_wire::transmission::{
    Chunk, Command, Extent, Headers, REPLY_DONE, Request, chunk_kind, export_flags, failure, hole, offset_data,
    simple_reply, status,
};

/// Bytes of its disk.
const SIZE: u64 = 1 << 20;
/// Replies to one request at most.
const CHUNKS: u8 = 4;

/// The server.
pub struct Liar {
    dir: TempDir,
    thread: JoinHandle<()>,
}

impl Liar {
    /// Waits for one connection and has done with it at the end of the input.
    pub fn start(input: Vec<u8>) -> Self {
        let dir = TempDir::new_in("/dev/shm").expect("a directory");
        let listener = UnixListener::bind(dir.path().join("nbd")).expect("a socket");
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            drop(listener);
            serve(stream, &input);
        });
        Self { dir, thread }
    }

    /// Where it is.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd")
    }

    /// Its client has gone.
    pub fn end(self) {
        self.thread.join().expect("the server's end");
    }
}

fn serve(mut stream: UnixStream, input: &[u8]) {
    stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a time limit");
    let mut input = Bytes::new(input);
    let headers = [Headers::Simple, Headers::Structured, Headers::Extended][usize::from(input.byte() % 3)];
    let mut hello = handshake(headers);
    for _ in 0..input.byte() % 4 {
        let at = usize::try_from(input.below(hello.len() as u64)).unwrap_or(0);
        hello[at] ^= input.byte();
    }
    if input.byte() == 1 {
        hello.truncate(usize::try_from(input.below(hello.len() as u64)).unwrap_or(0));
    }
    // What it is asked in the handshake it knows; only flags and options come before requests.
    if stream.write_all(&hello).is_err() || !skip_handshake(&mut stream) {
        return;
    }
    while let Some(request) = next(&mut stream, headers) {
        if request.command == Command::Disconnect || input.is_empty() {
            return;
        }
        if stream.write_all(&answer(&request, headers, &mut input)).is_err() {
            return;
        }
    }
}

/// All that it says until the export is chosen, in one.
fn handshake(headers: Headers) -> Vec<u8> {
    let mut bytes = Greeting { flags: handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES }.encode().to_vec();
    let (extended, structured) = (headers == Headers::Extended, headers == Headers::Structured);
    let taken = |taken: bool| if taken { reply::ACK } else { reply::ERR_UNSUP };
    encode_reply(&mut bytes, option::EXTENDED_HEADERS, taken(extended), &[]);
    if !extended {
        encode_reply(&mut bytes, option::STRUCTURED_REPLY, taken(structured), &[]);
    }
    if headers != Headers::Simple {
        let context = MetaContext { id: 7, name: BASE_ALLOCATION.into() }.encode();
        encode_reply(&mut bytes, option::SET_META_CONTEXT, reply::META_CONTEXT, &context);
        encode_reply(&mut bytes, option::SET_META_CONTEXT, reply::ACK, &[]);
    }
    let flags = export_flags::HAS_FLAGS
        | export_flags::SEND_FLUSH
        | export_flags::SEND_FUA
        | export_flags::SEND_TRIM
        | export_flags::SEND_WRITE_ZEROES;
    let sizes = Info::BlockSize { minimum: 1, preferred: 4096, maximum: 1 << 25 };
    for info in [Info::Export { size: SIZE, flags }, sizes] {
        encode_reply(&mut bytes, option::GO, reply::INFO, &info.encode());
    }
    encode_reply(&mut bytes, option::GO, reply::ACK, &[]);
    bytes
}

/// Reads what the client says until it has asked for the export; false if it leaves.
fn skip_handshake(stream: &mut UnixStream) -> bool {
    let mut flags = [0; 4];
    if stream.read_exact(&mut flags).is_err() {
        return false;
    }
    loop {
        let mut head = [0; 16];
        if stream.read_exact(&mut head).is_err() {
            return false;
        }
        let mut data = vec![0; usize::from(head[15]) | usize::from(head[14]) << 8];
        if stream.read_exact(&mut data).is_err() {
            return false;
        }
        if u32::from(head[11]) == option::GO {
            return true;
        }
    }
}

/// The next request, with what is written read.
fn next(stream: &mut UnixStream, headers: Headers) -> Option<Request> {
    let mut head = vec![0; Request::size(headers)];
    stream.read_exact(&mut head).ok()?;
    let request = Request::decode(&head, headers).expect("a client speaks the protocol");
    if request.command == Command::Write {
        let mut data = vec![0; usize::try_from(request.len).ok()?];
        stream.read_exact(&mut data).ok()?;
    }
    Some(request)
}

/// Something in the place of the reply.
fn answer(request: &Request, headers: Headers, input: &mut Bytes<'_>) -> Vec<u8> {
    let cookie = if input.byte() == 0xff { input.number(1) } else { request.cookie };
    let mut bytes = Vec::new();
    if headers == Headers::Simple || input.byte() == 0xff {
        bytes.extend(simple_reply(cookie, u32::from(input.byte())));
        if request.command == Command::Read {
            bytes.extend(vec![3; usize::try_from(request.len).unwrap_or(0)]);
        }
    } else {
        let count = input.byte() % CHUNKS;
        for number in 0..=count {
            chunk(&mut bytes, request, (headers, cookie, number == count), input);
        }
    }
    if input.byte() == 0xff {
        let at = usize::try_from(input.below(bytes.len() as u64 + 1)).unwrap_or(0);
        bytes.truncate(at);
        bytes.push(input.byte());
    }
    bytes
}

/// One chunk: of the kind that belongs there or not, as long as it should be or not.
fn chunk(
    bytes: &mut Vec<u8>,
    request: &Request,
    (headers, cookie, is_last): (Headers, u64, bool),
    input: &mut Bytes<'_>,
) {
    let (offset, len) = (request.offset.wrapping_add(input.below(2) * 512), request.len.min(1 << 16));
    let state = Extent { len: len.wrapping_add(input.number(1)), flags: input.number(1) };
    let kinds = match request.command {
        Command::Read => [chunk_kind::OFFSET_DATA, chunk_kind::OFFSET_HOLE],
        Command::BlockStatus if headers == Headers::Extended => [chunk_kind::BLOCK_STATUS_EXT; 2],
        Command::BlockStatus => [chunk_kind::BLOCK_STATUS; 2],
        _ => [chunk_kind::NONE; 2],
    };
    let kind = match input.byte() % 8 {
        0..5 => kinds[0],
        5 => kinds[1],
        6 => [chunk_kind::ERROR, chunk_kind::ERROR_OFFSET, chunk_kind::NONE][usize::from(input.byte() % 3)],
        _ => u16::from(input.byte()) << 8 | u16::from(input.byte()),
    };
    let mut payload = match kind {
        chunk_kind::OFFSET_DATA => {
            let part = usize::try_from(len).unwrap_or(0) >> (input.byte() % 3);
            [&offset_data(offset)[..], &vec![3; part]].concat()
        }
        chunk_kind::OFFSET_HOLE => hole(offset, u32::try_from(len).unwrap_or(0)).to_vec(),
        chunk_kind::BLOCK_STATUS | chunk_kind::BLOCK_STATUS_EXT => {
            status(7, &vec![state; usize::from(input.byte() % 4)], headers)
        }
        chunk_kind::ERROR => failure(u32::from(input.byte()), "no", None),
        chunk_kind::ERROR_OFFSET => failure(5, "no", Some(offset)),
        _ => Vec::new(),
    };
    if input.byte() == 0xff && !payload.is_empty() {
        let at = usize::try_from(input.below(payload.len() as u64)).unwrap_or(0);
        payload[at] ^= input.byte();
    }
    let said = (payload.len() as u64).wrapping_add(if input.byte() == 0xff { input.number(4) } else { 0 });
    let flags = if is_last && input.byte() != 0xff { REPLY_DONE } else { 0 };
    Chunk { flags, kind, cookie, offset: request.offset, len: said }.encode(headers, bytes);
    bytes.extend(payload);
}
