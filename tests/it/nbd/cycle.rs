//! Backups of points in time under a writing guest: what a backup tool reads over NBD is what the disk was at one moment,
//! and what has changed since the last one is what it is told.
//!
//! The same script, libvirt's, runs on `qemu-storage-daemon` and on ours; with `x-fleece` on ours alone. In a script `LAST`
//! and `NEXT` are bitmaps of this point in time and the next, `shell` runs a line, `wait` waits until a job is in a state,
//! `bitmap` says where the exported bitmap is, and at `read` the tools read.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use qmp_lite::wire;
use tidemark_frontend::DeviceOptions;

use super::site::Site;
use crate::cli::process::{QEMU, TIDEMARK};
use crate::qmp::schema::list;
use crate::vhost::daemon::DISK;
use crate::vhost::load::{BLOCK, BLOCKS, Load};
use crate::vhost::record::Record;

/// Points in time.
const POINTS: usize = 4;
/// From one block of the guest to the next: they are all over the disk.
const STRIDE: u64 = DISK / BLOCKS as u64;
/// Blocks that are written between two points in time.
const WINDOW: usize = 300;
/// What a bit of the bitmaps stands for.
const CLUSTER: u64 = 65536;

/// The export of the point in time.
const URI: &str = "'nbd+unix:///point?socket=nbd'";

/// Who makes points in time and reads them, while the guest writes.
struct Operator<'a> {
    site: &'a mut Site,
    script: &'static str,
    /// The point in time that is being made.
    point: &'a AtomicUsize,
    /// What was dirty at each.
    dirty: Vec<Vec<Range<u64>>>,
}

impl Operator<'_> {
    fn work(&mut self) {
        for point in 0..POINTS {
            for line in self.script.lines().filter(|line| !line.starts_with('#')) {
                self.step(line, point);
            }
            self.point.store(point + 1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn step(&mut self, line: &str, point: usize) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "shell" => drop(self.site.succeed(rest)),
            "wait" => {
                let (job, state) = rest.split_once(' ').expect("a job and its state");
                self.site.wait_job(job, state);
            }
            "bitmap" => {}
            "read" => self.read(point),
            _ => {
                let (last, next) = (format!("point{point}"), format!("point{}", point + 1));
                self.site.client.succeed(&line.replace("LAST", &last).replace("NEXT", &next));
            }
        }
    }

    /// Reads the point in time as programs do that know nothing of each other.
    fn read(&mut self, point: usize) {
        let place = self.script.lines().find_map(|line| line.strip_prefix("bitmap ")).expect("a bitmap");
        let (node, bitmap) = place.split_once(' ').expect("a node and its bitmap");
        let dirty = self.dirty(bitmap);
        let marked = dirty.iter().map(|range| range.end - range.start).sum::<u64>();
        assert_eq!(marked, self.site.marked(node, bitmap), "the map is not the bitmap");
        self.site.succeed(&format!("nbdcopy --connections=4 {URI} full{point}"));
        let reader = concat!("/usr/bin/python3 ", env!("CARGO_MANIFEST_DIR"), "/tests/it/nbd/reader.py");
        let said = self.site.succeed(&format!("{reader} {URI} {bitmap} incremental && cmp incremental full{point}"));
        assert!(said.starts_with(&format!("{marked} bytes are dirty")), "{said}");
        self.site.succeed(&format!("qemu-img convert -O raw {URI} converted && cmp converted full{point}"));
        assert_eq!(self.dirty(bitmap), dirty, "the map changes with the disk");
        self.dirty.push(dirty);
    }

    fn dirty(&self, bitmap: &str) -> Vec<Range<u64>> {
        let map = self.site.succeed(&format!("nbdinfo --json --map=qemu:dirty-bitmap:{bitmap} {URI}"));
        let map = wire::parse(&map).expect("JSON");
        let number = |extent: &wire::Value, name: &str| extent[name].as_u64().expect("a number");
        let dirty = list(&map).iter().filter(|extent| extent["type"] == 1);
        dirty.map(|extent| number(extent, "offset")..number(extent, "offset") + number(extent, "length")).collect()
    }
}

/// Says so when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What each block has in an image, in which there is nothing else.
fn values(image: &[u8]) -> Vec<u64> {
    let places = image.chunks(usize::try_from(STRIDE).unwrap());
    let value = |place: &[u8]| {
        let (block, rest) = place.split_at(BLOCK as usize);
        let value = u64::from_le_bytes(block[..8].try_into().unwrap());
        assert!(block.chunks(8).all(|word| word == value.to_le_bytes()), "a block is torn");
        assert!(rest.iter().all(|byte| *byte == 0), "what nobody wrote is not zero");
        value
    };
    places.map(value).collect()
}

/// Each point in time is a moment of the guest's record, later than the one before, and its bitmap marks all that may
/// have changed between them and nothing else.
fn judge(record: &Record, images: &[Vec<u8>], dirty: &[Vec<Range<u64>>]) {
    let mut last = (0..1, vec![0; BLOCKS]);
    for (point, (image, dirty)) in images.iter().zip(dirty).enumerate() {
        let values = values(image);
        let moment = record.moment(&values).unwrap_or_else(|error| panic!("point {point} never was: {error}"));
        assert!(moment.end > last.0.start, "point {point} is before the last");
        for cluster in (0..DISK).step_by(usize::try_from(CLUSTER).unwrap()) {
            let blocks =
                usize::try_from(cluster / STRIDE).unwrap()..usize::try_from((cluster + CLUSTER) / STRIDE).unwrap();
            let is_marked = dirty.iter().any(|range| range.contains(&cluster));
            let has_changed = blocks.clone().any(|block| values[block] != last.1[block]);
            assert!(is_marked || !has_changed, "point {point}: {cluster} has changed and is not marked");
            let may_have_changed = blocks.clone().any(|block| record.may_have_changed(block, &last.0, &moment));
            assert!(may_have_changed || !is_marked, "point {point}: {cluster} is marked and was not written");
        }
        last = (moment, values);
    }
}

fn cycle(program: &'static str, script: &'static str) {
    let mut site = Site::new(program);
    site.run("block-dirty-bitmap-add", "'node': 'n', 'name': 'point0', 'granularity': 65536");
    let mut device = site.daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 23).with_stride(STRIDE);
    load.keep_record();
    load.within(0..WINDOW);
    load.steps(500);
    let (over, point) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut operator = Operator { site: &mut site, script, point: &point, dirty: Vec::new() };
    thread::scope(|scope| {
        let (over, operator) = (&over, &mut operator);
        let working = scope.spawn(move || {
            let _over = Over(over);
            operator.work();
        });
        while !over.load(Ordering::Relaxed) {
            // Not all of the disk is written between two points in time, and some of it in each of them.
            let first = point.load(Ordering::Relaxed) * 200;
            load.within(first..(first + WINDOW).min(BLOCKS));
            load.steps(16);
            thread::sleep(Duration::from_millis(2));
        }
        working.join().unwrap();
    });
    load.drain();
    let dirty = operator.dirty;
    let images: Vec<Vec<u8>> =
        (0..POINTS).map(|point| std::fs::read(site.file(&format!("full{point}"))).unwrap()).collect();
    judge(&load.record(), &images, &dirty);
    assert!(site.daemon.image() == load.expected(DISK), "the disk is not what the guest wrote");
    let marked: Vec<u64> = dirty.iter().map(|dirty| dirty.iter().map(|range| range.end - range.start).sum()).collect();
    println!("{program}: {} requests; bytes marked at each point: {marked:?}", load.completed());
    drop(device);
}

#[test]
fn scripts_of_libvirts_pull_mode_read_points_in_time_from_both_daemons() {
    for program in [QEMU, TIDEMARK] {
        cycle(program, include_str!("cycle/pull.txt"));
    }
}

#[test]
fn a_point_in_time_of_one_action_is_read_under_a_writing_guest() {
    cycle(TIDEMARK, include_str!("cycle/fleece.txt"));
}
