//! A client that says what it is told to, byte by byte.

use crate::nbd_wire::handshake::{OptionHeader, encode_info_request, option};
use crate::nbd_wire::transmission::{Command, Headers, Request};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longer than any answer takes; whoever waits for so long has a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Client {
    pub stream: UnixStream,
    pub headers: Headers,
}

/// An option's bytes.
pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let header = OptionHeader { option, len: u32::try_from(data.len()).unwrap() };
    [&header.encode(), data].concat()
}

/// A request's header.
pub fn request(command: Command, offset: u64, len: u64, flags: u16, headers: Headers) -> Vec<u8> {
    Request { flags, command, cookie: 7, offset, len }.encode(headers)
}

impl Client {
    /// Greeted, and has answered with these flags.
    pub fn connect(path: &Path, flags: u32) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self { stream, headers: Headers::Simple };
        assert_eq!(client.read(18), b"NBDMAGICIHAVEOPT\0\x03");
        client.write(&flags.to_be_bytes());
        client
    }

    /// One that has chosen an export, with these headers and contexts.
    pub fn open(path: &Path, export: &str, headers: Headers, contexts: &[&str]) -> Self {
        let mut client = Self::connect(path, 3);
        client.headers = headers;
        match headers {
            Headers::Simple => {}
            Headers::Structured => drop(client.ask(option::STRUCTURED_REPLY, &[])),
            Headers::Extended => drop(client.ask(option::EXTENDED_HEADERS, &[])),
        }
        if !contexts.is_empty() {
            let queries = crate::nbd_wire::handshake::encode_meta_queries(export, contexts);
            client.ask(option::SET_META_CONTEXT, &queries);
        }
        let replies = client.ask(option::GO, &encode_info_request(export, &[]));
        assert_eq!(replies.last().map(|(kind, _)| *kind), Some(1), "{replies:?}");
        client
    }

    /// Says an option and hears all replies to it: their kinds and data.
    pub fn ask(&mut self, number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.write(&option(number, data));
        let mut replies = Vec::new();
        loop {
            let header = self.read(20);
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            assert_eq!(word(8), number);
            replies.push((word(12), self.read(word(16) as usize)));
            if word(12) == 1 || word(12) & 1 << 31 != 0 {
                return replies;
            }
        }
    }

    /// Sends a request with what follows it, and hears all of its reply, byte for byte.
    pub fn request(&mut self, request: &[u8], payload: &[u8]) -> Vec<u8> {
        self.write(&[request, payload].concat());
        let reads = request[6..8] == [0, 0];
        let len = if self.headers == Headers::Extended { &request[24..32] } else { &request[24..28] };
        let len = len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        self.reply(if reads { len } else { 0 })
    }

    /// The bytes of a reply that has `len` bytes of data if it is a simple one.
    pub fn reply(&mut self, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let magic = self.read(4);
            all.extend(&magic);
            let (rest, simple) = match magic[..] {
                [0x67, 0x44, 0x66, 0x98] => (12, true),
                [0x66, 0x8e, 0x33, 0xef] => (16, false),
                [0x6e, 0x8a, 0x27, 0x8c] => (28, false),
                _ => panic!("{magic:?}"),
            };
            let head = self.read(rest);
            all.extend(&head);
            if simple {
                let failed = head[..4] != [0; 4];
                all.extend(self.read(if failed { 0 } else { len }));
                return all;
            }
            let size = head[rest - 4..].iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
            all.extend(self.read(size));
            if head[1] & 1 == 1 {
                return all;
            }
        }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// What still comes until the server closes the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            // Closed with something of ours unread.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        bytes
    }
}
