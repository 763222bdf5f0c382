//! Tables on a simulated disk: what is checked when they come, and who reads them how often.

use super::*;
use crate::graph::Graph;
use crate::io::sim::{PortId, World};
use crate::io::{FileId, Wait};
use crate::node::NodeOptions;
use crate::node::options::{Discard, DriverOptions, FileOptions, Locking};
use crate::reactor::Reactor;
use std::cell::RefCell;
use std::rc::Rc;
use tempfile::NamedTempFile;

const CLUSTER: u64 = 512;
const COPIED: u64 = 1 << 63;

/// A disk of 40 tables in clusters 2 to 41 behind an L1 table in cluster 1; entry `i` of table `t` leads to a cluster
/// of its own in the middle of the file.
struct Disk {
    world: World,
    port: PortId,
    reactor: Reactor,
    store: Store,
    metadata: Arc<Metadata>,
    _image: NamedTempFile,
}

const TABLES: u64 = 40;

fn host(table: u64, entry: u64) -> u64 {
    (64 + table * 64 + entry) * CLUSTER
}

fn geometry() -> Geometry {
    Geometry { version: 3, cluster_bits: 9, refcount_order: 4, external_data: false }
}

impl Disk {
    fn new(change: impl FnOnce(&mut [u64])) -> Self {
        let mut words = vec![0; (64 + TABLES as usize * 64) * 64];
        for table in 0..TABLES {
            words[64 + table as usize] = COPIED | (2 + table) * CLUSTER;
            for entry in 0..64 {
                words[(2 + table as usize) * 64 + entry] = COPIED | host(table, entry as u64);
            }
        }
        change(&mut words);
        let content: Vec<u8> = words.into_iter().flat_map(u64::to_be_bytes).collect();
        let image = NamedTempFile::new().unwrap();
        std::fs::write(image.path(), &content).unwrap();
        let world = World::new(1);
        world.add_disk(FileId(0), content, 1);
        let file = FileOptions { filename: image.path().to_owned(), locking: Locking::Off, device: false };
        let options = NodeOptions::new(DriverOptions::File(file));
        let options = NodeOptions { node_name: Some("file".into()), discard: Discard::Unmap, ..options };
        let store = Store::new(Graph::new().open(&options).unwrap());
        let io = world.io(16);
        let (port, reactor) = (io.port(), Reactor::new(Box::new(io)).unwrap());
        let metadata = Arc::new(Metadata::default());
        assert!(metadata.add(0..2 * CLUSTER));
        Self { world, port, reactor, store, metadata, _image: image }
    }

    fn run<T: 'static, F: Future<Output = T> + 'static>(&mut self, task: impl FnOnce(Handle) -> F) -> T {
        let slot = Rc::new(RefCell::new(None));
        let (future, result) = (task(self.reactor.handle().clone()), slot.clone());
        self.reactor.handle().spawn(async move {
            let value = future.await;
            *result.borrow_mut() = Some(value);
        });
        loop {
            if let Some(value) = slot.take() {
                return value;
            }
            match self.world.is_awake(self.port) || self.reactor.has_ready_tasks() {
                true => self.reactor.turn(Wait::Forever, || false, |_| ()),
                false => assert!(self.world.advance(), "everybody sleeps"),
            }
        }
    }

    fn open(&mut self) -> Rc<Tables> {
        let (store, metadata) = (self.store.clone(), self.metadata.clone());
        let l1 = L1 { offset: CLUSTER, entries: TABLES as usize };
        self.run(move |io| async move {
            let data = store.node().clone();
            Rc::new(Tables::open(&io, store, data, geometry(), l1, 0, metadata).await.unwrap())
        })
    }

    /// Whether the table is in memory after an attempt to bring it there.
    fn load(&mut self, tables: &Rc<Tables>, index: usize) -> Result<bool, IoError> {
        let tables = tables.clone();
        self.run(move |io| async move { tables.load(&io, index).await.map(|pin| pin.is_some()) })
    }
}

fn at(table: u64, entry: u64) -> u64 {
    (table * 64 + entry) * CLUSTER
}

#[test]
fn what_a_table_says_is_known_once_it_is_there() {
    let mut disk = Disk::new(|words| words[64 + 3] = 0);
    let tables = disk.open();
    assert_eq!((tables.lookup(at(3, 5)), tables.lookup(at(4, 5))), (Some(Entry::Unallocated), None));
    assert_eq!(tables.lookup(at(TABLES, 0)), Some(Entry::Unallocated), "past the last table");
    assert_eq!((disk.load(&tables, 3), disk.load(&tables, 4)), (Ok(false), Ok(true)));
    assert_eq!(tables.lookup(at(4, 5)), Some(Entry::Data { host: host(4, 5), copied: true }));
}

#[test]
fn two_who_need_a_table_read_it_once() {
    let mut disk = Disk::new(|_| ());
    let tables = disk.open();
    let before = disk.world.operations();
    let done = Rc::new(RefCell::new(0));
    for _ in 0..2 {
        let (tables, io, done) = (tables.clone(), disk.reactor.handle().clone(), done.clone());
        disk.reactor.handle().spawn(async move {
            assert!(tables.load(&io, 7).await.unwrap().is_some());
            *done.borrow_mut() += 1;
        });
    }
    assert_eq!(disk.load(&tables, 7), Ok(true));
    while *done.borrow() < 2 {
        disk.run(|io| async move { io.sleep_until(io.now() + 1000).await });
    }
    assert_eq!(disk.world.operations() - before, 1);
}

#[test]
fn an_entry_into_metadata_or_past_the_end_is_invalid_and_stays_in_the_file() {
    let bad = [COPIED | CLUSTER, COPIED | (2 + 9) * CLUSTER, 1 | COPIED | 5 * CLUSTER, COPIED | 1 << 30, 1 << 62 | 700];
    let mut disk = Disk::new(|words| words[(2 + 1) * 64..][..bad.len()].copy_from_slice(&bad));
    let tables = disk.open();
    assert_eq!(disk.load(&tables, 1), Ok(true));
    for entry in 0..bad.len() as u64 {
        assert_eq!(tables.lookup(at(1, entry)), Some(Entry::Invalid), "{:#x}", bad[entry as usize]);
    }
    assert_eq!(tables.lookup(at(1, 6)), Some(Entry::Data { host: host(1, 6), copied: true }));
    tables.pin(1).unwrap().set(6, 0);
    let (_pin, words) = tables.take_dirty(1).unwrap();
    assert_eq!((&words[..bad.len()], words[6]), (&bad[..], 0));
}

#[test]
fn two_entries_do_not_share_a_table() {
    let mut disk = Disk::new(|words| {
        words[64 + 8] = words[64 + 2];
        words[64 + 9] = COPIED | CLUSTER;
        words[64 + 10] = COPIED | 1 << 40;
    });
    let tables = disk.open();
    for index in [8, 9, 10] {
        assert_eq!(tables.lookup(at(index, 0)), Some(Entry::Invalid));
        assert_eq!(disk.load(&tables, index as usize), Err(IoError::Io));
    }
    assert_eq!(disk.load(&tables, 2), Ok(true), "the first has it");
    assert_eq!(tables.l1(8), COPIED | (2 + 2) * CLUSTER, "in the file it is as it was");
}

#[test]
fn when_all_tables_have_changed_there_is_no_room_until_one_is_taken() {
    let mut disk = Disk::new(|_| ());
    let tables = disk.open();
    let mut changed = 0;
    while disk.load(&tables, changed) == Ok(true) {
        tables.pin(changed).unwrap().set(0, 0);
        changed += 1;
        assert!(changed < TABLES as usize, "memory is bounded");
    }
    assert_eq!(tables.dirty(), (0..changed).collect::<Vec<_>>());
    assert!(tables.put_new(changed, &[0; 64], COPIED | 30 * CLUSTER).is_none());
    assert_eq!(tables.l1(changed), COPIED | (2 + changed as u64) * CLUSTER, "nothing has changed");
    drop(tables.take_dirty(0).unwrap());
    assert_eq!(disk.load(&tables, changed), Ok(true));
    assert_eq!(tables.lookup(at(0, 0)), None, "this one had to go");
}

#[test]
fn a_new_table_is_found_and_is_to_be_written() {
    let mut disk = Disk::new(|words| words[64 + 3] = 0);
    let tables = disk.open();
    let mut words = [0; 64];
    words[9] = COPIED | host(3, 9);
    drop(tables.put_new(3, &words, COPIED | 5 * CLUSTER).unwrap());
    assert_eq!(tables.lookup(at(3, 9)), Some(Entry::Data { host: host(3, 9), copied: true }));
    assert_eq!((tables.dirty(), tables.table(3)), (vec![3], Ok(Some((5 * CLUSTER, true)))));
}
