//! A sparse bitmap of a 16 TiB disk: ours, a level of plain atomics with a summary above it, beside `bitvec`'s atomic
//! storage. Blocks of 64 KiB, a few thousand of them marked, scattered.

use bitvec::prelude::{BitVec, Lsb0};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tidemark_cbt::{Bitmap, Granularity};

const DISK: u64 = 16 << 40;
const BLOCK: u64 = 64 << 10;
const MARKED: usize = 4096;

type Bits = BitVec<AtomicU64, Lsb0>;

/// Scattered blocks, the same in every run.
fn blocks() -> Vec<u64> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 20) % (DISK / BLOCK)
    };
    (0..MARKED).map(|_| next()).collect()
}

fn empty() -> Bitmap {
    Bitmap::new(DISK, Granularity::DEFAULT).expect("memory for a bitmap")
}

fn empty_bits() -> Bits {
    Bits::repeat(false, at(DISK / BLOCK))
}

fn at(block: u64) -> usize {
    usize::try_from(block).expect("a position in memory")
}

fn mark(bitmap: &Bitmap, blocks: &[u64]) {
    blocks.iter().for_each(|block| bitmap.mark(block * BLOCK, BLOCK));
}

fn mark_bits(bits: &Bits, blocks: &[u64]) {
    blocks.iter().for_each(|block| bits.set_aliased(at(*block), true));
}

fn walk(bitmap: &Bitmap) -> u64 {
    let (mut from, mut found) = (0, 0);
    while let Some(run) = bitmap.next_marked(from) {
        found += (run.end - run.start) / BLOCK;
        from = run.end;
    }
    found
}

fn take(bitmap: &Bitmap) {
    let mut from = 0;
    while let Some(run) = bitmap.next_marked(from) {
        bitmap.take(run.start, run.end - run.start);
        from = run.end;
    }
}

fn take_bits(bits: &Bits) {
    // It cannot say what it clears: somebody who has to know would pay more.
    bits.iter_ones().for_each(|block| bits.set_aliased(block, false));
}

/// What a write costs: a first mark, and a mark of what is marked.
fn marking(c: &mut Criterion) {
    let blocks = blocks();
    let (ours, bits) = (empty(), empty_bits());
    mark(&ours, &blocks);
    mark_bits(&bits, &blocks);
    let mut group = c.benchmark_group("cbt/4096 marks of marked blocks");
    group.bench_function("atomics", |b| b.iter(|| mark(&ours, black_box(&blocks))));
    group.bench_function("bitvec", |b| b.iter(|| mark_bits(&bits, black_box(&blocks))));
    group.finish();
    let mut group = c.benchmark_group("cbt/4096 first marks");
    group.bench_function("atomics", |b| {
        b.iter_batched(|| take(&ours), |()| mark(&ours, black_box(&blocks)), BatchSize::PerIteration);
    });
    group.bench_function("bitvec", |b| {
        b.iter_batched(|| take_bits(&bits), |()| mark_bits(&bits, black_box(&blocks)), BatchSize::PerIteration);
    });
    group.finish();
    // 1 MiB, where bitvec has no way to set several bits of a shared slice at once.
    let mut group = c.benchmark_group("cbt/mark of 16 marked blocks");
    ours.mark(0, 16 * BLOCK);
    (0..16).for_each(|block| bits.set_aliased(block, true));
    group.bench_function("atomics", |b| b.iter(|| ours.mark(black_box(0), 16 * BLOCK)));
    group.bench_function("bitvec", |b| b.iter(|| (0..16).for_each(|block| bits.set_aliased(black_box(block), true))));
    group.finish();
}

/// What a job and a query cost.
fn reading(c: &mut Criterion) {
    let blocks = blocks();
    let (ours, bits) = (empty(), empty_bits());
    mark(&ours, &blocks);
    mark_bits(&bits, &blocks);
    assert_eq!(walk(&ours), bits.iter_ones().count() as u64);
    let mut group = c.benchmark_group("cbt/walk");
    group.bench_function("atomics", |b| b.iter(|| walk(black_box(&ours))));
    group.bench_function("bitvec", |b| b.iter(|| black_box(&bits).iter_ones().fold(0, |found, _| found + 1)));
    group.finish();
    let mut group = c.benchmark_group("cbt/count");
    group.bench_function("atomics", |b| b.iter(|| black_box(&ours).count()));
    group.bench_function("bitvec", |b| b.iter(|| black_box(&bits).count_ones()));
    group.finish();
    let mut group = c.benchmark_group("cbt/take all");
    group.bench_function("atomics", |b| {
        b.iter_batched(|| mark(&ours, &blocks), |()| take(&ours), BatchSize::PerIteration);
    });
    group.bench_function("bitvec", |b| {
        b.iter_batched(|| mark_bits(&bits, &blocks), |()| take_bits(&bits), BatchSize::PerIteration);
    });
    group.finish();
}

/// What a point in time needs: an empty bitmap.
fn making(c: &mut Criterion) {
    let mut group = c.benchmark_group("cbt/empty bitmap");
    group.bench_function("atomics", |b| b.iter(empty));
    group.bench_function("bitvec", |b| b.iter(empty_bits));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = marking, reading, making
}
criterion_main!(benches);
