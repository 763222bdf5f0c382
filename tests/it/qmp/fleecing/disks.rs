//! Points in time of several disks: one transaction, one moment, while a guest counts from disk to disk.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tidemark_frontend::{DeviceOptions, Status};

use crate::cli::process::wait_until;
use crate::qmp::daemon::Client;
use crate::qmp::schema::list;
use crate::vhost::daemon::{DISK, Daemon, FILE};
use crate::vhost::guest::Guest;

/// Moments.
const POINTS: usize = 12;
const BLOCK: usize = 4096;

fn run(client: &mut Client, command: &str, arguments: &str) {
    client.succeed(&format!("{{'execute': '{command}', 'arguments': {{{arguments}}}}}"));
}

/// Disks `n` and `m` with room for copies and a guest's socket each.
fn start() -> (Daemon, [Guest; 2]) {
    let daemon = Daemon::with_node(FILE, "");
    let mut client = daemon.qmp();
    for name in ["m", "nt", "mt"] {
        File::create(daemon.file(name)).unwrap().set_len(DISK).unwrap();
        let file = format!("'driver': 'file', 'node-name': '{name}', 'filename': '{name}'");
        run(&mut client, "blockdev-add", &file);
    }
    let address = "'addr': {'type': 'unix', 'path': 'blk2'}";
    let export = format!("'type': 'vhost-user-blk', 'id': 'second', 'node-name': 'm', 'writable': true, {address}");
    run(&mut client, "block-export-add", &export);
    run(&mut client, "nbd-server-start", "'addr': {'type': 'unix', 'data': {'path': 'nbd'}}");
    let guests = ["blk", "blk2"].map(|socket| Guest::at(&daemon.file(socket), DeviceOptions::default()));
    (daemon, guests)
}

/// One moment of both disks: the entry that each has.
fn moment(daemon: &Daemon, client: &mut Client) -> [u64; 2] {
    let fleece = |node: &str| {
        let nodes = format!("'node': '{node}', 'target': '{node}t', 'snapshot-node-name': '{node}p'");
        format!("{{'type': 'x-fleece', 'data': {{{nodes}, 'export': {{'id': '{node}p'}}}}}}")
    };
    run(client, "transaction", &format!("'actions': [{}, {}]", fleece("n"), fleece("m")));
    let entries = ["n", "m"].map(|node| {
        let line =
            format!("qemu-img dd -f raw -O raw bs={BLOCK} count=1 'if=nbd+unix:///{node}p?socket=nbd' of={node}e");
        let mut program = Command::new("sh");
        program.args(["-c", &line]).current_dir(daemon.file("nbd").parent().unwrap());
        assert!(program.status().unwrap().success(), "{line}");
        let block = std::fs::read(daemon.file(&format!("{node}e"))).unwrap();
        assert!(block.chunks(8).all(|word| word == &block[..8]), "an entry is torn");
        u64::from_le_bytes(block[..8].try_into().unwrap())
    });
    for node in ["n", "m"] {
        run(client, "job-complete", &format!("'id': '{node}p'"));
    }
    wait_until("the end of the points in time", || list(&client.succeed("{'execute': 'query-jobs'}")).is_empty());
    entries
}

#[test]
fn points_in_time_of_one_transaction_are_one_moment_of_all_its_disks() {
    let (daemon, mut guests) = start();
    let mut client = daemon.qmp();
    let is_over = AtomicBool::new(false);
    let moments = thread::scope(|scope| {
        let (daemon, client, over) = (&daemon, &mut client, &is_over);
        let looks = scope.spawn(move || {
            let _over = Over(over);
            (0..POINTS).map(|_| moment(daemon, client)).collect::<Vec<_>>()
        });
        // Each entry comes when the one before has ended, on the other disk.
        let mut entry = 0u64;
        while !is_over.load(Ordering::Relaxed) {
            let disk = &mut guests[usize::from(entry % 2 == 1)];
            entry += 1;
            assert_eq!(disk.write(0, &entry.to_le_bytes().repeat(BLOCK / 8)), Status::Ok);
        }
        looks.join().unwrap()
    });
    for [first, second] in &moments {
        assert!(first.abs_diff(*second) <= 1, "entry {first} is on the first disk and entry {second} on the second");
    }
    assert!(moments.windows(2).all(|pair| pair[0] < pair[1]), "the guest has stopped: {moments:?}");
}

/// Says so when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
