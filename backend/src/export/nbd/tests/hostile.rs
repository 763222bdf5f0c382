//! Clients that mean no good: each is answered as the protocol says or disconnected, and others do not notice.

use super::served::{Served, export};
use super::wire::{Client, option, request};
use crate::export::nbd::{NbdAddress, NbdOptions, NbdServerOptions};
use crate::export::{ExportError, RemoveMode};
use crate::nbd_wire::handshake::{
    OPTION_MAX, OptionHeader, encode_info_request, encode_meta_queries, option as number, reply,
};
use crate::nbd_wire::transmission::{Command, Headers};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const LEN: usize = 1 << 20;

fn served() -> Served {
    let served = Served::new();
    served.add_file("disk", &[7; LEN]);
    served.exports.add_nbd(export("disk")).unwrap();
    served
}

/// Another client gets what it wants.
fn assert_serves(served: &Served) {
    let mut client = Client::open(&served.path("nbd.sock"), "disk", Headers::Simple, &[]);
    let reply = client.request(&request(Command::Read, 512, 512, 0, Headers::Simple), &[]);
    assert!(reply[16..] == [7; 512]);
}

#[test]
fn what_is_no_nbd_is_disconnected() {
    let served = served();
    for flags in [4, 0x8000_0003, u32::MAX] {
        assert_eq!(Client::connect(&served.path("nbd.sock"), flags).rest(), b"", "flags {flags:#x}");
    }
    for bytes in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(), &[0xff; 64]] {
        let mut client = Client::connect(&served.path("nbd.sock"), 3);
        client.write(bytes);
        assert_eq!(client.rest(), b"");
    }
    let endless = OptionHeader { option: number::INFO, len: OPTION_MAX }.encode();
    let mut client = Client::connect(&served.path("nbd.sock"), 3);
    client.write(&[&endless[..12], &u32::MAX.to_be_bytes()].concat());
    assert_eq!(client.rest(), b"");
    assert_serves(&served);
}

#[test]
fn an_option_that_is_too_large_is_refused_and_the_next_one_answered() {
    let served = served();
    let mut client = Client::connect(&served.path("nbd.sock"), 3);
    let queries = vec!["qemu:dirty-bitmap:x"; 100_000];
    let replies = client.ask(number::LIST_META_CONTEXT, &encode_meta_queries("disk", &queries));
    assert_eq!(replies[0].0, reply::ERR_TOO_BIG);
    assert_eq!(client.ask(number::INFO, &encode_info_request("disk", &[])).last().unwrap().0, reply::ACK);
    assert_serves(&served);
}

#[test]
fn a_flood_of_options_ends() {
    let served = served();
    let mut client = Client::connect(&served.path("nbd.sock"), 3);
    let flood = option(number::LIST, &[]).repeat(5000);
    let mut writer = client.stream.try_clone().unwrap();
    // It is cut off somewhere.
    let sender = std::thread::spawn(move || writer.write_all(&flood).is_err());
    let answers = client.rest();
    assert!(answers.len() <= 4096 * 64, "{} bytes of answers", answers.len());
    let _ = sender.join().unwrap();
    assert_serves(&served);
}

#[test]
fn whoever_says_nothing_is_disconnected_when_the_handshake_takes_too_long() {
    let served = served();
    served.exports.stop_nbd_server().unwrap();
    let address = NbdAddress::Unix(served.path("nbd.sock"));
    let handshake_max = Some(Duration::from_millis(50));
    let options = NbdServerOptions { address, tls: None, max_connections: 0, handshake_max };
    served.exports.start_nbd_server(options).unwrap();
    served.exports.add_nbd(export("disk")).unwrap();
    let mut silent = UnixStream::connect(served.path("nbd.sock")).unwrap();
    let mut slow = Client::connect(&served.path("nbd.sock"), 3);
    slow.write(b"IHAVEOPT\0");
    let mut greeting = Vec::new();
    silent.read_to_end(&mut greeting).unwrap();
    assert_eq!(greeting.len(), 18);
    assert_eq!(slow.rest(), b"");
    // Whoever has chosen an export stays.
    let mut client = Client::open(&served.path("nbd.sock"), "disk", Headers::Simple, &[]);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(client.request(&request(Command::Flush, 0, 0, 0, Headers::Simple), &[])[4..8], [0; 4]);
}

#[test]
fn an_oversized_write_is_answered_and_the_connection_closed() {
    let served = served();
    for headers in [Headers::Simple, Headers::Extended] {
        let mut client = Client::open(&served.path("nbd.sock"), "disk", headers, &[]);
        let reply = client.request(&request(Command::Write, 0, 33 << 20, 0, headers), &[]);
        let error = if headers == Headers::Simple { &reply[4..8] } else { &reply[32..36] };
        assert_eq!(error, [0, 0, 0, 22]);
        assert_eq!(client.rest(), b"");
    }
    assert_serves(&served);
}

#[test]
fn requests_without_end_or_beginning_leave_nothing_behind() {
    let served = served();
    for bytes in [
        request(Command::Write, 0, 32 << 20, 0, Headers::Simple),
        request(Command::Write, 0, 512, 0, Headers::Simple)[..20].to_vec(),
        vec![0; 28],
        request(Command::Read, 0, 512, 0, Headers::Extended),
    ] {
        let mut client = Client::open(&served.path("nbd.sock"), "disk", Headers::Simple, &[]);
        client.write(&bytes);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.rest(), b"");
    }
    assert_serves(&served);
    assert_eq!(std::fs::read(served.path("disk")).unwrap(), [7; LEN]);
    served.exports.remove("export-disk", RemoveMode::Hard).unwrap();
}

#[test]
fn whoever_does_not_read_its_replies_keeps_nobody_else_waiting() {
    let served = served();
    let mut greedy = Client::open(&served.path("nbd.sock"), "disk", Headers::Structured, &[]);
    greedy.stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let flood = request(Command::Read, 0, LEN as u64, 0, Headers::Structured).repeat(100_000);
    // It stops being read from at some point.
    let _ = greedy.stream.write_all(&flood);
    for _ in 0..4 {
        assert_serves(&served);
    }
    served.exports.remove("export-disk", RemoveMode::Hard).unwrap();
}

#[test]
fn a_read_only_export_is_not_written_to() {
    let served = Served::new();
    served.add_file("disk", &[7; LEN]);
    served.exports.add_nbd(NbdOptions { writable: false, ..export("disk") }).unwrap();
    let mut client = Client::open(&served.path("nbd.sock"), "disk", Headers::Simple, &[]);
    for (command, payload) in [(Command::Write, vec![1; 512]), (Command::Trim, vec![]), (Command::WriteZeroes, vec![])]
    {
        let reply = client.request(&request(command, 0, 512, 0, Headers::Simple), &payload);
        assert_eq!(reply[4..8], [0, 0, 0, 1], "{command:?}");
    }
    assert_eq!(std::fs::read(served.path("disk")).unwrap(), [7; LEN]);
}

#[test]
fn more_clients_than_are_allowed_wait_until_one_leaves() {
    let served = Served::with(2);
    served.add_file("disk", &[7; LEN]);
    served.exports.add_nbd(export("disk")).unwrap();
    let path = served.path("nbd.sock");
    let first = Client::open(&path, "disk", Headers::Simple, &[]);
    let _second = Client::open(&path, "disk", Headers::Simple, &[]);
    let mut third = UnixStream::connect(&path).unwrap();
    third.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = third.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    drop(first);
    third.set_read_timeout(None).unwrap();
    assert_eq!(third.read(&mut [0; 18]).unwrap(), 18);
}

#[test]
fn an_export_in_use_ends_if_it_has_to_and_a_server_with_all_its_exports() {
    let served = served();
    let mut client = Client::open(&served.path("nbd.sock"), "disk", Headers::Simple, &[]);
    let error = served.exports.remove("export-disk", RemoveMode::Safe).unwrap_err();
    assert_eq!(error.to_string(), "export 'export-disk' still in use");
    served.exports.remove("export-disk", RemoveMode::Hard).unwrap();
    assert_eq!(client.rest(), b"");
    served.graph.close("disk").unwrap();
    served.add_sparse("other", 1 << 20);
    served.exports.add_nbd(export("other")).unwrap();
    let mut waiting = Client::connect(&served.path("nbd.sock"), 3);
    served.exports.stop_nbd_server().unwrap();
    assert_eq!(waiting.rest(), b"");
    assert!(served.exports.list().is_empty() && !served.path("nbd.sock").exists());
    assert!(matches!(served.exports.stop_nbd_server(), Err(ExportError::ServerNotRunning)));
    assert!(matches!(served.exports.add_nbd(export("other")), Err(ExportError::ServerNotRunning)));
}
