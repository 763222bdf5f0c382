//! Mirrors that end without a pivot, under a guest's load: the target is the disk as it was at one moment.

use std::thread;

use tidemark_frontend::DeviceOptions;

use super::daemon::{DISK, Daemon, FILE};
use super::load::{BLOCK, BLOCKS, Load};
use crate::cli::process::wait_until;
use crate::qmp::daemon::Client;

/// The nodes' names and files by number.
pub(super) const NODES: [(&str, &str); 2] = [("n", "disk"), ("m", "other")];

/// A daemon with a disk, and another file as long.
pub(super) fn serve() -> Daemon {
    let daemon = Daemon::with_image(FILE, |place| {
        std::fs::File::create(place.file("other")).unwrap().set_len(DISK).unwrap();
    });
    add(&mut daemon.qmp(), 1);
    daemon
}

/// Opens the file of that number.
pub(super) fn add(qmp: &mut Client, number: usize) {
    let (name, file) = NODES[number];
    qmp.succeed(&format!(
        "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'file', 'node-name': '{name}', 'filename': '{file}', \
         'discard': 'unmap'}}}}"
    ));
}

/// The state of the only job, if there is one.
pub(super) fn job(qmp: &mut Client) -> Option<String> {
    let jobs = qmp.succeed("{'execute': 'query-jobs'}");
    let status = jobs.as_array().and_then(|jobs| jobs.first().map(|job| job["status"].clone()));
    status.and_then(|status| status.as_str().map(str::to_owned))
}

fn mirror(qmp: &mut Client, more: &str) {
    let [(device, _), (target, _)] = NODES;
    qmp.succeed(&format!(
        "{{'execute': 'blockdev-mirror', 'arguments': {{'job-id': 'j', 'device': '{device}', 'target': '{target}', \
         'sync': 'full'{more}}}}}"
    ));
    wait_until("the mirror is ready", || job(qmp).as_deref() == Some("ready"));
}

/// The blocks' values in a disk.
fn values(content: &[u8]) -> Vec<u64> {
    let value = |block: &[u8]| {
        let value = u64::from_le_bytes(block[..8].try_into().unwrap());
        assert!(block == value.to_le_bytes().repeat(BLOCK as usize / 8), "a torn block");
        value
    };
    content.chunks(BLOCK as usize).take(BLOCKS).map(value).collect()
}

#[test]
fn a_mirror_that_is_cancelled_softly_under_load_leaves_one_moment_of_the_disk() {
    for more in ["", ", 'copy-mode': 'write-blocking'"] {
        let mut daemon = serve();
        let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
        let mut load = Load::new(&mut device, 2, 19);
        // Before anything is under way.
        load.keep_record();
        load.steps(300);
        let mut qmp = daemon.qmp();
        thread::scope(|scope| {
            let copying = scope.spawn(|| {
                mirror(&mut qmp, more);
                qmp.succeed("{'execute': 'block-job-cancel', 'arguments': {'device': 'j'}}");
                wait_until("the mirror has ended", || job(&mut qmp).is_none());
            });
            while !copying.is_finished() {
                load.steps(20);
            }
            copying.join().unwrap();
        });
        load.steps(300);
        let found = values(&std::fs::read(daemon.file("other")).unwrap());
        load.record().moment(&found).unwrap_or_else(|why| panic!("{more}: {why}"));
        load.drain();
        drop(load);
        drop(device);
        daemon.terminate();
    }
}
