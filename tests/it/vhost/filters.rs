//! Filters that are put below a disk and taken away again while a guest uses it, and guests that wait at a throttle.

use std::collections::BTreeSet;
use std::thread;

use qmp_lite::wire::Value;
use tidemark_frontend::{DeviceOptions, Request};

use super::daemon::{DISK, Daemon};
use super::guest::Guest;
use super::load::{Load, finish};
use crate::cli::process::wait_until;
use crate::qmp::daemon::Client;

/// A window `n` over the file `f`.
const WINDOW: &str = "driver=raw,node-name=n,file.driver=file,file.node-name=f,file.filename=disk,file.discard=unmap";
/// The window with another node below it.
const SLOW: &str = "{'bps-total': 512}";
/// A request that takes two minutes at that rate.
const LARGE: u32 = 65536;
/// How many of them wait.
const WAITING: u16 = 12;

fn command(name: &str, arguments: &str) -> String {
    format!("{{'execute': '{name}', 'arguments': {{{arguments}}}}}")
}

/// Puts `child` below the window.
fn window_over(qmp: &mut Client, child: &str) {
    let options = format!("'options': [{{'driver': 'raw', 'node-name': 'n', 'file': '{child}'}}]");
    qmp.succeed(&command("blockdev-reopen", &options));
}

fn add(qmp: &mut Client, node: &str) {
    qmp.succeed(&command("blockdev-add", node));
}

fn delete(qmp: &mut Client, node: &str) {
    qmp.succeed(&command("blockdev-del", &format!("'node-name': '{node}'")));
}

fn nodes(qmp: &mut Client) -> BTreeSet<String> {
    let nodes = qmp.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
    nodes.as_array().unwrap().iter().map(|node| node["node-name"].as_str().unwrap().to_owned()).collect()
}

/// The filters that come and go, each under a name that was used before.
const FILTERS: [&str; 4] = [
    "'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': 'f'",
    "'driver': 'blkdebug', 'node-name': 't', 'image': 'f'",
    "'driver': 'copy-before-write', 'node-name': 't', 'file': 'f', 'target': 's'",
    "'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': {'driver': 'raw', 'file': 'f'}",
];

#[test]
fn filters_come_and_go_under_load_without_a_lost_byte_and_leave_nothing_behind() {
    const ROUNDS: usize = 60;
    let mut daemon = Daemon::with_image(WINDOW, |place| {
        std::fs::File::create(place.file("scratch")).unwrap().set_len(DISK).unwrap();
    });
    let mut qmp = daemon.qmp();
    let scratch = daemon.file("scratch").display().to_string();
    add(&mut qmp, &format!("'driver': 'file', 'node-name': 's', 'filename': '{scratch}'"));
    qmp.succeed(&command("object-add", "'qom-type': 'throttle-group', 'id': 'g', 'limits': {'iops-total': 20000}"));
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 11);
    let before = nodes(&mut qmp);
    let open_files = thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let mut open_files = Vec::new();
            for round in 0..ROUNDS {
                add(&mut qmp, FILTERS[round % FILTERS.len()]);
                window_over(&mut qmp, "t");
                if round % 3 == 0 {
                    let limits =
                        format!("'path': 'g', 'property': 'limits', 'value': {{'iops-total': {}}}", 5000 * round);
                    qmp.succeed(&command("qom-set", &limits));
                }
                window_over(&mut qmp, "f");
                delete(&mut qmp, "t");
                open_files.push(daemon.open_files());
            }
            open_files
        });
        while !changes.is_finished() {
            load.steps(20);
        }
        changes.join().unwrap()
    });
    load.steps(200);
    load.flush();
    load.settle();
    assert_eq!(nodes(&mut qmp), before);
    assert_eq!(daemon.queue_threads().len(), 2, "{:?}", daemon.queue_threads());
    // Rings and the daemon's own errands have some, now and then.
    let [first, last] = [&open_files[..10], &open_files[ROUNDS - 10..]].map(|some| some.iter().max().unwrap());
    assert!(last < &(first + ROUNDS / 5), "files stay open: {open_files:?}");
    let expected = load.expected(DISK);
    drop((load, device));
    qmp.succeed(&command("object-del", "'id': 'g'"));
    daemon.terminate();
    assert!(daemon.image() == expected, "the file has something else");
}

/// A guest whose requests wait for ages at a throttle.
fn waiting() -> (Daemon, Client, Guest) {
    let daemon = Daemon::with_node(WINDOW, "");
    let mut qmp = daemon.qmp();
    qmp.succeed(&command("object-add", &format!("'qom-type': 'throttle-group', 'id': 'g', 'limits': {SLOW}")));
    add(&mut qmp, FILTERS[0]);
    window_over(&mut qmp, "t");
    let mut guest = Guest::new(&daemon);
    for _ in 0..WAITING {
        let data = [guest.alloc(LARGE)];
        guest.queue.enqueue(&Request::Write { offset: 0, data: &data }).unwrap();
    }
    guest.queue.publish().unwrap();
    // The first one passes at once.
    finish(&mut guest.queue, WAITING - 1);
    (daemon, qmp, guest)
}

#[test]
fn a_queue_stops_although_its_requests_wait_at_a_throttle() {
    let (_daemon, _qmp, mut guest) = waiting();
    assert_eq!(guest.device.stop_queue(0).unwrap(), u32::from(WAITING));
    finish(&mut guest.queue, 0);
}

#[test]
fn a_daemon_ends_although_requests_wait_at_a_throttle() {
    let (mut daemon, _qmp, _guest) = waiting();
    daemon.terminate();
}

#[test]
fn an_export_goes_although_requests_wait_at_a_throttle() {
    let (_daemon, mut qmp, _guest) = waiting();
    qmp.succeed(&command("block-export-del", "'id': 'e', 'mode': 'hard'"));
    wait_until("the end of the export", || {
        qmp.succeed("{'execute': 'query-block-exports'}").as_array().unwrap().is_empty()
    });
}

#[test]
fn a_point_in_time_does_not_wait_for_a_throttle() {
    let (_daemon, mut qmp, mut guest) = waiting();
    qmp.succeed(&command("block-dirty-bitmap-add", "'node': 'n', 'name': 'b'"));
    // Whoever was waited for passes, and is paid for afterwards.
    finish(&mut guest.queue, 0);
}

#[test]
fn a_throttle_is_taken_away_from_those_who_wait_there() {
    let (_daemon, mut qmp, mut guest) = waiting();
    window_over(&mut qmp, "f");
    finish(&mut guest.queue, 0);
    delete(&mut qmp, "t");
    qmp.succeed(&command("object-del", "'id': 'g'"));
}

#[test]
fn other_limits_count_for_those_who_wait() {
    let (_daemon, mut qmp, mut guest) = waiting();
    qmp.succeed(&command("qom-set", "'path': '/objects/g', 'property': 'limits', 'value': {'bps-total': 0}"));
    finish(&mut guest.queue, 0);
}

#[test]
fn a_job_is_cancelled_although_its_copies_wait_at_a_throttle() {
    let daemon = Daemon::with_image(WINDOW, |place| {
        std::fs::write(place.file("disk"), vec![7; usize::try_from(DISK).unwrap()]).unwrap();
        std::fs::File::create(place.file("target")).unwrap().set_len(DISK).unwrap();
    });
    let mut qmp = daemon.qmp();
    let target = daemon.file("target").display().to_string();
    qmp.succeed(&command("object-add", &format!("'qom-type': 'throttle-group', 'id': 'g', 'limits': {SLOW}")));
    add(
        &mut qmp,
        &format!(
            "'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': \
                            {{'driver': 'file', 'filename': '{target}'}}"
        ),
    );
    qmp.succeed(&command("blockdev-backup", "'job-id': 'j', 'device': 'n', 'target': 't', 'sync': 'full'"));
    qmp.succeed(&command("job-cancel", "'id': 'j'"));
    wait_until("the end of the job", || {
        qmp.succeed("{'execute': 'query-jobs'}").as_array().is_some_and(|jobs: &Vec<Value>| jobs.is_empty())
    });
    delete(&mut qmp, "t");
}
