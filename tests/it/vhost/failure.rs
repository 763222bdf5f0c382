//! Storage that fails under a guest: the guest is told, the monitors are told, and the disk stays usable. And what a
//! guest may not write to a disk whose format nobody named.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use qmp_lite::wire::Value;
use rustix::process::Signal;
use tidemark_frontend::{DeviceOptions, Request, Status};

use super::daemon::{DISK, Daemon, a_moment};
use super::guest::Guest;
use super::load::finish;
use crate::cli::process::{Place, Running, TIDEMARK, wait_until};
use crate::qmp::daemon::Client;

fn failing(iotype: &str, errno: u32, more: &str) -> String {
    format!(
        "driver=blkdebug,node-name=n,discard=unmap,image.driver=file,image.filename=disk,image.discard=unmap,\
         inject-error.0.event=none,inject-error.0.iotype={iotype},inject-error.0.errno={errno}{more}"
    )
}

/// The events of failed requests, after a moment in which no more came.
fn io_errors(qmp: &mut Client) -> Vec<Value> {
    a_moment();
    qmp.ask("{'execute': 'query-version'}");
    let is_error = |event: &&Value| event["event"] == "BLOCK_IO_ERROR";
    qmp.events().iter().filter(is_error).map(|event| event["data"].clone()).collect()
}

#[test]
fn a_failed_request_is_an_error_to_the_guest_and_an_event_on_every_monitor() {
    for (iotype, errno, operation, nospace, reason) in [
        ("write", 5, "write", false, "Input/output error"),
        ("write", 28, "write", true, "No space left on device"),
        ("read", 5, "read", false, "Input/output error"),
        ("flush", 5, "write", false, "Input/output error"),
        ("discard", 28, "write", true, "No space left on device"),
    ] {
        let daemon = Daemon::with_node(&failing(iotype, errno, ",inject-error.0.once=on"), "");
        let (mut first, mut second) = (daemon.qmp(), daemon.second_qmp());
        let mut guest = Guest::new(&daemon);
        let data = [guest.alloc(4096)];
        let request = match iotype {
            "write" => Request::Write { offset: 0, data: &data },
            "read" => Request::Read { offset: 0, data: &data },
            "flush" => Request::Flush,
            _ => Request::Discard { offset: 0, len: 4096 },
        };
        assert_eq!(guest.run(&request), Status::IoError, "{iotype}");
        for qmp in [&mut first, &mut second] {
            let events = io_errors(qmp);
            let [event] = events.as_slice() else { panic!("{iotype}: {events:?}") };
            assert_eq!((&event["device"], &event["node-name"]), (&"e".into(), &"n".into()), "{event}");
            assert_eq!((&event["operation"], &event["action"]), (&operation.into(), &"report".into()), "{event}");
            assert_eq!((&event["nospace"], &event["reason"]), (&nospace.into(), &reason.into()), "{event}");
        }
        assert_eq!(guest.run(&request), Status::Ok, "{iotype}: the rule is used up");
        assert_eq!(guest.write(0, &[1; 4096]), Status::Ok);
        assert_eq!(guest.read(0, 4096), [1; 4096]);
    }
}

#[test]
fn a_storm_of_errors_is_answered_one_by_one_and_reported_once_a_second() {
    let daemon = Daemon::with_node(&failing("write", 5, ""), "");
    let mut qmp = daemon.qmp();
    let mut guest = Guest::new(&daemon);
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        assert_eq!(guest.write(0, &[1; 512]), Status::IoError);
    }
    assert_eq!(io_errors(&mut qmp).len(), 1, "events in the first second");
    wait_until("the event of the second second", || io_errors(&mut qmp).len() == 2);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(io_errors(&mut qmp).len(), 2);
    assert_eq!(guest.read(0, 512), [0; 512], "reads go on");
}

#[test]
fn a_request_that_is_the_guests_mistake_is_no_event() {
    let daemon = Daemon::serve(&[]);
    let mut qmp = daemon.qmp();
    let mut guest = Guest::new(&daemon);
    assert_eq!(guest.write(DISK, &[1; 512]), Status::IoError);
    assert_eq!(io_errors(&mut qmp), [Value::Null; 0]);
}

#[test]
fn errors_among_many_requests_hit_those_that_failed_only() {
    let daemon = Daemon::with_node(&failing("write", 5, ",inject-error.0.sector=64"), "");
    let mut guest = Guest::new(&daemon);
    let data = [guest.alloc(4096)];
    let bad = (0..32u64)
        .map(|block| (block, guest.queue.enqueue(&Request::Write { offset: block * 4096, data: &data }).unwrap()))
        .collect::<Vec<_>>();
    guest.queue.publish().unwrap();
    let mut left = bad.len();
    while left > 0 {
        assert!(guest.queue.wait(crate::cli::process::TIMEOUT).unwrap());
        while let Some(done) = guest.queue.pop().unwrap() {
            let block = bad.iter().find(|(_, token)| *token == done.token).unwrap().0;
            assert_eq!(done.status, if block == 8 { Status::IoError } else { Status::Ok }, "block {block}");
            left -= 1;
        }
    }
    finish(&mut guest.queue, 0);
}

#[test]
fn a_full_file_system_is_an_error_until_there_is_room_again() {
    // A file system of 1 MiB that only the daemon sees; the disk on it is sparse and larger.
    let script = "mkdir full && mount -t tmpfs -o size=1m none full && truncate -s 32M full/disk && exec \"$@\"";
    let place = Place::new();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh", TIDEMARK]);
    command.args(["serve", "full/disk:blk", "--qmp", "qmp"]).current_dir(place.path());
    let daemon = Running::spawn(command);
    place.wait_for_listener("qmp");
    let mut qmp = Client::new(std::os::unix::net::UnixStream::connect(place.file("qmp")).unwrap(), place.path());
    qmp.ask("{'execute': 'qmp_capabilities'}");
    let mut guest = Guest::at(&place.file("blk"), DeviceOptions::default());
    let results: Vec<Status> = (0..16u64).map(|at| guest.write(at << 18, &[7; 1 << 18])).collect();
    let written = results.iter().position(|status| *status != Status::Ok).expect("no room at some time");
    assert!((1..=4).contains(&written), "{results:?}");
    assert!(results[written..].iter().all(|status| *status == Status::IoError), "{results:?}");
    assert_eq!(io_errors(&mut qmp)[0]["nospace"], true);
    assert_eq!(guest.read(0, 1 << 18), [7; 1 << 18], "what was written before is there");
    assert_eq!(guest.run(&Request::Discard { offset: 0, len: 1 << 19 }), Status::Ok);
    assert_eq!(guest.write(1 << 23, &[8; 1 << 18]), Status::Ok, "there is room again");
    assert_eq!(guest.read(1 << 23, 1 << 18), [8; 1 << 18]);
    drop(guest);
    daemon.end(Signal::TERM);
}

#[test]
fn a_file_size_limit_is_an_error_to_the_guest_and_not_the_end_of_the_daemon() {
    let place = Place::new();
    std::fs::File::options().write(true).open(place.file("disk")).unwrap().set_len(DISK).unwrap();
    for more in ["--direct", "--buffered"] {
        let mut command = Command::new("prlimit");
        command.args(["--fsize=1048576", TIDEMARK, "serve", "disk:blk", "--qmp", "qmp", more]);
        command.current_dir(place.path());
        let daemon = Running::spawn(command);
        place.wait_for_listener("qmp");
        let mut guest = Guest::at(&place.file("blk"), DeviceOptions::default());
        assert_eq!(guest.write(1 << 21, &[1; 4096]), Status::IoError, "{more}");
        assert_eq!(guest.write((1 << 21) + 512, &[1; 512]), Status::IoError, "{more}");
        assert_eq!(guest.run(&Request::WriteZeroes { offset: 1 << 21, len: 4096, unmap: false }), Status::Ok, "{more}");
        assert_eq!(guest.write(0, &[2; 4096]), Status::Ok, "{more}");
        assert_eq!(guest.read(0, 4096), [2; 4096], "{more}");
        drop(guest);
        daemon.end(Signal::TERM);
    }
}

#[test]
fn an_image_header_cannot_be_written_to_a_disk_whose_format_nobody_named() {
    let header = [&b"QFI\xfb\0\0\0\x03"[..], &[0; 504]].concat();
    let daemon = Daemon::serve(&[]);
    let mut guest = Guest::new(&daemon);
    assert_eq!(guest.write(0, &header), Status::IoError);
    assert_eq!(guest.write(0, &[&header[..], &[1; 512]].concat()), Status::IoError);
    assert_eq!(daemon.image()[..512], [0; 512]);
    assert_eq!(guest.write(512, &header), Status::Ok, "elsewhere it is data");
    assert_eq!(guest.write(0, &[5; 4096]), Status::Ok);
    // In two segments, the magic torn apart.
    let buf = guest.alloc(512);
    guest.device.memory().write(buf.addr, &header).unwrap();
    let torn = [buf.part(0, 2).unwrap(), buf.part(2, 510).unwrap()];
    assert_eq!(guest.run(&Request::Write { offset: 0, data: &torn }), Status::IoError);
    assert_eq!(guest.read(0, 512), [5; 512]);
    let named = Daemon::serve(&["--format", "raw"]);
    assert_eq!(Guest::new(&named).write(0, &header), Status::Ok);
    assert_eq!(named.image()[..512], header);
}
