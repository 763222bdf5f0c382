//! The daemon's options: their order, what is not supported, help and version. Messages that QEMU has too are compared
//! where QMP is; here stands what is ours.

use super::process::{Place, QEMU, TIDEMARK};
use rustix::process::Signal;

const NODE: &str = "null-co,node-name=n";
const EXPORT: &str = "vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=blk";

#[test]
fn an_option_sees_only_those_before_it_as_with_qemu_storage_daemon() {
    for program in [TIDEMARK, QEMU] {
        let place = Place::new();
        let daemon = place.start(program, &["--blockdev", NODE, "--export", EXPORT]);
        place.wait_for_socket("blk");
        daemon.end(Signal::TERM);
        let output = place.run(program, &["--export", EXPORT, "--blockdev", NODE]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.ends_with(&format!(": --export {EXPORT}: Cannot find device='' nor node-name='n'\n")),
            "{message}"
        );
    }
}

#[test]
fn options_are_taken_in_every_form_qemu_storage_daemon_takes() {
    for program in [TIDEMARK, QEMU] {
        let place = Place::new();
        let json = r#"{"driver": "raw", "node-name": "n", "file": {"driver": "file", "filename": "disk"}}"#;
        let export = format!("--export=type={EXPORT}");
        let chardev = "socket,id=c,path=q,,mp,server=on,wait=off";
        let monitor = r#"{"chardev": "c", "mode": "control"}"#;
        let daemon = place.start(program, &["--blockd", json, &export, "--chardev", chardev, "--monitor", monitor]);
        place.wait_for_socket("blk");
        place.wait_for_socket("q,mp");
        daemon.end(Signal::INT);
    }
}

#[test]
fn a_failing_option_undoes_those_before_it() {
    let place = Place::new();
    let message = place.refusal(&["--blockdev", NODE, "--export", EXPORT, "--blockdev", NODE]);
    assert!(message.contains("Duplicate nodes with node-name='n'"), "{message}");
    assert!(!place.file("blk").exists());
}

#[test]
fn a_locked_image_is_refused_with_qemus_two_lines() {
    let place = Place::new();
    let node = "file,node-name=n,filename=disk";
    let export = format!("{EXPORT},writable=on");
    let _daemon = place.start(TIDEMARK, &["--blockdev", node, "--export", &export]);
    place.wait_for_listener("blk");
    let other = export.replace("path=blk", "path=other");
    let message = place.refusal(&["--blockdev", node, "--export", &other]);
    let expected = format!(
        "tidemark: --export {other}: Failed to get \"write\" lock\nIs another process using the image [disk]?\n"
    );
    assert_eq!(message, expected);
}

#[test]
fn what_is_not_supported_says_so() {
    let place = Place::new();
    for arguments in [
        &["--trace", "enable=*"][..],
        &["-T", "x"],
        &["--object", "secret,id=s,data=x"],
        &["--blockdev", "vmdk,node-name=n,file=x"],
        &["--object", "tls-creds-psk,id=t,dir=x,endpoint=server"],
        &["--blockdev", NODE, "--export", "fuse,id=e,node-name=n,mountpoint=x"],
        &["--chardev", "stdio,id=c"],
        &["--chardev", "socket,id=c,path=x,server=on,wait=off,telnet=on"],
    ] {
        let message = place.refusal(arguments);
        let option = arguments[arguments.len() - 2..].join(" ");
        assert!(message.starts_with(&format!("tidemark: {option}: ")), "{message}");
        assert!(message.contains("not supported"), "{message}");
    }
}

#[test]
fn help_and_version_are_answered_whatever_else_is_asked() {
    let place = Place::new();
    for (arguments, begin) in [
        (&["--help"][..], "Usage: tidemark"),
        (&["--blockdev", "nonsense", "-h"], "Usage: tidemark"),
        (&["-V"], concat!("tidemark version ", env!("CARGO_PKG_VERSION"))),
        (&["--object", "help"], "List of user creatable objects:\n  authz-list\n  authz-simple\n  iothread"),
    ] {
        let output = place.run(TIDEMARK, arguments);
        assert!(output.status.success(), "{arguments:?}");
        assert!(String::from_utf8(output.stdout).unwrap().starts_with(begin), "{arguments:?}");
    }
    assert!(place.refusal(&[]).starts_with("Usage: tidemark"));
}

#[test]
fn a_monitors_quit_ends_the_daemon_after_its_reply() {
    let place = Place::new();
    let chardev = "socket,id=c,path=qmp,server=on,wait=off";
    let daemon =
        place.start(TIDEMARK, &["--blockdev", NODE, "--export", EXPORT, "--chardev", chardev, "--monitor", "c"]);
    place.wait_for_listener("qmp");
    let output = place.run(TIDEMARK, &["ctl", "qmp", "quit"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"{}\n"[..]), "{output:?}");
    let (status, said) = daemon.wait();
    assert!(status.success(), "{status}: {said}");
    assert!(!place.file("qmp").exists() && !place.file("blk").exists());
}
