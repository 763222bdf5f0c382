//! What each request is answered, beside `qemu-storage-daemon` on the same disk.

use std::fs;
use std::os::unix::fs::MetadataExt;

use tidemark_frontend::{Request, Status, request_type};

use super::daemon::{DISK, Daemon, FILE};
use super::guest::{Guest, range};
use crate::cli::process::{QEMU, TIDEMARK};

const SECTORS: u64 = DISK / 512;

/// What the device is given beside the header.
enum Data {
    Reads(Vec<u8>),
    Writes(u32),
}

type Row = (&'static str, u32, u64, Data);

fn rows() -> Vec<Row> {
    use Data::{Reads, Writes};
    use request_type::{DISCARD, FLUSH, GET_ID, IN, OUT, WRITE_ZEROES};
    let sector = || Reads(vec![7; 512]);
    vec![
        ("write of the last sector", OUT, SECTORS - 1, sector()),
        ("write past the end", OUT, SECTORS, sector()),
        ("write across the end", OUT, SECTORS - 1, Reads(vec![7; 1024])),
        ("write of the highest sector there can be", OUT, u64::MAX, sector()),
        ("write whose offset in bytes overflows", OUT, 1 << 55, sector()),
        ("write of part of a sector", OUT, 0, Reads(vec![7; 100])),
        ("write of a sector and a byte", OUT, 0, Reads(vec![7; 513])),
        ("read of the last sector", IN, SECTORS - 1, Writes(512)),
        ("read past the end", IN, SECTORS, Writes(512)),
        ("read across the end", IN, SECTORS - 1, Writes(1024)),
        ("read of part of a sector", IN, 0, Writes(511)),
        ("flush", FLUSH, 0, Reads(vec![])),
        ("serial", GET_ID, 0, Writes(20)),
        ("serial into less room", GET_ID, 0, Writes(5)),
        ("discard", DISCARD, 0, Reads(range(8, 8, 0))),
        ("discard of the last sector", DISCARD, 0, Reads(range(SECTORS - 1, 1, 0))),
        ("discard past the end", DISCARD, 0, Reads(range(SECTORS, 1, 0))),
        ("discard across the end", DISCARD, 0, Reads(range(SECTORS - 1, 2, 0))),
        ("discard of more than the limit", DISCARD, 0, Reads(range(0, 32769, 0))),
        ("discard of the limit", DISCARD, 0, Reads(range(0, 32768, 0))),
        ("discard with unmap", DISCARD, 0, Reads(range(8, 8, 1))),
        ("discard with an unknown flag", DISCARD, 0, Reads(range(8, 8, 2))),
        ("discard of the highest sector there can be", DISCARD, 0, Reads(range(u64::MAX, 1, 0))),
        ("write-zeroes", WRITE_ZEROES, 0, Reads(range(8, 8, 0))),
        ("write-zeroes with unmap", WRITE_ZEROES, 0, Reads(range(8, 8, 1))),
        ("write-zeroes with an unknown flag", WRITE_ZEROES, 0, Reads(range(8, 8, 2))),
        ("write-zeroes with all flags", WRITE_ZEROES, 0, Reads(range(8, 8, u32::MAX))),
        ("write-zeroes across the end", WRITE_ZEROES, 0, Reads(range(SECTORS - 1, 2, 0))),
        ("write-zeroes of more than the limit", WRITE_ZEROES, 0, Reads(range(0, 32769, 0))),
        ("unknown type", 77, 0, sector()),
        ("get-lifetime, which was not offered", 10, 0, Writes(512)),
        ("secure erase, which was not offered", 14, 0, Reads(range(8, 8, 0))),
    ]
}

fn answers(program: &'static str) -> Vec<(&'static str, Status)> {
    let daemon = Daemon::of(program, FILE, "");
    let mut guest = Guest::new(&daemon);
    let answer = |(name, kind, sector, data): Row| match data {
        Data::Reads(bytes) => (name, guest.raw(kind, sector, &bytes)),
        Data::Writes(len) => (name, guest.raw_in(kind, sector, len)),
    };
    rows().into_iter().map(answer).collect()
}

#[test]
fn requests_good_and_bad_are_answered_as_qemu_storage_daemon_answers_them() {
    let ours = answers(TIDEMARK);
    for (ours, theirs) in ours.iter().zip(answers(QEMU)) {
        assert_eq!(*ours, theirs);
    }
    let of = |name: &str| ours.iter().find(|(row, _)| *row == name).unwrap().1;
    // Virtio 1.2, 5.2.6.2, so that two programs that are both wrong do not agree unseen.
    assert_eq!(of("discard with unmap"), Status::Unsupported);
    assert_eq!(of("write-zeroes with an unknown flag"), Status::Unsupported);
    assert_eq!(of("unknown type"), Status::Unsupported);
    assert_eq!(of("write across the end"), Status::IoError);
    assert_eq!(of("write of the last sector"), Status::Ok);
}

#[test]
fn ranges_of_a_wrong_size_and_transfers_of_nothing_are_refused() {
    let daemon = Daemon::with_node(FILE, "");
    let mut guest = Guest::new(&daemon);
    for kind in [request_type::DISCARD, request_type::WRITE_ZEROES] {
        for len in [0, 1, 15, 17, 32] {
            let bytes = [range(0, 8, 0), range(8, 8, 0)].concat();
            assert_eq!(guest.raw(kind, 0, &bytes[..len]), Status::IoError, "{len} bytes");
        }
    }
    assert_eq!(guest.raw(request_type::OUT, 0, &[]), Status::IoError);
    assert_eq!(guest.raw_in(request_type::IN, 0, 0), Status::IoError);
    assert_eq!(guest.raw_in(request_type::OUT, 0, 512), Status::IoError, "a write of what the device writes");
    assert_eq!(guest.raw(request_type::IN, 0, &[0; 512]), Status::IoError, "a read into what the device reads");
    assert_eq!(guest.write(0, &[1; 512]), Status::Ok);
}

#[test]
fn refused_requests_touch_nothing() {
    let daemon = Daemon::with_node(FILE, "");
    let mut guest = Guest::new(&daemon);
    let before: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[1] | 1).collect();
    assert_eq!(guest.write(DISK - (1 << 20), &before), Status::Ok);
    assert_eq!(guest.raw(request_type::OUT, SECTORS - 1, &[0; 1024]), Status::IoError);
    assert_eq!(guest.raw(request_type::WRITE_ZEROES, 0, &range(SECTORS - 8, 9, 1)), Status::IoError);
    assert_eq!(guest.raw(request_type::DISCARD, 0, &range(SECTORS - 8, 8, 2)), Status::Unsupported);
    assert!(guest.read(DISK - (1 << 20), 1 << 20) == before);
    assert_eq!(fs::metadata(daemon.file("disk")).unwrap().len(), DISK, "the disk does not grow");
}

#[test]
fn discard_and_write_zeroes_cover_exactly_their_range() {
    for (kind, flags, frees) in [
        (request_type::DISCARD, 0, true),
        (request_type::WRITE_ZEROES, 1, true),
        (request_type::WRITE_ZEROES, 0, false),
    ] {
        let daemon = Daemon::with_node(FILE, "");
        let mut guest = Guest::new(&daemon);
        assert_eq!(guest.write(0, &[0xaa; 1 << 20]), Status::Ok);
        assert_eq!(guest.run(&Request::Flush), Status::Ok);
        let before = fs::metadata(daemon.file("disk")).unwrap().blocks();
        assert_eq!(guest.raw(kind, 0, &range(3, 1021, flags)), Status::Ok);
        let data = guest.read(0, 1 << 20);
        assert!(data[..3 * 512].iter().chain(&data[1024 * 512..]).all(|byte| *byte == 0xaa), "type {kind}");
        assert!(data[3 * 512..1024 * 512].iter().all(|byte| *byte == 0), "type {kind}");
        let after = fs::metadata(daemon.file("disk")).unwrap().blocks();
        assert_eq!(after < before, frees, "type {kind} flags {flags}: {before} and then {after} blocks of 512 bytes");
    }
}

#[test]
fn a_read_only_disk_says_so_and_takes_no_writes() {
    use tidemark_frontend::feature;
    for daemon in [
        Daemon::with_node("driver=file,node-name=n,filename=disk,read-only=on", ",writable=off"),
        Daemon::serve(&["--read-only"]),
    ] {
        let mut guest = Guest::new(&daemon);
        assert_ne!(guest.device.features() & feature::RO, 0);
        assert_eq!(guest.device.features() & (feature::DISCARD | feature::WRITE_ZEROES), 0);
        assert_eq!(guest.write(0, &[1; 512]), Status::IoError);
        assert_eq!(guest.raw(request_type::DISCARD, 0, &range(0, 8, 0)), Status::IoError);
        assert_eq!(guest.raw(request_type::WRITE_ZEROES, 0, &range(0, 8, 0)), Status::IoError);
        assert_eq!(guest.run(&Request::Flush), Status::Ok);
        assert_eq!(guest.read(0, 4096), [0; 4096]);
    }
}
