//! Snapshots of four disks at once, under load, on storage that takes its time: all of them are one moment of all four.
//! `ROUNDS` is how often (3).

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tidemark_frontend::{Device, DeviceOptions};

use super::load::{BLOCK, BLOCKS, Load};
use crate::cli::process::{Place, TIDEMARK, TIMEOUT, wait_until};
use crate::qmp::daemon::Client;

const DISKS: usize = 4;
const SIZE: u64 = 8 << 20;
/// What every request to storage takes.
const DELAY_NS: u64 = 100_000_000;

/// Runs a line of a shell in a directory.
fn shell(directory: &Path, script: &str) {
    let output = Command::new("bash").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

/// Options of a daemon with four disks.
fn options() -> Vec<String> {
    let mut options =
        ["--chardev", "socket,id=m,path=qmp,server=on,wait=off", "--monitor", "chardev=m"].map(str::to_owned).to_vec();
    for disk in 0..DISKS {
        let slow = format!(
            "driver=blkdebug,node-name=d{disk},x-delay-ns.read={DELAY_NS},x-delay-ns.write={DELAY_NS},\
             image.driver=file,image.filename=disk{disk}"
        );
        let export =
            format!("vhost-user-blk,id=e{disk},node-name=d{disk},addr.type=unix,addr.path=blk{disk},writable=on");
        options.extend(["--blockdev".to_owned(), slow, "--export".to_owned(), export]);
    }
    options
}

/// Opens images `s{round}-{disk}`, on slow storage with nothing below, made so that a guest's block is a cluster.
fn prepare(qmp: &mut Client, place: &Place, round: usize) {
    for disk in 0..DISKS {
        let name = format!("s{round}-{disk}");
        shell(place.path(), &format!("qemu-img create -q -f qcow2 -o cluster_size={BLOCK} {name} {SIZE}"));
        qmp.succeed(&format!(
            "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'qcow2', 'node-name': '{name}', 'backing': null, \
             'file': {{'driver': 'blkdebug', 'x-delay-ns': {{'read': {DELAY_NS}, 'write': {DELAY_NS}}}, \
             'image': {{'driver': 'file', 'filename': '{name}'}}}}}}}}"
        ));
    }
}

/// Puts the images on top of the disks.
fn snapshot(round: usize) -> String {
    let action = |disk: usize| {
        let node = if round == 0 { format!("d{disk}") } else { format!("s{}-{disk}", round - 1) };
        format!("{{'type': 'blockdev-snapshot', 'data': {{'node': '{node}', 'overlay': 's{round}-{disk}'}}}}")
    };
    let actions: Vec<_> = (0..DISKS).map(action).collect();
    format!("{{'execute': 'transaction', 'arguments': {{'actions': [{}]}}}}", actions.join(", "))
}

/// Has the images' headers say what is below each.
fn link(place: &Place, rounds: usize) {
    for (round, disk) in (0..rounds).flat_map(|round| (0..DISKS).map(move |disk| (round, disk))) {
        let (below, format) = match round {
            0 => (format!("disk{disk}"), "raw"),
            round => (format!("s{}-{disk}", round - 1), "qcow2"),
        };
        shell(place.path(), &format!("qemu-img rebase -u -f qcow2 -F {format} -b {below} s{round}-{disk}"));
    }
}

/// The values of a disk's blocks when a round's snapshot was made; after all rounds, the last ones.
fn values(place: &Place, round: usize, disk: usize) -> Vec<u64> {
    let copy = match round {
        0 => format!("cp disk{disk} content"),
        round => format!("qemu-img convert -f qcow2 -O raw s{}-{disk} content", round - 1),
    };
    shell(place.path(), &copy);
    let content = std::fs::read(place.file("content")).unwrap();
    let blocks = content.chunks(BLOCK as usize).take(BLOCKS);
    blocks.map(|block| u64::from_le_bytes(block[..8].try_into().unwrap())).collect()
}

/// All disks go on, each as fast as it can.
fn run(loads: &mut [Load], until: impl Fn() -> bool) {
    let deadline = Instant::now() + 3 * TIMEOUT;
    while !until() {
        for load in loads.iter_mut() {
            load.poll();
            load.fill();
        }
        std::thread::sleep(Duration::from_micros(200));
        assert!(Instant::now() < deadline, "nothing comes of it");
    }
}

#[test]
fn snapshots_of_four_disks_in_one_transaction_are_one_moment_of_all_of_them() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let place = Place::new();
    (0..DISKS).for_each(|disk| shell(place.path(), &format!("truncate -s {SIZE} disk{disk}")));
    let options = options();
    let daemon = place.start(TIDEMARK, &options.iter().map(String::as_str).collect::<Vec<_>>());
    wait_until("the monitor", || std::os::unix::net::UnixStream::connect(place.file("qmp")).is_ok());
    let connect =
        |disk| Device::connect(place.file(&format!("blk{disk}")), DeviceOptions::default().with_queues(1, 64));
    wait_until("the disks", || connect(DISKS - 1).is_ok());
    let mut devices: Vec<Device> = (0..DISKS).map(|disk| connect(disk).unwrap()).collect();
    let record = Rc::new(RefCell::default());
    let mut loads: Vec<Load> = devices.iter_mut().zip(0..).map(|(device, seed)| Load::new(device, 1, seed)).collect();
    loads.iter_mut().enumerate().for_each(|(disk, load)| load.share_record(&record, disk * BLOCKS));
    let monitor = std::os::unix::net::UnixStream::connect(place.file("qmp")).unwrap();
    let mut qmp = Client::new(monitor, place.path());
    qmp.ask("{'execute': 'qmp_capabilities'}");
    for round in 0..rounds {
        prepare(&mut qmp, &place, round);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| qmp.succeed(&snapshot(round)));
            run(&mut loads, || asked.is_finished());
            asked.join().unwrap();
        });
    }
    loads.iter_mut().for_each(Load::flush);
    drop(loads);
    drop(devices);
    drop(qmp);
    drop(daemon);
    // A killed program's locks may outlive it for a moment.
    let last = place.file(&format!("s{}-{}", rounds - 1, DISKS - 1));
    wait_until("the locks", || {
        Command::new("qemu-img").args(["check", "-q"]).arg(&last).status().unwrap().code() != Some(1)
    });
    link(&place, rounds);
    let mut last = 0;
    for round in 0..=rounds {
        let all: Vec<u64> = (0..DISKS).flat_map(|disk| values(&place, round, disk)).collect();
        let moment = record.borrow().moment(&all).unwrap_or_else(|why| panic!("snapshot {round}: {why}"));
        assert!(moment.end > last, "snapshot {round} is older than the one below");
        last = moment.start;
    }
    println!("{rounds} snapshots of {DISKS} disks, each one moment of all of them");
}
