//! Streams and commits under a guest's load: the guest sees its disk and nothing else, whatever becomes of the images
//! below, and so does whoever opens them after the daemon was killed.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tidemark_frontend::DeviceOptions;

use super::daemon::{DISK, Daemon};
use super::load::Load;
use crate::cli::process::{TIMEOUT, wait_until};
use crate::qmp::daemon::Client;

const NODE: &str = "driver=qcow2,node-name=n,file.driver=file,file.filename=disk,discard=unmap";

/// Runs a line of a shell in the daemon's directory.
fn shell(daemon: &Daemon, script: &str) -> String {
    let directory = daemon.file("disk").parent().map(Path::to_owned).unwrap();
    let output = Command::new("bash").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn serve() -> Daemon {
    Daemon::with_image(NODE, |place| {
        let make = format!("qemu-img create -q -f qcow2 -o cluster_size=4k disk {DISK}");
        assert!(Command::new("bash").args(["-c", &make]).current_dir(place.path()).status().unwrap().success());
    })
}

fn snapshot(qmp: &mut Client, number: u32) {
    let last = if number == 1 { "n".to_owned() } else { format!("s{}", number - 1) };
    qmp.succeed(&format!(
        "{{'execute': 'blockdev-snapshot-sync', 'arguments': {{'node-name': '{last}', 'snapshot-file': 's{number}', \
         'snapshot-node-name': 's{number}'}}}}"
    ));
}

/// Starts a job and waits until there is none.
fn job(qmp: &mut Client, command: &str, arguments: &str) {
    qmp.succeed(&format!("{{'execute': '{command}', 'arguments': {{'job-id': 'j', {arguments}}}}}"));
    wait(qmp);
}

fn wait(qmp: &mut Client) {
    let deadline = Instant::now() + TIMEOUT;
    while qmp.succeed("{'execute': 'query-jobs'}").as_array().is_some_and(|jobs| !jobs.is_empty()) {
        assert!(Instant::now() < deadline, "the job does not end");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Lets a guest write while something happens to its disk's images.
fn meanwhile(load: &mut Load, qmp: &mut Client, work: impl FnOnce(&mut Client) + Send) {
    thread::scope(|scope| {
        let work = scope.spawn(|| work(qmp));
        while !work.is_finished() {
            load.steps(20);
        }
        work.join().unwrap();
    });
}

/// Four images on top of the first, each with what the guest wrote in its time.
fn grow(load: &mut Load, qmp: &mut Client, first: u32) {
    for number in first..first + 4 {
        load.steps(150);
        snapshot(qmp, number);
    }
    load.steps(150);
}

#[test]
fn a_guest_sees_its_disk_while_its_chain_is_streamed_and_committed() {
    let mut daemon = serve();
    let mut device = daemon.connect(DeviceOptions::default().with_queues(4, 64));
    let mut load = Load::new(&mut device, 4, 21);
    let mut qmp = daemon.qmp();
    // What is on top of all, and below: images go and come.
    grow(&mut load, &mut qmp, 1);
    meanwhile(&mut load, &mut qmp, |qmp| {
        job(qmp, "block-commit", "'device': 's4', 'top-node': 's2', 'base-node': 's1'");
        job(qmp, "block-stream", "'device': 's4', 'base-node': 's1'");
    });
    grow(&mut load, &mut qmp, 5);
    meanwhile(&mut load, &mut qmp, |qmp| {
        qmp.succeed("{'execute': 'block-stream', 'arguments': {'job-id': 'i', 'device': 's8', 'base-node': 's6'}}");
        job(qmp, "block-stream", "'device': 's5', 'bottom': 's4'");
        job(qmp, "block-commit", "'device': 's8', 'top-node': 's6', 'base-node': 'n'");
        job(qmp, "block-stream", "'device': 's8'");
    });
    load.steps(300);
    load.flush();
    let expected = load.expected(DISK);
    load.drain();
    drop(load);
    drop(device);
    daemon.terminate();
    assert_eq!(shell(&daemon, "qemu-img info s8 | grep -c backing || true").trim(), "0", "it is over none");
    shell(&daemon, "qemu-img check -q s8 && qemu-img check -q disk && qemu-img convert -f qcow2 -O raw s8 content");
    assert!(std::fs::read(daemon.file("content")).unwrap() == expected, "the image is not what the guest saw");
}

#[test]
fn a_daemon_that_is_killed_while_it_streams_or_commits_leaves_what_was_flushed() {
    let jobs = [
        ("block-stream", "'device': 's4', 'base-node': 's1'"),
        ("block-stream", "'device': 's4'"),
        ("block-commit", "'device': 's4', 'top-node': 's3', 'base-node': 'n'"),
    ];
    for (round, (command, arguments)) in jobs.iter().cycle().take(12).enumerate() {
        let mut daemon = serve();
        let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
        let mut load = Load::new(&mut device, 2, 31 + round as u64);
        let mut qmp = daemon.qmp();
        grow(&mut load, &mut qmp, 1);
        load.flush();
        qmp.succeed(&format!("{{'execute': '{command}', 'arguments': {{'job-id': 'j', {arguments}}}}}"));
        thread::sleep(Duration::from_millis(round as u64 * 3));
        let expected = load.expected(DISK);
        daemon.kill();
        // What it still had under way ends, and with it the locks that keep others from images that change.
        wait_until("the end of its locks", || {
            let mut convert = Command::new("qemu-img");
            convert.args(["convert", "-U", "-f", "qcow2", "-O", "raw", "s4", "content"]);
            convert.current_dir(daemon.file("s4").parent().unwrap()).output().unwrap().status.success()
        });
        shell(&daemon, "qemu-img check -q -U s4 || test $? -eq 3");
        assert!(std::fs::read(daemon.file("content")).unwrap() == expected, "{command} {round}: flushed data is lost");
    }
}
