//! Nodes that are disks of NBD servers nobody here wrote: under a guest, as the target of a backup, and when the server
//! is slow, faulty, or gone for a while.

mod chain;
mod secure;

use std::path::Path;
use std::process::Command;

use tidemark_frontend::Status;

use crate::cli::process::{Place, Running, wait_until};
use crate::qmp::daemon::Client;
use crate::vhost::daemon::{DISK, Daemon, FILE};
use crate::vhost::guest::Guest;

/// A server in a directory, listening on `remote.sock` there.
fn start(dir: &Path, program: &str, line: &str) -> Running {
    let _ = std::fs::remove_file(dir.join("remote.sock"));
    let mut command = Command::new(program);
    // `qemu-nbd` takes no other than absolute paths.
    let socket = dir.join("remote.sock").display().to_string();
    let words = line.split_whitespace().map(|word| if word == "remote.sock" { &socket } else { word });
    command.args(words).current_dir(dir);
    let server = Running::spawn(command);
    wait_until("the server", || dir.join("remote.sock").exists());
    server
}

/// `qemu-nbd` of the file `remote`, for any number of clients.
fn qemu_nbd(dir: &Path) -> Running {
    start(dir, "qemu-nbd", "-t -e 0 --discard=unmap -k remote.sock -f raw -x there remote")
}

fn make_remote(place: &Place) {
    std::fs::File::create(place.file("remote")).unwrap().set_len(DISK).unwrap();
}

fn node(more: &str) -> String {
    format!("driver=nbd,node-name=n,discard=unmap,server.type=unix,server.path=remote.sock{more}")
}

/// The daemon over a server, which `serve` starts.
fn over(node: &str, serve: impl FnOnce(&Path) -> Running) -> (Daemon, Running) {
    let mut server = None;
    let daemon = Daemon::with_image(node, |place| {
        make_remote(place);
        server = Some(serve(place.path()));
    });
    (daemon, server.unwrap())
}

fn remote(daemon: &Daemon) -> Vec<u8> {
    std::fs::read(daemon.file("remote")).unwrap()
}

#[test]
fn what_a_guest_writes_to_an_nbd_node_is_on_the_servers_disk() {
    let (daemon, _server) = over(&node(",export=there"), qemu_nbd);
    let mut guest = Guest::new(&daemon);
    for block in 0..64u8 {
        assert_eq!(guest.write(u64::from(block) * 12288, &[block + 1; 8192]), Status::Ok);
    }
    for block in 0..64u8 {
        let read = guest.read(u64::from(block) * 12288, 12288);
        assert!(read[..8192].iter().all(|byte| *byte == block + 1) && read[8192..].iter().all(|byte| *byte == 0));
    }
    let remote = remote(&daemon);
    assert!((0..64).all(|block| usize::from(remote[block * 12288 + 8191]) == block + 1));
}

#[test]
fn a_guest_waits_for_a_server_that_was_killed_and_started_again_within_reconnect_delay() {
    let (daemon, server) = over(&node(",export=there,reconnect-delay=60"), qemu_nbd);
    let mut guest = Guest::new(&daemon);
    assert_eq!(guest.write(0, &[1; 65536]), Status::Ok);
    drop(server);
    let dir = daemon.file("remote").parent().unwrap().to_owned();
    let again = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(1500));
        qemu_nbd(&dir)
    });
    assert_eq!(guest.write(65536, &[2; 65536]), Status::Ok);
    assert_eq!(guest.read(0, 4096), [1; 4096]);
    let _server = again.join().unwrap();
    assert_eq!(remote(&daemon)[65536..131_072], [2; 65536]);
}

#[test]
fn without_reconnect_delay_a_guest_gets_errors_until_the_server_is_back() {
    let (daemon, server) = over(&node(",export=there"), qemu_nbd);
    let mut guest = Guest::new(&daemon);
    assert_eq!(guest.write(0, &[1; 4096]), Status::Ok);
    drop(server);
    assert_eq!(guest.write(0, &[2; 4096]), Status::IoError);
    let _server = qemu_nbd(daemon.file("remote").parent().unwrap());
    wait_until("the server", || guest.write(0, &[3; 4096]) == Status::Ok);
    assert_eq!(remote(&daemon)[..4096], [3; 4096]);
}

fn backup(monitor: &mut Client, target: &str) {
    monitor.succeed(&format!("{{'execute': 'blockdev-add', 'arguments': {{{target}}}}}"));
    let job = "'job-id': 'j', 'device': 'n', 'target': 't', 'sync': 'full', 'auto-dismiss': false";
    monitor.succeed(&format!("{{'execute': 'blockdev-backup', 'arguments': {{{job}}}}}"));
    let mut jobs = String::new();
    wait_until("the backup", || {
        jobs = monitor.succeed("{'execute': 'query-jobs'}").to_string();
        jobs.contains("concluded")
    });
    assert!(!jobs.contains("\"error\""), "{jobs}");
    monitor.succeed("{'execute': 'job-dismiss', 'arguments': {'id': 'j'}}");
    monitor.succeed("{'execute': 'blockdev-del', 'arguments': {'node-name': 't'}}");
}

const TARGET: &str =
    "'driver': 'nbd', 'node-name': 't', 'server': {'type': 'unix', 'path': 'remote.sock'}, 'export': 'there'";

#[test]
fn a_backup_to_an_nbd_target_is_the_disk() {
    let daemon = Daemon::with_image(FILE, make_remote);
    let mut guest = Guest::new(&daemon);
    for block in 0..40u8 {
        assert_eq!(guest.write(u64::from(block) * 700 * 512, &[block + 1; 50 * 512]), Status::Ok);
    }
    let _server = qemu_nbd(daemon.file("remote").parent().unwrap());
    backup(&mut daemon.qmp(), TARGET);
    assert!(remote(&daemon) == daemon.image());
}

#[test]
fn a_slow_server_with_larger_blocks_and_many_clients_keeps_what_is_written() {
    let line = "-f -U remote.sock --filter=delay --filter=blocksize-policy file remote rdelay=5ms wdelay=5ms \
                blocksize-minimum=4096 blocksize-preferred=4096 blocksize-maximum=1M blocksize-error-policy=error";
    let (daemon, _server) = over(&node(""), |dir| start(dir, "nbdkit", line));
    let mut guest = Guest::new(&daemon);
    // Neither begins nor ends where blocks do.
    for piece in 0..20u64 {
        let fill = u8::try_from(piece).unwrap() + 1;
        assert_eq!(guest.write(piece * 7 * 512, &[fill; 7 * 512]), Status::Ok);
    }
    for piece in 0..20u64 {
        let fill = u8::try_from(piece).unwrap() + 1;
        assert!(guest.read(piece * 7 * 512, 7 * 512).iter().all(|byte| *byte == fill), "piece {piece}");
    }
}

#[test]
fn an_error_of_the_server_is_the_guests_and_the_next_request_is_none() {
    let line = "-f -U remote.sock --filter=error file remote error-pwrite=ENOSPC error-pwrite-rate=100% error-file=on";
    let (daemon, _server) = over(&node(""), |dir| start(dir, "nbdkit", line));
    let mut guest = Guest::new(&daemon);
    std::fs::File::create(daemon.file("on")).unwrap();
    assert_eq!(guest.write(0, &[1; 4096]), Status::IoError);
    std::fs::remove_file(daemon.file("on")).unwrap();
    assert_eq!(guest.write(0, &[1; 4096]), Status::Ok);
    assert_eq!(guest.read(0, 4096), [1; 4096]);
}
