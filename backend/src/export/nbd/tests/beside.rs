//! The same said to this server and to QEMU's: the same is answered, byte for byte.

use super::served::{Served, export, run};
use super::wire::{Client, option, request};
use crate::export::nbd::{NbdBitmap, NbdOptions};
use crate::nbd_wire::handshake::{encode_info_request, encode_meta_queries, option as number};
use crate::nbd_wire::transmission::{Command, Headers};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// QEMU's storage daemon with the same image.
struct Qsd {
    child: Child,
    socket: PathBuf,
}

impl Drop for Qsd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Qsd {
    fn start(served: &Served) -> Self {
        let (image, socket) = (served.path("theirs"), served.path("qsd.sock"));
        let daemon = std::process::Command::new("qemu-storage-daemon")
            .args(["--blockdev", &format!("file,node-name=below,discard=unmap,filename={}", image.display())])
            .args(["--blockdev", "qcow2,node-name=disk,file=below,discard=unmap"])
            .args(["--nbd-server", &format!("addr.type=unix,addr.path={}", socket.display())])
            .args(["--export", "nbd,id=e,node-name=disk,writable=on,bitmaps.0=changes,allocation-depth=on"])
            .stdin(Stdio::null())
            .spawn();
        while !socket.exists() {
            std::thread::yield_now();
        }
        Self { child: daemon.unwrap(), socket }
    }
}

/// Both servers with images of the same content.
fn both() -> (Served, Qsd) {
    let served = Served::new();
    for name in ["disk", "theirs"] {
        let image = served.path(name);
        let image = image.to_str().unwrap();
        run("qemu-img", &["create", "-qf", "qcow2", image, "64M"]);
        run("qemu-img", &["bitmap", "--add", "-f", "qcow2", image, "changes"]);
        run("qemu-io", &["-c", "write -P 3 1M 3M", "-c", "write -z 8M 1M", "-c", "write 63M 512", image]);
    }
    served.add_image("disk");
    let bitmaps = vec![NbdBitmap { node: None, name: "changes".into() }];
    served.exports.add_nbd(NbdOptions { bitmaps, allocation_depth: true, ..export("disk") }).unwrap();
    let qsd = Qsd::start(&served);
    (served, qsd)
}

/// What a server answers to options until it closes the connection, asked to at the end if it does not before.
fn answers(path: &Path, flags: u32, options: &[u8]) -> Vec<u8> {
    let mut client = Client::connect(path, flags);
    client.write(&[options, &option(number::ABORT, &[])].concat());
    client.rest()
}

fn infos() -> Vec<(&'static str, Vec<u8>)> {
    let long = [5000u32.to_be_bytes().as_slice(), &[b'a'; 5000], &[0, 0]].concat();
    vec![
        ("asks for nothing", encode_info_request("disk", &[])),
        ("asks for all", encode_info_request("disk", &[0, 1, 2, 3, 99])),
        ("of none", encode_info_request("nope", &[3])),
        ("of the default", encode_info_request("", &[])),
        ("is cut", b"\0\0\0\x04disk".to_vec()),
        ("is cut in its types", b"\0\0\0\x04disk\0\x02\0\x03".to_vec()),
        ("goes on", b"\0\0\0\x04disk\0\0x".to_vec()),
        ("has a NUL", b"\0\0\0\x03a\0b\0\0".to_vec()),
        ("has a long name", long),
    ]
}

#[test]
fn options_are_answered_alike() {
    let (served, qsd) = both();
    let ours = served.path("nbd.sock");
    let check = |what: &str, flags: u32, options: &[u8]| {
        let (ours, theirs) = (answers(&ours, flags, options), answers(&qsd.socket, flags, options));
        assert!(
            ours == theirs,
            "{what}: {:?} is not {:?}",
            ours.escape_ascii().to_string(),
            theirs.escape_ascii().to_string()
        );
    };
    for (what, data) in infos() {
        check(what, 3, &option(number::INFO, &data));
    }
    for bare in [number::LIST, number::STARTTLS, number::STRUCTURED_REPLY, number::EXTENDED_HEADERS, 4, 12, 77] {
        check(&format!("option {bare}"), 3, &option(bare, &[]));
        check(&format!("option {bare} with data"), 3, &option(bare, b"x"));
    }
    let switches = [8, 8, 11, 11, 8].map(|number| option(number, &[])).concat();
    check("forms of replies", 3, &switches);
    check("not the fixed protocol", 2, &option(number::LIST, &[]));
    check("an export that there is not", 3, &option(number::EXPORT_NAME, b"nope"));
    check("an export of the old way after extended headers", 3, &[option(11, &[]), option(1, b"disk")].concat());
}

#[test]
fn contexts_are_answered_alike() {
    let (served, qsd) = both();
    let long = "x".repeat(5000);
    let queries: [&[&str]; 13] = [
        &[],
        &[""],
        &["base:"],
        &["base:allocation"],
        &["base:nope"],
        &["qemu:"],
        &["qemu:allocation-depth"],
        &["qemu:dirty-bitmap:"],
        &["qemu:dirty-bitmap:changes"],
        &["qemu:dirty-bitmap:change"],
        &["x-foo:bar"],
        &["qemu:dirty-bitmap:changes", "base:allocation", "base:allocation"],
        &[&long, "base:allocation"],
    ];
    for number in [number::LIST_META_CONTEXT, number::SET_META_CONTEXT] {
        for (export, queries) in queries.iter().map(|queries| ("disk", *queries)).chain([("nope", queries[3])]) {
            for before in [vec![], option(8, &[]), option(11, &[])] {
                let asked = option(number, &encode_meta_queries(export, queries));
                // What was selected changes an export's flags.
                let go = option(number::INFO, &encode_info_request("disk", &[]));
                let options = [before, asked, go].concat();
                let (ours, theirs) =
                    (answers(&served.path("nbd.sock"), 3, &options), answers(&qsd.socket, 3, &options));
                assert!(
                    ours == theirs,
                    "{number} {queries:?}: {:?} is not {:?}",
                    ours.escape_ascii().to_string(),
                    theirs.escape_ascii().to_string()
                );
            }
        }
    }
}

#[test]
fn requests_are_answered_alike() {
    use Command::{BlockStatus, Cache, Flush, Read, Trim, Unknown, Write, WriteZeroes};
    let (served, qsd) = both();
    let size = 64 << 20;
    let requests = [
        (Read, 0, 512, 0),
        (Read, 1 << 20, 65536, 0),
        (Read, 1 << 20, 65536, 4),
        (Read, 0, 2 << 20, 0),
        (Read, 0, 0, 0),
        (Read, size - 512, 1024, 0),
        (Read, 1 << 63, 512, 0),
        (Read, u64::MAX, 2, 0),
        (Read, 0, 33 << 20, 0),
        (Read, 0, 512, 0x80),
        (Read, 0, 512, 1),
        (Write, 0, 512, 0),
        (Write, 65536, 65536, 1),
        (Write, 0, 0, 0),
        (Write, size - 512, 1024, 0),
        (Write, 0, 512, 2),
        (Trim, 4096, 65536, 0),
        (Trim, 1 << 20, 65536, 1),
        (Trim, size, 512, 0),
        (Trim, 0, 512, 2),
        (Cache, 0, 4096, 0),
        (Cache, size, 1, 0),
        (WriteZeroes, 8192, 4096, 0),
        (WriteZeroes, 2 << 20, 65536, 2),
        (WriteZeroes, 8192, 4096, 16),
        (WriteZeroes, size, 512, 0),
        (WriteZeroes, 0, 0, 0),
        (Flush, 0, 0, 0),
        (Flush, 512, 512, 0),
        (Flush, size + 512, 0, 0),
        (Flush, 0, 0, 1),
        (Unknown(8), 0, 0, 0),
        (Unknown(999), 0, 0, 0),
        (BlockStatus, 0, size, 0),
        (BlockStatus, 0, size, 8),
        (BlockStatus, 512, 65536, 0),
        (BlockStatus, (1 << 20) - 512, 1024, 0),
        (BlockStatus, 0, 0, 0),
        (BlockStatus, size, 512, 0),
    ];
    let contexts = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:changes"];
    for (headers, contexts) in [
        (Headers::Simple, &contexts[..0]),
        (Headers::Structured, &contexts[..0]),
        (Headers::Structured, &contexts[..]),
        (Headers::Extended, &contexts[..]),
    ] {
        let mut ours = Client::open(&served.path("nbd.sock"), "disk", headers, contexts);
        let mut theirs = Client::open(&qsd.socket, "disk", headers, contexts);
        for (command, offset, len, flags) in requests {
            let request = request(command, offset, len, flags, headers);
            let payload = if command == Write { vec![5; usize::try_from(len).unwrap()] } else { Vec::new() };
            let (ours, theirs) = (ours.request(&request, &payload), theirs.request(&request, &payload));
            let what = format!("{headers:?}: {command:?} {offset} {len} {flags}");
            assert_same(&what, &ours, &theirs);
        }
    }
}

/// Replies may differ in how a read is divided into chunks; here they do not.
fn assert_same(what: &str, ours: &[u8], theirs: &[u8]) {
    let shown = |bytes: &[u8]| format!("{} bytes {}", bytes.len(), bytes[..bytes.len().min(200)].escape_ascii());
    assert!(ours == theirs, "{what}: {} is not {}", shown(ours), shown(theirs));
}

#[test]
fn payloads_of_extended_requests_are_answered_alike() {
    use Command::{BlockStatus, Flush, Read, Write};
    let (served, qsd) = both();
    let status = |len: u64, ids: &[u32]| {
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
        [len.to_be_bytes().to_vec(), ids].concat()
    };
    let payloads = [
        (BlockStatus, status(1 << 20, &[0])),
        (BlockStatus, status(1 << 20, &[2, 0])),
        (BlockStatus, status(1 << 20, &[1])),
        (BlockStatus, status(1 << 20, &[9])),
        (BlockStatus, status(1 << 20, &[0, 0])),
        (BlockStatus, status(1 << 20, &[])),
        (BlockStatus, b"12345678901".to_vec()),
        (BlockStatus, b"1234".to_vec()),
        (BlockStatus, status(1 << 40, &[0])),
        (BlockStatus, vec![0; 100_000]),
        (Read, vec![1; 512]),
        (Flush, vec![1; 8]),
        (Write, vec![1; 512]),
    ];
    let contexts = ["base:allocation", "qemu:dirty-bitmap:changes"];
    let mut ours = Client::open(&served.path("nbd.sock"), "disk", Headers::Extended, &contexts);
    let mut theirs = Client::open(&qsd.socket, "disk", Headers::Extended, &contexts);
    for (command, payload) in payloads {
        let request = request(command, 0, payload.len() as u64, 32, Headers::Extended);
        let (ours, theirs) = (ours.request(&request, &payload), theirs.request(&request, &payload));
        assert_same(&format!("{command:?} {}", payload[..payload.len().min(20)].escape_ascii()), &ours, &theirs);
    }
}
