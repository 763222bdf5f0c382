//! `--daemonize` and `--pidfile`: who waits for whom, and what is left behind.

use super::process::{Place, QEMU, TIDEMARK, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;

fn pid(place: &Place) -> Option<Pid> {
    fs::read_to_string(place.file("pid")).ok().and_then(|text| Pid::from_raw(text.trim_end().parse().ok()?))
}

/// 0 where the session's leader is outside of our process id namespace, as that of tests in a container may be.
fn session(process: &str) -> u32 {
    let stat = fs::read_to_string(format!("{process}/stat")).unwrap();
    // After the name, which may hold anything: state, parent, process group, session.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(3).unwrap().parse().unwrap()
}

#[test]
fn a_daemon_in_the_background_is_ready_when_the_command_returns() {
    for program in [TIDEMARK, QEMU] {
        let place = Place::new();
        let export =
            format!("vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path={}", place.file("blk").display());
        let options = ["--daemonize", "--pidfile", "pid", "--blockdev", "file,node-name=n,filename=disk", "--export"];
        let output = place.run(program, &[&options[..], &[&export]].concat());
        assert!(output.status.success(), "{program}: {output:?}");
        let pid = pid(&place).expect("the process id is there");
        assert!(std::os::unix::net::UnixStream::connect(place.file("blk")).is_ok(), "{program}");
        let process = format!("/proc/{}", pid.as_raw_nonzero());
        assert_eq!(fs::read_link(format!("{process}/cwd")).unwrap(), Path::new("/"), "{program}");
        for stream in 0..3 {
            let target = fs::read_link(format!("{process}/fd/{stream}")).unwrap();
            assert_eq!(target, Path::new("/dev/null"), "{program}: descriptor {stream}");
        }
        assert_ne!(session(&process), session("/proc/self"), "{program}");
        kill_process(pid, Signal::TERM).unwrap();
        wait_until("the end of the daemon", || !place.file("pid").exists());
        wait_until("the end of its socket", || !place.file("blk").exists());
    }
}

#[test]
fn a_daemon_that_cannot_start_fails_in_front_of_its_caller() {
    let place = Place::new();
    let message =
        place.refusal(&["--daemonize", "--pidfile", "pid", "--blockdev", "file,node-name=n,filename=missing"]);
    assert!(message.contains("Could not open 'missing': No such file or directory"), "{message}");
    assert!(!place.file("pid").exists());
}

#[test]
fn the_process_id_is_written_and_removed_at_the_end() {
    let place = Place::new();
    let daemon = place.start(TIDEMARK, &["--pidfile", "pid", "--blockdev", "null-co,node-name=n"]);
    wait_until("the process id", || pid(&place).is_some());
    assert_eq!(pid(&place).map(|pid| pid.as_raw_nonzero().get().unsigned_abs()), Some(daemon.pid()));
    let message = place.refusal(&["--pidfile", "pid", "--blockdev", "null-co,node-name=n"]);
    assert!(message.contains("cannot create PID file: Cannot lock pid file"), "{message}");
    daemon.end(Signal::TERM);
    assert!(!place.file("pid").exists());
}

#[test]
fn a_second_signal_ends_a_daemon_that_does_not_end() {
    let place = Place::new();
    // Waits for its monitor's first client before anything else, in which only force ends it.
    let chardev = "socket,id=c,path=qmp,server=on,wait=on";
    let daemon = place.start(TIDEMARK, &["--chardev", chardev, "--monitor", "c"]);
    wait_until("the monitor's socket", || place.file("qmp").exists());
    daemon.signal(Signal::TERM);
    std::thread::sleep(std::time::Duration::from_millis(300));
    daemon.signal(Signal::TERM);
    let (status, _) = daemon.wait();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
}
