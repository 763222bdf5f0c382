//! Two disks are backed up at one moment while the guest writes to the first, waits until that is on
//! stable storage, and writes the same to the second, block after block without a pause. Whatever the
//! moment, the second disk can have nothing that the first has not.

use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Disk, MIB, NODE};
use crate::guest::on_guest;
use crate::process::POLL;
use crate::restore::{Restore, Sync, track, transaction};

/// The node of the second disk.
const SECOND: &str = "e";

/// Size of either disk in bytes; the guest would need minutes to fill it.
const LEN: u64 = 64 * MIB;

/// Size of the blocks the guest writes, in bytes.
const BLOCK: usize = 512;

/// Points in time that are taken after the first one.
const POINTS: u64 = 6;

/// The guest goes on within this time, on a machine that has other things to do as well.
const SOON: Duration = Duration::from_secs(60);

/// fio takes the disks in turns; a write is on stable storage before the next begins (O_SYNC). Each block
/// is full of its own offset.
const LOCK_STEP: &str = "fio --name=steps --filename=/dev/vda:/dev/vdb --file_service_type=roundrobin:1 \
     --ioengine=psync --direct=1 --sync=1 --rw=write --bs=512 --size=128M --verify=pattern --verify_pattern=%o \
     --do_verify=0; [ -e /tmp/stop ]";

/// How many blocks the guest has written, in a row from the start.
///
/// # Panics
///
/// If there is anything but that in the disk.
fn written(disk: &[u8]) -> usize {
    let blocks = disk.chunks(BLOCK).enumerate();
    let full = |&(index, block): &(usize, &[u8])| {
        let offset = u64::try_from(index * BLOCK).expect("a usize has at most 64 bits").to_le_bytes();
        // The offset of the first block is as zero as what was never written: it does not count.
        index == 0 || block.chunks(offset.len()).all(|word| word == offset)
    };
    let count = blocks.take_while(full).count();
    let rest = disk.iter().skip(count * BLOCK).position(|&byte| byte != 0);
    assert_eq!(rest, None, "bytes behind block {count}, up to which the disk is in order");
    count
}

/// Backups of both disks at the same moment.
struct Pair([Restore; 2]);

impl Pair {
    /// Copies, for a later moment.
    fn copy(&self, name: &str) -> Self {
        let Self([first, second]) = self;
        Self([first.copy(&format!("{name}-1")), second.copy(&format!("{name}-2"))])
    }

    /// Takes one and asserts that it is of its moment. Returns how many blocks were in the first disk.
    fn take(&self, backend: &mut Backend, sync: Sync, speed: u64) -> usize {
        let Self([first, second]) = self;
        let mut qmp = backend.qmp();
        first.open(&mut qmp);
        second.open(&mut qmp);
        let actions = [first.backup(NODE, sync, speed), second.backup(SECOND, sync, speed)];
        let before = progress(backend);
        transaction(&mut qmp, &actions, true);
        // One write may be on its way to the image at this moment.
        let after = progress(backend) + 1;
        first.wait(&mut qmp);
        second.wait(&mut qmp);

        let [first, second] = self.0.each_ref().map(|restore| written(&restore.bytes()));
        println!("{first} and {second} blocks, of {before} to {after}");
        assert!(first == second || first == second + 1, "{first} blocks in the first disk, {second} in the second");
        assert!((before..=after).contains(&first), "{first} blocks, not {before} to {after}");
        first
    }
}

/// Blocks in the first disk at this moment.
fn progress(backend: &Backend) -> usize {
    let image = std::fs::read(backend.image()).expect("the image can be read");
    image.chunks(BLOCK).skip(1).take_while(|block| block.iter().any(|&byte| byte != 0)).count() + 1
}

/// Waits until there are `blocks` of them.
fn wait_for_progress(backend: &Backend, blocks: usize) {
    let deadline = Instant::now() + SOON;
    while progress(backend) < blocks {
        assert!(Instant::now() < deadline, "the guest has not written {blocks} blocks within {SOON:?}");
        thread::sleep(POLL);
    }
}

#[test]
fn the_second_disk_is_never_ahead_of_the_first_in_a_pair_of_backups() {
    on_guest(Disk::new(LEN), |guest, backend| {
        let socket = backend.add_disk(SECOND, LEN);
        guest.plug_second(&socket);
        transaction(&mut backend.qmp(), &[track(NODE), track(SECOND)], false);
        guest.spawn(LOCK_STEP);
        guest.until(SOON, "[ $(awk '{ print $5 }' /sys/block/vdb/stat) -gt 100 ]");

        let directory = backend.place("");
        let mut pair = Pair(["full-1", "full-2"].map(|name| Restore::empty(&directory, name, LEN)));
        let mut last = pair.take(backend, Sync::FullAndBitmap, 32 * MIB);
        for point in 1..=POINTS {
            wait_for_progress(backend, last + 20);
            pair = pair.copy(&format!("point-{point}"));
            last = pair.take(backend, Sync::Incremental, MIB);
        }
        guest.run("touch /tmp/stop; killall -INT fio");
        guest.join(SOON);
    });
}
