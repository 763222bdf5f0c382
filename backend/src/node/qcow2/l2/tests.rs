//! Tables on a simulated disk: what is checked when they come, and who reads them how often.

use super::*;
use crate::graph::Graph;
use crate::io::sim::{PortId, World};
use crate::io::{Buf, FileId, Memory, OpKind, Wait, byte_count};
use crate::node::link::MaybeLink;
use crate::node::options::{Discard, DriverOptions, FileOptions, Locking};
use crate::node::qcow2::compressed::{Inflater, Method};
use crate::node::qcow2::map::{Extent, Found, View};
use crate::node::{Kind, Map, NodeOptions, Request};
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

const TABLES: usize = 40;

fn host(table: usize, entry: usize) -> u64 {
    (64 + table * 64 + entry) as u64 * CLUSTER
}

/// The entry of this cluster of the file.
fn own(cluster: usize) -> u64 {
    COPIED | (cluster as u64 * CLUSTER)
}

fn geometry() -> Geometry {
    Geometry { version: 3, cluster_bits: 9, refcount_order: 4, external_data: false, extended: false }
}

impl Disk {
    fn new(change: impl FnOnce(&mut [u64])) -> Self {
        let mut words = vec![0; (64 + TABLES * 64) * 64];
        for table in 0..TABLES {
            words[64 + table] = own(2 + table);
            for entry in 0..64 {
                words[(2 + table) * 64 + entry] = COPIED | host(table, entry);
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
        let metadata = Arc::new(Metadata::of_file(store.node().length()));
        assert!(metadata.add(Structure::Header, 0..2 * CLUSTER));
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
        let l1 = L1 { offset: CLUSTER, entries: TABLES };
        self.run(move |io| async move { Rc::new(Tables::open(&io, store, geometry(), l1, 0, metadata).await.unwrap()) })
    }

    /// Whether the table is in memory after an attempt to bring it there.
    fn load(&mut self, tables: &Rc<Tables>, index: usize) -> Result<bool, IoError> {
        let tables = tables.clone();
        self.run(move |io| async move { tables.load(&io, index).await.map(|pin| pin.is_some()) })
    }
}

fn at(table: usize, entry: usize) -> u64 {
    (table * 64 + entry) as u64 * CLUSTER
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
    let bad = [own(1), own(2 + 9), 1 | own(5), own(1 << 20), (1 << 62) | 700];
    let mut disk = Disk::new(|words| words[(2 + 1) * 64..][..bad.len()].copy_from_slice(&bad));
    let tables = disk.open();
    assert_eq!(disk.load(&tables, 1), Ok(true));
    for (entry, word) in bad.iter().enumerate() {
        assert_eq!(tables.lookup(at(1, entry)), Some(Entry::Invalid), "{word:#x}");
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
        words[64 + 9] = own(1);
        words[64 + 10] = own(1 << 31);
    });
    let tables = disk.open();
    for index in [8, 9, 10] {
        assert_eq!(tables.lookup(at(index, 0)), Some(Entry::Invalid));
        assert_eq!(disk.load(&tables, index), Err(IoError::Io));
    }
    assert_eq!(disk.load(&tables, 2), Ok(true), "the first has it");
    assert_eq!(tables.l1(8), own(2 + 2), "in the file it is as it was");
}

#[test]
fn when_all_tables_have_changed_there_is_no_room_until_one_is_taken() {
    let mut disk = Disk::new(|_| ());
    let tables = disk.open();
    let mut changed = 0;
    while disk.load(&tables, changed) == Ok(true) {
        tables.pin(changed).unwrap().set(0, 0);
        changed += 1;
        assert!(changed < TABLES, "memory is bounded");
    }
    assert_eq!(tables.dirty(), (0..changed).collect::<Vec<_>>());
    assert!(tables.put_new(changed, &[0; 64], own(30)).is_none());
    assert_eq!(tables.l1(changed), own(2 + changed), "nothing has changed");
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
    drop(tables.put_new(3, &words, own(5)).unwrap());
    assert_eq!(tables.lookup(at(3, 9)), Some(Entry::Data { host: host(3, 9), copied: true }));
    assert_eq!((tables.dirty(), tables.table(3)), (vec![3], Ok(Some((5 * CLUSTER, true)))));
}

#[test]
fn a_reader_waits_for_nobody_to_make_room() {
    let mut disk = Disk::new(|_| ());
    let tables = disk.open();
    let mut pins = Vec::new();
    while disk.load(&tables, pins.len()) == Ok(true) {
        pins.push(tables.pin(pins.len()).unwrap());
    }
    let last = TABLES - 1;
    assert!(pins.len() < last, "there is no room for the last table");
    let (image, data) = (tables.clone(), disk.store.link().clone());
    let extent = disk.run(move |io| async move {
        let inflater = Inflater::new(Method::Zlib);
        let view = View {
            tables: &image,
            data: &data,
            backing: MaybeLink::new(None).look(),
            is_keeping: false,
            inflater: &inflater,
        };
        view.locate_or_load(&io, at(last, 3) + 8, 4 * CLUSTER).await
    });
    let found = Found::Data { host: host(last, 3) + 8, copied: true };
    assert_eq!(extent, Ok(Extent { found, len: 4 * CLUSTER }));
}

#[test]
fn what_no_table_maps_is_passed_table_by_table() {
    // Tables 3 to 6 are not there, and of table 7 the first two clusters.
    let mut disk = Disk::new(|words| {
        words[64 + 3..64 + 7].fill(0);
        words[(2 + 7) * 64..][..2].fill(0);
    });
    let (tables, data) = (disk.open(), disk.store.link().clone());
    let inflater = Inflater::new(Method::Zlib);
    let view = View {
        tables: &tables,
        data: &data,
        backing: MaybeLink::new(None).look(),
        is_keeping: false,
        inflater: &inflater,
    };
    let (huge, asked) = (1 << 50, std::cell::Cell::new(0));
    let counted = |offset| {
        asked.set(asked.get() + 1);
        tables.lookup(offset)
    };
    let check = |offset: u64, len: u64, expected: u64, most: u64| {
        asked.set(0);
        let extent = view.run(offset, len, counted);
        assert_eq!(extent, Some(Extent { found: Found::Unallocated, len: expected }), "{offset} {len}");
        assert!(asked.get() <= most, "{offset} {len}: {} entries were looked at", asked.get());
    };
    check(at(3, 5) + 8, CLUSTER - 8, CLUSTER - 8, 1);
    check(at(3, 5) + 8, 9 * CLUSTER, 9 * CLUSTER, 2);
    // Table 7 is not in memory.
    check(at(3, 5) + 8, huge, at(7, 0) - at(3, 5) - 8, 5);
    assert_eq!(disk.load(&tables, 7), Ok(true));
    check(at(3, 5) + 8, huge, at(7, 2) - at(3, 5) - 8, 7);
    check(at(6, 63), huge, 3 * CLUSTER, 4);
    check(at(TABLES, 1), 64 << 20, 64 << 20, 2049);
    check(u64::MAX - CLUSTER, huge, CLUSTER + 1, 3);
}

#[test]
fn a_request_that_is_one_run_in_the_file_goes_straight_there_and_others_do_not() {
    // Table 5: two clusters apart from each other, one that is shared, one that is zero, one that is not there.
    let mut disk = Disk::new(|words| {
        let table = &mut words[(2 + 5) * 64..][..64];
        table[8] = own(2000);
        (table[10], table[11], table[12]) = (host(5, 10), 1, 0);
    });
    let (tables, data) = (disk.open(), disk.store.link().clone());
    let inflater = Inflater::new(Method::Zlib);
    let view = View {
        tables: &tables,
        data: &data,
        backing: MaybeLink::new(None).look(),
        is_keeping: false,
        inflater: &inflater,
    };
    let map = |kind, entry, len: u64, fua| {
        let memory = Memory::from(Buf::new(byte_count(len)));
        view.map(&Request { kind, fua, offset: at(5, entry), len, memory }, at(5, entry))
    };
    assert_eq!(map(Kind::Read, 0, 512, false), Map::Task, "the table is not here");
    assert_eq!(disk.load(&tables, 5), Ok(true));
    let file = |kind, entry| Map::File { file: FileId(0), offset: host(5, entry), kind };
    let write = OpKind::Write { stable: false };
    assert_eq!(map(Kind::Read, 0, 8 * CLUSTER, false), file(OpKind::Read, 0), "eight in a row");
    assert_eq!(map(Kind::Write, 0, 8 * CLUSTER, false), file(write, 0));
    assert_eq!(map(Kind::Read, 7, 2 * CLUSTER, false), Map::Task, "two places");
    assert_eq!(map(Kind::Write, 7, 2 * CLUSTER, false), Map::Task);
    assert_eq!(map(Kind::Write, 0, CLUSTER, true), Map::Task, "stable with what leads there");
    assert_eq!(
        (map(Kind::Read, 10, CLUSTER, false), map(Kind::Write, 10, CLUSTER, false)),
        (file(OpKind::Read, 10), Map::Task)
    );
    for nothing in [11, 12] {
        assert_eq!(map(Kind::Read, nothing, CLUSTER, false), Map::Zeroes);
        assert_eq!(map(Kind::Write, nothing, CLUSTER, false), Map::Task);
    }
    assert_eq!(map(Kind::Discard, 0, CLUSTER, false), Map::Task);
}
