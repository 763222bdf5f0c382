//! Clients that mean no good: each gets the error that the protocol has for what it does, or is closed; a good client and
//! the guest go on.

mod attack;
mod siege;

use std::thread;
use std::time::Duration;

use tidemark_frontend::Status;

use super::site::Site;
use super::wire::{
    ACK, BLOCK_STATUS, EINVAL, EPERM, ERR_INVALID, ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP, EXPORT_NAME, GO, INFO, LIST,
    READ, SET_META_CONTEXT, STARTTLS, STRUCTURED_REPLY, TRIM, WRITE, WRITE_ZEROES, Wire, contexts, named, option,
    request,
};
use crate::cli::process::{TIDEMARK, wait_until};
use crate::vhost::daemon::DISK;
use crate::vhost::guest::Guest;

/// A site with a guest, a good client, and something to do harm to.
struct Scene {
    site: Site,
    guest: Guest,
    good: Wire,
    round: u8,
}

impl Scene {
    /// With more options of the server. `n` can be written, `past` cannot.
    fn new(server: &str) -> Self {
        let mut site = Site::new(TIDEMARK);
        site.serve(server);
        site.export("n", ", 'writable': true");
        site.run("blockdev-add", "'driver': 'null-co', 'node-name': 'past', 'size': 1048576, 'read-zeroes': true");
        site.export("past", "");
        let guest = Guest::new(&site.daemon);
        let good = Wire::open(&site.file("nbd"), "n");
        Self { site, guest, good, round: 0 }
    }

    fn connect(&self) -> Wire {
        Wire::connect(&self.site.file("nbd"))
    }

    fn open(&self, export: &str) -> Wire {
        Wire::open(&self.site.file("nbd"), export)
    }

    /// What the guest writes now the good client reads, and a new one does.
    fn goes_on(&mut self, after: &str) {
        self.round = self.round.wrapping_add(1);
        assert_eq!(self.guest.write(8192, &[self.round; 4096]), Status::Ok, "{after}");
        let new = self.open("n");
        for client in [&mut self.good, &mut { new }] {
            client.send(&request(0, READ, 8192, 4096));
            assert_eq!(client.error(), 0, "{after}");
            assert!(client.take(4096) == [self.round; 4096], "{after}");
        }
    }
}

#[test]
fn options_that_make_no_sense_are_answered_with_their_error() {
    let mut scene = Scene::new("");
    let cut = [&named("n")[..5], &[0; 8]].concat();
    let long = vec![0; 70_000];
    let many: Vec<&str> = vec!["base:allocation"; 1000];
    for (what, number, data, answer) in [
        ("unknown", 99, &b"data"[..], ERR_UNSUP),
        ("an export that is not there", GO, &named("nowhere"), ERR_UNKNOWN),
        ("a name longer than its data", GO, &[0xff; 8], ERR_INVALID),
        ("data longer than its name", INFO, &cut, ERR_INVALID),
        ("more data than is taken", GO, &long, ERR_TOO_BIG),
        ("a list of something", LIST, b"data", ERR_INVALID),
        ("TLS that there is not", STARTTLS, &[], 0x8000_0002),
        ("contexts without structured replies", SET_META_CONTEXT, &contexts("n", &["base:allocation"]), ERR_INVALID),
        ("structured replies with data", STRUCTURED_REPLY, b"data", ERR_INVALID),
    ] {
        let mut wire = scene.connect();
        wire.send(&option(number, data));
        assert_eq!(wire.answer(), answer, "{what}");
        // What follows is understood.
        wire.send(&option(GO, &named("n")));
        while wire.answer() != ACK {}
        scene.goes_on(what);
    }
    let mut wire = scene.connect();
    wire.send(&[option(STRUCTURED_REPLY, &[]), option(SET_META_CONTEXT, &contexts("n", &many))].concat());
    assert_eq!(wire.answer(), ACK);
    assert!(wire.answer() < ERR_UNSUP, "one context asked for a thousand times");
    scene.goes_on("many contexts");
}

#[test]
fn who_does_not_speak_the_protocol_is_not_talked_to() {
    let mut scene = Scene::new("");
    let mut flags = [0xff; 64];
    flags[8..].fill(0);
    for (what, bytes) in [
        ("flags that were not offered", &flags[..]),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("an option without its magic", b"\0\0\0\x03IHAVENOT\0\0\0\x03\0\0\0\0"),
        ("an export that is not there, the old way", &[&[0, 0, 0, 3][..], &option(EXPORT_NAME, b"nowhere")].concat()),
    ] {
        let mut wire = Wire::silent(&scene.site.file("nbd"));
        wire.take(18);
        wire.send(bytes);
        assert_eq!(wire.rest(), b"", "{what}");
        scene.goes_on(what);
    }
    for (what, bytes, answered) in
        [("a request without its magic", vec![0x5a; 28], 0), ("a write of 4 GiB", request(0, WRITE, 0, u32::MAX), 16)]
    {
        let mut wire = scene.open("n");
        wire.send(&bytes);
        let rest = wire.rest();
        assert_eq!(rest.len(), answered, "{what}");
        assert!(rest.is_empty() || rest[4..8] == EINVAL.to_be_bytes(), "{what}");
        scene.goes_on(what);
    }
    let mut wire = scene.connect();
    for _ in 0..5000 {
        wire.send(&option(99, &[]));
    }
    wire.rest();
    scene.goes_on("a flood of options");
}

#[test]
fn requests_that_make_no_sense_are_answered_with_their_error() {
    let mut scene = Scene::new("");
    let end = DISK;
    let (sector, whole) = (vec![1; 512], 512);
    for (what, export, head, payload, error) in [
        ("a read past the end", "n", request(0, READ, end - 256, whole), &[][..], EINVAL),
        ("a read far away", "n", request(0, READ, u64::MAX - 100, whole), &[], EINVAL),
        ("a read of 4 GiB", "n", request(0, READ, 0, u32::MAX), &[], EINVAL),
        ("a write past the end", "n", request(0, WRITE, end - 256, whole), &sector, EINVAL),
        ("zeroes past the end", "n", request(0, WRITE_ZEROES, end, whole), &[], EINVAL),
        ("a trim past the end", "n", request(0, TRIM, end, whole), &[], EINVAL),
        ("a write of what is read-only", "past", request(0, WRITE, 0, whole), &sector, EPERM),
        ("zeroes where it is read-only", "past", request(0, WRITE_ZEROES, 0, whole), &[], EPERM),
        ("a trim of what is read-only", "past", request(0, TRIM, 0, whole), &[], EPERM),
        ("block status that was not agreed on", "n", request(0, BLOCK_STATUS, 0, whole), &[], EINVAL),
        ("flags that there are not", "n", request(0x8000, READ, 0, whole), &[], EINVAL),
        ("a command that there is not", "n", request(0, 4711, 0, whole), &[], EINVAL),
    ] {
        let mut wire = scene.open(export);
        wire.send(&[&head[..], payload].concat());
        assert_eq!(wire.error(), error, "{what}");
        wire.send(&request(0, READ, 0, 512));
        assert_eq!(wire.error(), 0, "{what}: what follows");
        assert_eq!(wire.take(512), [0; 512], "{what}: nothing was written");
        scene.goes_on(what);
    }
}

#[test]
fn who_does_not_finish_the_handshake_in_time_is_closed_and_nobody_else() {
    let mut scene = Scene::new(", 'handshake-max-seconds': 1");
    let mut quiet = Wire::silent(&scene.site.file("nbd"));
    let mut slow = scene.connect();
    let hello = option(GO, &named("n"));
    let mut sent = hello.iter().cycle();
    wait_until("the end of a slow handshake", || {
        thread::sleep(Duration::from_millis(90));
        !slow.send(&[*sent.next().unwrap()])
    });
    slow.rest();
    assert_eq!(quiet.rest().len(), 18, "greeted, and closed");
    scene.goes_on("slow handshakes");
}

#[test]
fn who_asks_and_never_reads_has_bounded_memory() {
    let mut scene = Scene::new("");
    let before = siege::resident(&scene.site);
    let mut greedy: Vec<Wire> = (0..4).map(|_| scene.open("n")).collect();
    for wire in &mut greedy {
        // More than two such reads are not begun.
        let requests: Vec<u8> = (0..64).flat_map(|_| request(0, READ, 0, 30 << 20)).collect();
        wire.send(&requests);
    }
    scene.goes_on("greedy clients");
    // What is taken against the rule is taken by now.
    thread::sleep(Duration::from_millis(500));
    let most = siege::resident(&scene.site);
    assert!(most < before + (4 * 64 + 32) * (1 << 20), "from {before} to {most} bytes");
    drop(greedy);
    scene.goes_on("greedy clients that have left");
    wait_until("the memory", || siege::resident(&scene.site) < before + (32 << 20));
}
