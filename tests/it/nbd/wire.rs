//! A client that says byte by byte what it is told to. Knows the numbers of the protocol (NBD proto.md), not what is
//! allowed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::cli::process::TIMEOUT;

/// Options.
pub const EXPORT_NAME: u32 = 1;
pub const LIST: u32 = 3;
pub const STARTTLS: u32 = 5;
pub const INFO: u32 = 6;
pub const GO: u32 = 7;
pub const STRUCTURED_REPLY: u32 = 8;
pub const SET_META_CONTEXT: u32 = 10;

/// Replies to options.
pub const ACK: u32 = 1;
pub const ERR_UNSUP: u32 = 0x8000_0001;
pub const ERR_INVALID: u32 = 0x8000_0003;
pub const ERR_TLS_REQD: u32 = 0x8000_0005;
pub const ERR_UNKNOWN: u32 = 0x8000_0006;
pub const ERR_TOO_BIG: u32 = 0x8000_0009;

/// Commands.
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

/// Errors of commands.
pub const EPERM: u32 = 1;
pub const EINVAL: u32 = 22;

/// An option with its data.
pub fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [b"IHAVEOPT", &number.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}

/// What INFO and GO ask: an export, and nothing about it.
pub fn named(name: &str) -> Vec<u8> {
    let len = u32::try_from(name.len()).unwrap();
    [&len.to_be_bytes()[..], name.as_bytes(), &[0, 0]].concat()
}

/// What SET_META_CONTEXT asks.
pub fn contexts(export: &str, queries: &[&str]) -> Vec<u8> {
    let text = |text: &str| [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
    let count = u32::try_from(queries.len()).unwrap().to_be_bytes();
    let queries: Vec<u8> = queries.iter().flat_map(|query| text(query)).collect();
    [&text(export)[..], &count, &queries].concat()
}

/// A command without its data.
pub fn request(flags: u16, command: u16, offset: u64, len: u32) -> Vec<u8> {
    let head = [&0x2560_9513_u32.to_be_bytes()[..], &flags.to_be_bytes(), &command.to_be_bytes()].concat();
    [&head[..], &7u64.to_be_bytes(), &offset.to_be_bytes(), &len.to_be_bytes()].concat()
}

/// A connection.
pub struct Wire {
    stream: UnixStream,
}

impl Wire {
    /// Greeted, with the fixed handshake and without padding.
    pub fn connect(socket: &Path) -> Self {
        let mut wire = Self::silent(socket);
        wire.take(18);
        wire.send(&3u32.to_be_bytes());
        wire
    }

    /// Has said nothing.
    pub fn silent(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self { stream }
    }

    /// In the transmission phase, with simple replies.
    pub fn open(socket: &Path, export: &str) -> Self {
        let mut wire = Self::connect(socket);
        wire.send(&option(GO, &named(export)));
        while wire.answer() != ACK {}
        wire
    }

    /// Sends bytes; false if the other end has gone, which may be as it should: what it said before is read afterwards.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// So many bytes.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next reply to an option.
    pub fn answer(&mut self) -> u32 {
        let head = self.take(20);
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        self.take(number(16) as usize);
        number(12)
    }

    /// The error of the next simple reply, 0 for none.
    pub fn error(&mut self) -> u32 {
        let reply = self.take(16);
        assert_eq!(reply[..4], 0x6744_6698_u32.to_be_bytes(), "a simple reply");
        assert_eq!(reply[8..], 7u64.to_be_bytes(), "to what was asked");
        u32::from_be_bytes(reply[4..8].try_into().unwrap())
    }

    /// All that comes until the other end closes, which it has to do.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut piece = [0; 65536];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return bytes,
                Ok(len) => bytes.extend_from_slice(&piece[..len]),
                // It has closed with bytes of ours unread.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
                Err(error) => panic!("the connection is not closed: {error}"),
            }
        }
    }
}
