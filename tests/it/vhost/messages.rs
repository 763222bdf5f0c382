//! Messages that break the vhost-user protocol end at most the session they came in.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use fastrand::Rng;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tidemark_frontend::Status;

use super::daemon::{Daemon, FILE, a_moment};
use super::guest::Guest;
use crate::cli::process::wait_until;

const VERSION: u32 = 1;
const NEED_REPLY: u32 = 8;

/// Header and payload (vhost-user, "Message specification").
pub fn message(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap();
    [&request.to_le_bytes()[..], &flags.to_le_bytes(), &size.to_le_bytes(), payload].concat()
}

/// A payload of 64-bit numbers.
pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A payload of 32-bit numbers.
pub fn halves(halves: &[u32]) -> Vec<u8> {
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

/// A memory table's payload: regions of address, size, user address and offset into the file.
pub fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let count = u32::try_from(regions.len()).unwrap();
    [halves(&[count, 0]), regions.iter().flat_map(|region| words(region)).collect()].concat()
}

/// The payload that describes an in-flight area: bytes, offset, queues, entries.
pub fn inflight(size: u64, offset: u64, queues: u16, queue_size: u16) -> Vec<u8> {
    [words(&[size, offset]), queues.to_le_bytes().to_vec(), queue_size.to_le_bytes().to_vec(), vec![0; 4]].concat()
}

/// A front-end that says what it likes.
pub struct Rude(UnixStream);

impl Rude {
    /// Connects and negotiates everything, so that every message is allowed.
    pub fn new(daemon: &Daemon) -> Self {
        let stream = UnixStream::connect(daemon.file("blk")).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut rude = Self(stream);
        rude.send(&message(1, VERSION, &[]), &[]);
        let features = rude.reply();
        rude.send(&message(15, VERSION, &[]), &[]);
        let protocol_features = rude.reply();
        rude.send(&message(16, VERSION, &protocol_features), &[]);
        rude.send(&message(3, VERSION, &[]), &[]);
        rude.send(&message(2, VERSION, &features), &[]);
        rude
    }

    /// How many regions of memory the back-end takes (GET_MAX_MEM_SLOTS).
    pub fn max_mem_slots(&mut self) -> u64 {
        self.send(&message(36, VERSION, &[]), &[]);
        u64::from_le_bytes(self.reply().try_into().unwrap())
    }

    /// Sends bytes and descriptors; the other end may have hung up.
    pub fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let flags = SendFlags::NOSIGNAL;
        // Refused with EPIPE or ECONNRESET, if it is.
        let _ = sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags);
    }

    /// The payload of a reply of 8 bytes.
    fn reply(&mut self) -> Vec<u8> {
        let mut bytes = [0; 20];
        self.0.read_exact(&mut bytes).unwrap();
        bytes[12..].to_vec()
    }

    /// Reads until nothing more comes; whether the other end hung up.
    pub fn is_hung_up_on(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.0.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// A file of memory.
pub fn memfd(len: u64) -> File {
    let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(len).unwrap();
    file
}

type Bad<'a> = (&'static str, Vec<u8>, Vec<BorrowedFd<'a>>);

/// Messages whose frame is wrong.
fn frames<'a>() -> Vec<Bad<'a>> {
    let raw =
        |request: u32, flags: u32, size: u32| [request, flags, size].iter().flat_map(|n| n.to_le_bytes()).collect();
    vec![
        ("request 0", message(0, VERSION, &[]), vec![]),
        ("unknown request", message(200, VERSION, &[0; 8]), vec![]),
        ("unknown request that wants a reply", message(0xffff_ffff, VERSION | NEED_REPLY, &[]), vec![]),
        ("version 0", message(1, 0, &[]), vec![]),
        ("version 3", message(1, 3, &[]), vec![]),
        ("a reply", message(1, VERSION | 4, &[]), vec![]),
        ("payload too long for any message", raw(2, VERSION, 0x1001), vec![]),
        ("payload of nearly 4 GiB", raw(2, VERSION, u32::MAX), vec![]),
        ("payload shorter than the message", message(2, VERSION, &[0; 4]), vec![]),
        ("payload longer than the message", message(2, VERSION, &[0; 16]), vec![]),
        ("payload where there is none", message(1, VERSION, &[0; 8]), vec![]),
        ("features that were not offered", message(2, VERSION, &words(&[u64::MAX])), vec![]),
        ("protocol features that were not offered", message(16, VERSION, &words(&[u64::MAX])), vec![]),
    ]
}

/// Messages about memory, the in-flight area and rings that ask for the impossible.
fn contents<'a>(file: &'a File, other: &'a File) -> Vec<Bad<'a>> {
    let region = |addr: u64, size, offset| [addr, size, addr.wrapping_add(0x7000_0000), offset];
    let one = vec![file.as_fd()];
    let two = vec![file.as_fd(), file.as_fd()];
    let slot = |region: [u64; 4]| [words(&[0]), words(&region)].concat();
    let overlapping = [region(0, 0x2000, 0), region(0x1000, 0x1000, 0)];
    let many: Vec<[u64; 4]> = (0..40).map(|at| region(at << 20, 4096, 0)).collect();
    let claims = [halves(&[9, 0]), words(&region(0, 4096, 0))].concat();
    vec![
        ("table without files", message(5, VERSION, &table(&[region(0, 4096, 0)])), vec![]),
        ("table with more files than regions", message(5, VERSION, &table(&[region(0, 4096, 0)])), two.clone()),
        ("table that claims more regions", message(5, VERSION, &claims), one.clone()),
        ("table of no regions", message(5, VERSION, &table(&[])), vec![]),
        ("overlapping regions", message(5, VERSION, &table(&overlapping)), two),
        ("40 regions", message(5, VERSION, &table(&many)), vec![file.as_fd(); 40]),
        ("region beyond its file", message(5, VERSION, &table(&[region(0, 1 << 30, 0)])), one.clone()),
        ("region of length zero", message(5, VERSION, &table(&[region(0, 0, 0)])), one.clone()),
        ("region that wraps", message(5, VERSION, &table(&[region(u64::MAX - 4095, 8192, 0)])), one.clone()),
        ("offset that overflows", message(5, VERSION, &table(&[region(0, 4096, u64::MAX - 100)])), one.clone()),
        ("region of all memory", message(5, VERSION, &table(&[region(0, u64::MAX, 0)])), one.clone()),
        ("memory that cannot be mapped", message(5, VERSION, &table(&[region(0, 4096, 0)])), vec![other.as_fd()]),
        ("slot without a file", message(37, VERSION, &slot(region(0, 4096, 0))), vec![]),
        ("slot beyond its file", message(37, VERSION, &slot(region(0, 1 << 40, 0))), one.clone()),
        ("removal of a slot never added", message(38, VERSION, &slot(region(0, 4096, 0))), vec![]),
        ("in-flight area of 65535 queues of 65535", message(31, VERSION, &inflight(0, 0, 65535, 65535)), vec![]),
        ("in-flight area for no queues", message(31, VERSION, &inflight(0, 0, 0, 128)), vec![]),
        ("in-flight area of all memory", message(32, VERSION, &inflight(u64::MAX, 0, 4, 128)), one.clone()),
        (
            "in-flight area at the end of the world",
            message(32, VERSION, &inflight(4096, u64::MAX, 4, 128)),
            one.clone(),
        ),
        ("in-flight area beyond its file", message(32, VERSION, &inflight(1 << 40, 0, 4, 128)), one.clone()),
        ("in-flight area too small", message(32, VERSION, &inflight(16, 0, 4, 1024)), one.clone()),
        ("in-flight area without a file", message(32, VERSION, &inflight(65536, 0, 4, 128)), vec![]),
        (
            "in-flight area that cannot be mapped",
            message(32, VERSION, &inflight(65536, 0, 4, 128)),
            vec![other.as_fd()],
        ),
        ("ring of size 0", message(8, VERSION, &halves(&[0, 0])), vec![]),
        ("ring of size 3", message(8, VERSION, &halves(&[0, 3])), vec![]),
        ("ring of size 65536", message(8, VERSION, &halves(&[0, 65536])), vec![]),
        ("ring 4 billion", message(8, VERSION, &halves(&[u32::MAX, 64])), vec![]),
        ("base beyond 16 bits", message(10, VERSION, &halves(&[0, 0x10000])), vec![]),
        ("base of ring 4 billion", message(11, VERSION, &halves(&[u32::MAX, 0])), vec![]),
        ("kick of ring 255", message(12, VERSION, &words(&[255])), one.clone()),
        ("kick without the file it promises", message(12, VERSION, &words(&[0])), vec![]),
        ("call that is a file", message(13, VERSION, &words(&[0])), one.clone()),
        ("kick that is a file", message(12, VERSION, &words(&[0])), one.clone()),
        ("enabled with 2", message(18, VERSION, &halves(&[0, 2])), vec![]),
        ("channel without a file", message(21, VERSION, &[]), vec![]),
        ("channel that is a file", message(21, VERSION, &[]), one),
        ("configuration of 4 GiB", message(24, VERSION, &halves(&[0, u32::MAX, 0])), vec![]),
        ("configuration past its end", message(24, VERSION, &[halves(&[0xfff, 8, 0]), vec![0; 8]].concat()), vec![]),
        ("read-only configuration written", message(25, VERSION, &[halves(&[0, 8, 1]), vec![0; 8]].concat()), vec![]),
        ("dirty log that was not offered", message(6, VERSION, &words(&[4096, 0])), vec![file.as_fd()]),
        ("postcopy", message(28, VERSION, &[]), vec![]),
        ("device state", message(42, VERSION, &halves(&[0, 0])), vec![file.as_fd()]),
    ]
}

fn still_works(daemon: &mut Daemon, name: &str) {
    assert!(daemon.is_running(), "{name}");
    assert_eq!(Guest::new(daemon).write(0, &[1; 512]), Status::Ok, "{name}");
}

#[test]
fn malformed_messages_end_at_most_their_session() {
    let mut daemon = Daemon::with_node(FILE, "");
    let (file, other) = (memfd(1 << 16), File::open("/dev/null").unwrap());
    let before = daemon.open_files();
    for (name, bytes, fds) in frames().into_iter().chain(contents(&file, &other)) {
        let mut rude = Rude::new(&daemon);
        rude.send(&bytes, &fds);
        if !rude.is_hung_up_on() {
            // Whoever is not hung up on is listened to; a reply that is missing would hang a front-end.
            rude.send(&message(1, VERSION, &[]), &[]);
            assert_eq!(rude.reply().len(), 8, "{name}");
        }
        drop(rude);
        still_works(&mut daemon, name);
    }
    wait_until("no file of a message is left open", || daemon.open_files() <= before);
    daemon.stop();
}

#[test]
fn frames_that_make_no_sense_end_the_session_with_one_line_in_the_log() {
    let mut daemon = Daemon::with_node(FILE, "");
    for (count, (name, bytes, fds)) in (1..).zip(frames()) {
        let mut rude = Rude::new(&daemon);
        rude.send(&bytes, &fds);
        if bytes.len() > 12 || !name.contains("payload too long") {
            // Nothing more comes: a payload that was announced is not waited for longer than the front-end stays.
            let _ = rude.0.shutdown(std::net::Shutdown::Write);
        }
        assert!(rude.is_hung_up_on(), "{name}");
        drop(rude);
        still_works(&mut daemon, name);
        daemon.wait_logged("ERROR", count);
    }
}

#[test]
fn a_front_end_that_stops_in_the_middle_of_a_message_does_not_keep_the_daemon_from_ending() {
    let daemon = Daemon::with_node(FILE, "");
    let mut rude = Rude::new(&daemon);
    rude.0.write_all(&message(2, VERSION, &[0; 8])[..5]).unwrap();
    a_moment();
    daemon.stop();
}

#[test]
fn a_front_end_that_reads_no_replies_does_not_keep_the_daemon_from_ending() {
    let daemon = Daemon::with_node(FILE, "");
    let mut rude = Rude::new(&daemon);
    rude.0.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    // Until neither end can write any more.
    while rude.0.write_all(&message(1, VERSION, &[])).is_ok() {}
    daemon.stop();
}

#[test]
fn a_front_end_that_leaves_in_the_middle_of_a_message_makes_room_for_the_next() {
    let mut daemon = Daemon::with_node(FILE, "");
    for len in [1, 11, 12, 13, 19] {
        let mut rude = Rude::new(&daemon);
        rude.0.write_all(&message(2, VERSION, &[0; 8])[..len]).unwrap();
        drop(rude);
        still_works(&mut daemon, "part of a message");
    }
}

#[test]
fn a_thousand_random_messages_leave_the_daemon_working() {
    let mut daemon = Daemon::with_node(FILE, "");
    let (file, mut rng) = (memfd(1 << 16), Rng::with_seed(8));
    for round in 0..100 {
        let mut rude = Rude::new(&daemon);
        rude.0.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        for _ in 0..10 {
            let payload: Vec<u8> = match rng.u8(..3) {
                0 => words(&[rng.u64(..4), rng.u64(..)]),
                1 => halves(&[rng.u32(..5), rng.u32(..), rng.u32(..), rng.u32(..2)]),
                _ => (0..rng.usize(..64)).map(|_| rng.u8(..)).collect(),
            };
            let flags = VERSION | if rng.bool() { NEED_REPLY } else { 0 };
            rude.send(&message(rng.u32(1..46), flags, &payload), &vec![file.as_fd(); rng.usize(..3)]);
            if rude.is_hung_up_on() {
                break;
            }
        }
        drop(rude);
        if round % 10 == 0 {
            still_works(&mut daemon, "random messages");
        }
    }
    still_works(&mut daemon, "random messages");
    daemon.stop();
}
