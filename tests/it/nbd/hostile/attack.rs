//! Hostile connections by the hundred, driven by one thread: what each of them does next. Knows no measurement.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use super::super::wire::{
    BLOCK_STATUS, GO, LIST, READ, SET_META_CONTEXT, STRUCTURED_REPLY, TRIM, WRITE, contexts, named, option, request,
};

/// What a client does, over and over.
#[derive(Clone, Copy)]
enum Kind {
    /// Connects and says nothing.
    HalfOpen,
    /// Says the right things, a byte at a time.
    Slow,
    /// Asks for all exports, without an end.
    Flood,
    /// Begins an option of 4 GiB.
    LongOption,
    /// Writes 4 GiB.
    LongWrite,
    /// Reads, trims and writes what there is not and what it may not.
    Outside,
    /// Asks for contexts and block status of all sorts.
    Contexts,
    /// Bytes of any kind, at once or after a handshake.
    Garbage,
    /// Asks for much and reads nothing.
    Greedy,
}

const KINDS: [Kind; 9] = [
    Kind::HalfOpen,
    Kind::Slow,
    Kind::Flood,
    Kind::LongOption,
    Kind::LongWrite,
    Kind::Outside,
    Kind::Contexts,
    Kind::Garbage,
    Kind::Greedy,
];

/// One client.
struct Client {
    kind: Kind,
    stream: Option<UnixStream>,
    /// Has said its hello.
    said: usize,
}

/// Does harm through so many connections to a socket until it is told that it is `over`; counts what is done in `acts`.
pub fn attack(socket: &Path, connections: usize, seed: u64, over: &AtomicBool, acts: &AtomicU64) {
    let mut rng = Rng::with_seed(seed);
    let client = |number: usize| Client { kind: KINDS[number % KINDS.len()], stream: None, said: 0 };
    let mut clients: Vec<Client> = (0..connections).map(client).collect();
    let socket: PathBuf = socket.to_owned();
    while !over.load(Ordering::Relaxed) {
        for client in &mut clients {
            if rng.u8(..) < 24 {
                client.act(&socket, &mut rng);
                acts.fetch_add(1, Ordering::Relaxed);
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}

impl Client {
    fn act(&mut self, socket: &Path, rng: &mut Rng) {
        let Some(stream) = &mut self.stream else {
            self.said = 0;
            self.stream = UnixStream::connect(socket).ok().filter(|stream| stream.set_nonblocking(true).is_ok());
            return;
        };
        let words = words(self.kind, self.said, rng);
        self.said += 1;
        let sent = stream.write_all(&words);
        let is_reader = !matches!(self.kind, Kind::Greedy);
        let is_open = !matches!(&sent, Err(error) if error.kind() != ErrorKind::WouldBlock);
        // Whoever leaves now and then leaves in the middle of something.
        if !is_open || (is_reader && !drain(stream)) || rng.u8(..) == 0 {
            self.stream = None;
        }
    }
}

/// Takes what has come; false if nothing will.
fn drain(stream: &mut UnixStream) -> bool {
    let mut bytes = [0; 65536];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// What a client of this kind says when it has spoken so many times before.
fn words(kind: Kind, said: usize, rng: &mut Rng) -> Vec<u8> {
    let flags = [0, 0, 0, 3];
    let hello = [&flags[..], &option(STRUCTURED_REPLY, &[]), &option(GO, &named("n"))].concat();
    match (kind, said) {
        (Kind::HalfOpen, _) => Vec::new(),
        (Kind::Slow, _) => hello[said % hello.len()..][..1].to_vec(),
        (Kind::Flood | Kind::LongOption | Kind::Contexts, 0) => flags.to_vec(),
        (Kind::Flood, _) => (0..20).flat_map(|number| option(if number % 2 == 0 { LIST } else { 99 }, &[])).collect(),
        (Kind::LongOption, 1) => [b"IHAVEOPT", &GO.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat(),
        (Kind::LongOption, _) => vec![0x41; 4096],
        (Kind::Contexts, 1) => {
            let asked = option(SET_META_CONTEXT, &contexts("n", &["base:allocation", "base:nothing", "qemu:", ""]));
            [option(STRUCTURED_REPLY, &[]), asked, option(GO, &named("n"))].concat()
        }
        (Kind::Contexts, _) => request(rng.u16(..64), BLOCK_STATUS, rng.u64(..), rng.u32(..)),
        (Kind::Garbage, 0) if rng.bool() => (0..rng.usize(1..500)).map(|_| rng.u8(..)).collect(),
        (Kind::LongWrite | Kind::Outside | Kind::Greedy | Kind::Garbage, 0) => hello,
        (Kind::LongWrite, _) => request(0, WRITE, 0, u32::MAX),
        (Kind::Outside, _) => {
            let command = [READ, TRIM, 99][rng.usize(..3)];
            (0..10).flat_map(|_| request(0, command, rng.u64(1 << 40..), rng.u32(..1 << 20))).collect()
        }
        (Kind::Garbage, _) => (0..rng.usize(1..500)).map(|_| rng.u8(..)).collect(),
        (Kind::Greedy, _) => (0..100).flat_map(|_| request(0, READ, 0, 256 << 10)).collect(),
    }
}
