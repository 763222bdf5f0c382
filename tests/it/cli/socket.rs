//! The back-end program of one device: a socket by path or by inheritance, and the end with and without a front-end.

use super::process::{Place, QEMU, Running, TIDEMARK};
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use tidemark_frontend::{Device, DeviceOptions};

/// Our program, with `socket` inherited as descriptor 9.
fn with_descriptor(place: &Place, socket: impl Into<OwnedFd>, options: &str) -> Running {
    let mut command = Command::new("bash");
    let line = format!("exec {TIDEMARK} {options} 9<&0 0</dev/null");
    command.args(["-c", &line]).current_dir(place.path()).stdin(Stdio::from(socket.into()));
    Running::spawn(command)
}

#[test]
fn capabilities_are_what_the_conventions_ask_for() {
    let place = Place::new();
    let output = place.run(TIDEMARK, &["--print-capabilities"]);
    assert!(output.status.success());
    let capabilities = qmp_lite::wire::parse(&String::from_utf8(output.stdout).unwrap()).unwrap();
    let expected = qmp_lite::wire::parse("{'type': 'block', 'features': ['read-only', 'blk-file']}").unwrap();
    assert_eq!(capabilities, expected);
}

#[test]
fn a_device_is_served_by_path_and_ends_cleanly_with_a_front_end_connected() {
    let place = Place::new();
    let daemon = place.start(TIDEMARK, &["--socket-path=blk", "--blk-file=disk"]);
    place.wait_for_listener("blk");
    let mut device = Device::connect(place.file("blk"), DeviceOptions::default()).unwrap();
    device.start().unwrap();
    daemon.end(Signal::TERM);
    assert!(!place.file("blk").exists());
}

#[test]
fn a_read_only_device_says_so() {
    let place = Place::new();
    let _daemon = place.start(TIDEMARK, &["--socket-path", "blk", "--blk-file", "disk", "--read-only"]);
    place.wait_for_listener("blk");
    let options = DeviceOptions::default().with_feature(tidemark_frontend::feature::RO, true);
    let device = Device::connect(place.file("blk"), options).unwrap();
    assert_ne!(device.features() & tidemark_frontend::feature::RO, 0);
}

#[test]
fn an_inherited_listening_socket_serves_one_front_end_after_the_other() {
    let place = Place::new();
    let listener = UnixListener::bind(place.file("blk")).unwrap();
    let daemon = with_descriptor(&place, listener, "--fd=9 --blk-file=disk");
    for _ in 0..2 {
        let mut device = Device::connect(place.file("blk"), DeviceOptions::default()).unwrap();
        assert_eq!(device.config().unwrap().capacity_bytes(), 1 << 20);
    }
    daemon.end(Signal::TERM);
    assert!(place.file("blk").exists(), "the socket belongs to whoever made it");
}

#[test]
fn with_an_inherited_connection_the_program_ends_when_the_front_end_leaves() {
    let place = Place::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut daemon = with_descriptor(
        &place,
        theirs,
        "--fd=9 --blk-file=disk --chardev socket,id=c,path=q,server=on,wait=off --monitor c",
    );
    place.wait_for_listener("q");
    assert!(daemon.is_running());
    drop(ours);
    let (status, said) = daemon.wait();
    assert!(status.success(), "{status}: {said}");
}

#[test]
fn with_an_inherited_connection_sigterm_is_a_clean_end_too() {
    let place = Place::new();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let daemon = with_descriptor(&place, theirs, "--fd=9 --blk-file=disk --pidfile pid");
    super::process::wait_until("the pid file", || place.file("pid").exists());
    daemon.end(Signal::TERM);
}

#[test]
fn a_descriptor_that_was_not_inherited_is_named() {
    let place = Place::new();
    for fd in ["--fd=33", "--fd=2"] {
        let message = place.refusal(&[fd, "--blk-file=disk"]);
        assert!(message.contains(&fd.replace('=', " ")), "{message}");
    }
    let message = place.refusal(&["--fd=x", "--blk-file=disk"]);
    assert!(message.contains("--fd=x"), "{message}");
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let place = Place::new();
    for (arguments, named) in [
        (&["--socket-path=a", "--fd=9", "--blk-file=disk"][..], "--fd"),
        (&["--blk-file=disk"], "--socket-path"),
        (&["--socket-path=a"], "--blk-file"),
        (&["--read-only"], "--blk-file"),
    ] {
        let message = place.refusal(arguments);
        assert!(message.contains(named), "{arguments:?}: {message}");
    }
}

#[test]
fn a_socket_of_an_export_is_inherited_as_qemu_storage_daemon_inherits_it() {
    let options =
        "--blockdev file,node-name=n,filename=disk --export vhost-user-blk,id=e,node-name=n,addr.type=fd,addr.str=9";
    for program in [TIDEMARK, QEMU] {
        let place = Place::new();
        let listener = UnixListener::bind(place.file("blk")).unwrap();
        let mut command = Command::new("bash");
        let line = format!("exec {program} {options} 9<&0 0</dev/null");
        command.args(["-c", &line]).current_dir(place.path()).stdin(Stdio::from(OwnedFd::from(listener)));
        let daemon = Running::spawn(command);
        let mut device = Device::connect(place.file("blk"), DeviceOptions::default()).unwrap();
        assert_eq!(device.config().unwrap().capacity_bytes(), 1 << 20, "{program}");
        drop(device);
        daemon.end(Signal::TERM);
    }
}
