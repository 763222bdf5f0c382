//! What a request costs before and after its I/O: fetch three descriptors, translate them, read the header, return it.
//!
//! Our ring beside crate `virtio-queue`, on plain memory and on the memory of crate `vhost-user-backend`, which notes
//! dirty pages. The driver's work is kept out: descriptors and available ring are written once, and a batch is made
//! available by one store.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidemark_backend::export::vhost::memory::{MemTable, MemoryFault, RegionSpec};
use tidemark_backend::export::vhost::ring::{Chain, Popped, Ring, RingConfig};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::{Queue, QueueT};
use vm_memory::mmap::NewBitmap;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap};

const SIZE: u16 = 256;
/// Requests per batch, and per notification decision.
const BATCH: u16 = 64;
const MEMORY_LEN: usize = 16 << 20;
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x4000;
const AVAIL_IDX: u64 = AVAIL + 2;
const USED: u64 = 0x6000;
const DATA: u64 = 0x10_0000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Guest memory with requests of header, 4 KiB of data and status, all of them in the available ring.
fn guest() -> anyhow::Result<File> {
    let file = tempfile::tempfile_in("/dev/shm")?;
    file.set_len(MEMORY_LEN as u64)?;
    let desc = |index: u16, addr: u64, len: u32, flags: u16| -> anyhow::Result<()> {
        let at = DESC + u64::from(index) * 16;
        file.write_all_at(&addr.to_le_bytes(), at)?;
        file.write_all_at(&len.to_le_bytes(), at + 8)?;
        file.write_all_at(&flags.to_le_bytes(), at + 12)?;
        Ok(file.write_all_at(&(index + 1).to_le_bytes(), at + 14)?)
    };
    for request in 0..SIZE / 3 {
        let (head, data) = (request * 3, DATA + u64::from(request) * 0x2000);
        desc(head, data, 16, NEXT)?;
        desc(head + 1, data + 0x1000, 4096, NEXT | WRITE)?;
        desc(head + 2, data + 16, 1, WRITE)?;
    }
    for slot in 0..SIZE {
        let head = slot % (SIZE / 3) * 3;
        file.write_all_at(&head.to_le_bytes(), AVAIL + 4 + u64::from(slot) * 2)?;
    }
    Ok(file)
}

fn own(c: &mut Criterion) -> anyhow::Result<()> {
    let spec = RegionSpec { guest_addr: 0, len: MEMORY_LEN as u64, user_addr: 0, file_offset: 0 };
    let memory = Arc::new(MemTable::new([(spec, guest()?)], MemoryFault::new()?)?);
    let config = RingConfig { size: SIZE, desc: DESC, avail: AVAIL, used: USED, next_avail: 0, features: 0 };
    let mut ring = Ring::new(memory.clone(), config, None)?;
    let avail_idx: Vec<_> = memory.pieces(AVAIL_IDX, 2).flatten().collect();
    let mut chain = Chain::with_capacity(4);
    let mut index = 0u16;
    let mut group = c.benchmark_group("three descriptors");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    group.bench_function("own ring", |b| {
        b.iter(|| {
            index = index.wrapping_add(BATCH);
            memory.write(&avail_idx, 0, &index.to_le_bytes());
            let mut count = 0;
            while let Ok(Popped::Request) = ring.pop(&mut chain) {
                let mut header = [0; 16];
                assert!(chain.cut_header(&memory, &mut header));
                black_box((header, chain.cut_status(), chain.writable()));
                ring.push_used(chain.head(), 4097);
                count += 1;
            }
            assert_eq!(count, BATCH);
            black_box(ring.publish())
        });
    });
    group.finish();
    Ok(())
}

fn theirs<B: NewBitmap>(c: &mut Criterion, name: &str) -> anyhow::Result<()> {
    let file = FileOffset::new(guest()?, 0);
    let range = (GuestAddress(0), MEMORY_LEN, Some(file));
    let memory = GuestMemoryMmap::<B>::from_ranges_with_files([range])?;
    let mut queue = Queue::new(SIZE)?;
    queue.try_set_desc_table_address(GuestAddress(DESC))?;
    queue.try_set_avail_ring_address(GuestAddress(AVAIL))?;
    queue.try_set_used_ring_address(GuestAddress(USED))?;
    queue.set_ready(true);
    let mut index = 0u16;
    let mut group = c.benchmark_group("three descriptors");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    group.bench_function(name, |b| {
        b.iter(|| {
            index = index.wrapping_add(BATCH);
            memory.write_obj(index, GuestAddress(AVAIL_IDX)).expect("inside memory");
            let mut count = 0;
            while let Some(chain) = queue.pop_descriptor_chain(&memory) {
                let head = chain.head_index();
                let mut header = [0u8; 16];
                for desc in chain {
                    let slice = memory.get_slices(desc.addr(), desc.len() as usize, vm_memory::Permissions::ReadWrite);
                    black_box(slice.map(|slices| slices.flatten().map(|s| s.ptr_guard().as_ptr()).last()).ok());
                    if !desc.is_write_only() {
                        memory.read_slice(&mut header, desc.addr()).expect("inside memory");
                    }
                }
                black_box(header);
                queue.add_used(&memory, head, 4097).expect("a head that was popped");
                count += 1;
            }
            assert_eq!(count, BATCH);
            black_box(queue.needs_notification(&memory).is_ok())
        });
    });
    group.finish();
    Ok(())
}

fn benches(c: &mut Criterion) {
    let result = own(c)
        .and_then(|()| theirs::<()>(c, "virtio-queue"))
        .and_then(|()| theirs::<BitmapMmapRegion>(c, "virtio-queue on vhost-user-backend's memory"));
    if let Err(error) = result {
        panic!("the ring benchmark could not be set up: {error}");
    }
}

criterion_group!(ring, benches);
criterion_main!(ring);
