//! `tidemark serve`: its defaults, and images that cannot be served.

use super::process::{Place, QEMU, TIDEMARK, wait_until};
use crate::qmp::daemon::differs;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use tidemark_frontend::{Device, DeviceOptions};

fn mode(place: &Place, name: &str) -> u32 {
    fs::metadata(place.file(name)).unwrap().permissions().mode() & 0o7777
}

#[test]
fn sockets_are_for_their_owner_only_and_gone_afterwards() {
    let place = Place::new();
    let daemon = place.start(TIDEMARK, &["serve", "disk:blk", "--qmp", "qmp"]);
    place.wait_for_listener("blk");
    assert_eq!((mode(&place, "blk"), mode(&place, "qmp")), (0o600, 0o600));
    daemon.end(Signal::TERM);
    assert!(!place.file("blk").exists() && !place.file("qmp").exists());
}

#[test]
fn a_sockets_mode_and_group_can_be_chosen() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    let own = rustix::process::getgid().as_raw().to_string();
    let daemon = place.start(TIDEMARK, &["serve", "disk:blk", "--socket-mode", "0666", "--socket-group", &own]);
    place.wait_for_listener("blk");
    assert_eq!(mode(&place, "blk"), 0o666);
    assert_eq!(fs::metadata(place.file("blk")).unwrap().gid().to_string(), own);
    drop(daemon);
    let message = place.refusal(&["serve", "disk:b", "--socket-group", "no-such-group"]);
    assert!(message.contains("no-such-group"), "{message}");
}

#[test]
fn sockets_of_a_process_that_is_on_its_way_out_are_taken_over() {
    for name in ["qmp", "blk"] {
        let place = Place::new();
        let dying = UnixListener::bind(place.file(name)).unwrap();
        let daemon = place.start(TIDEMARK, &["serve", "disk:blk", "--qmp", "qmp"]);
        // Who was killed still has its sockets, and takes connections that nobody will ever serve.
        let mut asked = [PollFd::new(&dying, PollFlags::IN)];
        poll(&mut asked, None).unwrap();
        drop(dying);
        wait_until("the daemon", || place.run(TIDEMARK, &["ctl", "qmp", "query-version"]).status.success());
        Device::connect(place.file("blk"), DeviceOptions::default()).unwrap();
        daemon.end(Signal::TERM);
    }
}

#[test]
fn sockets_that_somebody_serves_are_not_taken_away() {
    let place = Place::new();
    let listeners = ["qmp", "blk"].map(|name| UnixListener::bind(place.file(name)).unwrap());
    let message = place.refusal(&["serve", "disk:other", "--qmp", "qmp"]);
    assert!(message.contains("qmp: Address already in use"), "{message}");
    let message = place.refusal(&["serve", "disk:blk"]);
    assert!(message.contains("blk"), "{message}");
    for listener in &listeners {
        listener.accept().unwrap();
    }
    assert!(UnixStream::connect(place.file("qmp")).is_ok() && UnixStream::connect(place.file("blk")).is_ok());
}

#[test]
fn without_a_socket_it_is_named_after_the_disk() {
    let place = Place::new();
    let daemon = place.start(TIDEMARK, &["serve", "disk"]);
    place.wait_for_listener("disk.sock");
    daemon.end(Signal::INT);
}

#[test]
fn the_guest_gets_64_queues_flush_discard_and_a_write_cache_by_default() {
    let place = Place::new();
    let _daemon = place.start(TIDEMARK, &["serve", "disk:blk"]);
    place.wait_for_listener("blk");
    let mut device = Device::connect(place.file("blk"), DeviceOptions::default()).unwrap();
    let config = device.config().unwrap();
    assert_eq!(config.num_queues, 64);
    assert_eq!(config.capacity, (1 << 20) / 512);
    // Virtio 1.2, 5.2.3: FLUSH, CONFIG_WCE, DISCARD, WRITE_ZEROES; not RO.
    for (bit, offered) in [(9, true), (11, true), (13, true), (14, true), (5, false)] {
        assert_eq!(device.features() & (1 << bit) != 0, offered, "feature bit {bit}");
    }
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_refused() {
    let place = Place::new();
    drop(UnixListener::bind(place.file("blk")).unwrap());
    assert!(fs::metadata(place.file("blk")).unwrap().file_type().is_socket(), "nobody listens, the file is there");
    let _daemon = place.start(TIDEMARK, &["serve", "disk:blk"]);
    place.wait_for_listener("blk");
    fs::copy(place.file("disk"), place.file("other")).unwrap();
    let message = place.refusal(&["serve", "other:blk"]);
    assert!(message.contains("blk") && message.contains("listening"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let place = Place::new();
    fs::write(place.file("blk"), "precious").unwrap();
    let message = place.refusal(&["serve", "disk:blk"]);
    assert!(message.contains("blk"), "{message}");
    assert_eq!(fs::read_to_string(place.file("blk")).unwrap(), "precious");
}

#[test]
fn a_live_image_is_refused_to_a_second_daemon() {
    let place = Place::new();
    let _daemon = place.start(TIDEMARK, &["serve", "disk:blk"]);
    place.wait_for_listener("blk");
    let message = place.refusal(&["serve", "disk:other"]);
    assert!(message.contains("'disk'") && message.contains("Failed to get \"write\" lock"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn qemu_img_on_a_live_image_is_told_what_it_is_told_of_one_that_qemu_storage_daemon_serves() {
    let export = "vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=blk,writable=on";
    let answers = |program: &str, arguments: &[&str]| {
        let place = Place::new();
        let _daemon = place.start(program, arguments);
        place.wait_for_listener("blk");
        let commands = ["info disk", "convert -O raw disk copy", "compare -f raw disk disk"];
        commands.map(|command| {
            let output = place.run("qemu-img", &command.split(' ').collect::<Vec<_>>());
            (command, output.status.code(), String::from_utf8(output.stderr).unwrap())
        })
    };
    let ours = answers(TIDEMARK, &["serve", "disk:blk"]);
    assert_eq!(ours, answers(QEMU, &["--blockdev", "file,node-name=n,filename=disk", "--export", export]));
    assert!(ours[1].2.contains("Is another process using the image"), "{ours:?}");
}

#[test]
fn qemu_img_cannot_write_to_a_live_image() {
    differs("block-export-add: a writable export of a file that somebody else writes to");
    let place = Place::new();
    let _daemon = place.start(TIDEMARK, &["serve", "disk:blk"]);
    place.wait_for_listener("blk");
    let output = place.run("qemu-img", &["resize", "-f", "raw", "disk", "2M"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Failed to get \"write\" lock"), "{said}");
}

#[test]
fn an_image_that_qemu_storage_daemon_serves_is_refused() {
    let place = Place::new();
    let export = "vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=q,writable=on";
    let _other = place.start(QEMU, &["--blockdev", "file,node-name=n,filename=disk", "--export", export]);
    place.wait_for_listener("q");
    let message = place.refusal(&["serve", "disk:blk"]);
    assert!(message.contains("'disk'") && message.contains("lock"), "{message}");
    assert!(!place.file("blk").exists());
}

#[test]
fn an_image_is_free_again_after_the_end() {
    let place = Place::new();
    let daemon = place.start(TIDEMARK, &["serve", "disk:blk"]);
    place.wait_for_listener("blk");
    daemon.end(Signal::HUP);
    assert!(place.run("qemu-img", &["resize", "-f", "raw", "disk", "2M"]).status.success());
}

#[test]
fn files_that_cannot_be_disks_are_named_with_the_reason_in_one_line() {
    let place = Place::new();
    fs::write(place.file("short"), [0; 511]).unwrap();
    fs::write(place.file("empty"), []).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, place.file("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for (disk, reason) in [
        ("missing", "No such file or directory"),
        ("disk/below", "Not a directory"),
        ("short", "511 bytes"),
        ("empty", "too short"),
        (".", "neither a regular file nor a block device"),
        ("pipe", "neither a regular file nor a block device"),
    ] {
        let message = place.refusal(&["serve", disk, "--socket", "blk"]);
        assert!(message.contains(&format!("'{disk}'")) && message.contains(reason), "{disk}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(!place.file("blk").exists(), "{disk}");
    }
}

#[test]
fn an_image_without_permission_is_refused_unless_it_is_only_read() {
    let place = Place::new();
    fs::set_permissions(place.file("disk"), fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Root may do anything.
    let nobody = |more: &[&'static str]| {
        let head = ["--reuid", "65534", "--regid", "65534", "--clear-groups", TIDEMARK, "serve", "disk:blk"];
        [&head[..], more].concat()
    };
    let output = place.run("setpriv", &nobody(&[]));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("'disk'") && message.contains("Permission denied"), "{message}");
    let daemon = place.start("setpriv", &nobody(&["--read-only"]));
    place.wait_for_listener("blk");
    daemon.end(Signal::TERM);
}

#[test]
fn a_qcow2_image_is_not_taken_for_a_raw_one() {
    let place = Place::new();
    assert!(place.run("qemu-img", &["create", "-q", "-f", "qcow2", "image", "1M"]).status.success());
    let message = place.refusal(&["serve", "image:blk"]);
    assert!(message.contains("'image'") && message.contains("--format qcow2"), "{message}");
    let message = place.refusal(&["--blk-file", "image", "--socket-path", "blk"]);
    assert!(message.contains("'image'") && message.contains("qcow2"), "{message}");
    for format in ["raw", "qcow2"] {
        let daemon = place.start(TIDEMARK, &["serve", "image:blk", "--format", format]);
        place.wait_for_listener("blk");
        daemon.end(Signal::TERM);
    }
}

#[test]
fn several_disks_are_all_served_or_none() {
    let place = Place::new();
    fs::copy(place.file("disk"), place.file("a:b")).unwrap();
    let daemon = place.start(TIDEMARK, &["serve", "disk:one", "a:b:two"]);
    place.wait_for_listener("one");
    place.wait_for_listener("two");
    daemon.end(Signal::TERM);
    let message = place.refusal(&["serve", "disk:one", "missing:two"]);
    assert!(message.contains("'missing'"), "{message}");
    assert!(!place.file("one").exists());
    let message = place.refusal(&["serve", "disk", "a:b", "--socket", "x"]);
    assert!(message.contains("--socket"), "{message}");
}

#[test]
fn what_bitmaps_survive_and_where_their_journal_goes_can_be_chosen() {
    let place = Place::new();
    let qemu_img = |arguments: &[&str]| {
        let status = std::process::Command::new("qemu-img").args(arguments).current_dir(place.path()).status();
        assert!(status.unwrap().success(), "{arguments:?}");
    };
    qemu_img(&["create", "-q", "-f", "qcow2", "image", "16M"]);
    qemu_img(&["bitmap", "--add", "image", "b0"]);
    let serve = ["serve", "image:blk", "--format", "qcow2"];
    let journals = |options: &[&str]| {
        let daemon = place.start(TIDEMARK, &[&serve[..], options].concat());
        place.wait_for_listener("blk");
        let there = ["image.journal", "elsewhere"].map(|name| place.file(name).exists());
        daemon.end(Signal::TERM);
        assert!(!place.file("image.journal").exists() && !place.file("elsewhere").exists(), "{options:?}");
        there
    };
    assert_eq!(journals(&[]), [true, false]);
    assert_eq!(journals(&["--crash-safe", "power", "--journal", "elsewhere"]), [false, true]);
    assert_eq!(journals(&["--crash-safe", "process"]), [false, false]);
    assert_eq!(journals(&["--crash-safe", "off"]), [false, false]);
    let message = place.refusal(&["serve", "disk:b", "--crash-safe", "power"]);
    assert!(message.contains("tidemark track"), "{message}");
    let message = place.refusal(&["serve", "image:a", "image:b", "--format", "qcow2", "--journal", "elsewhere"]);
    assert!(message.contains("--journal is for a single disk"), "{message}");
}
