//! Seeded runs with chains of images: two disks with guests on several queues, images put on top of each other at points
//! in time, backups, mirrors, commits and streams, storage that fails, power cuts and kills; judged by what guests and
//! operator were told. `CUTS=n` cuts the power so many times right after a switch.

mod alone;
mod errands;
mod guests;
mod images;
mod judge;
mod life;
mod listen;
mod machine;
mod moves;
mod operator;
mod report;
mod setting;

use crate::number;
use machine::run as live;
use report::Report;
use setting::{Betrayal, Setting};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use tidemark_backend::io::sim::Lie;

/// Runs in which somebody betrays the judge, for each way to do so.
const RUNS: u64 = 20;
/// It has to find out in more of them.
const MOST: usize = 5;

fn run(setting: Setting) -> Result<Report, String> {
    let run = AssertUnwindSafe(|| live(setting));
    catch_unwind(run).unwrap_or_else(|_| Err("panic, see above".into()))
}

#[test]
fn chains_keep_every_byte_and_every_point_in_time() {
    let (start, count) = (number("START").unwrap_or(1), number("SEEDS"));
    let limit = Instant::now() + Duration::from_secs(10);
    let mut sum = Report::default();
    let mut seed = start;
    while count.map_or(Instant::now() < limit, |count| seed < start + count) {
        let setting = Setting::new(seed);
        let report = run(setting.clone()).unwrap_or_else(|why| {
            panic!("seed {seed}: {why}\n{setting:#?}\nreplay: START={seed} SEEDS=1 cargo test --test sim chains_keep")
        });
        sum.add(&report);
        seed += 1;
    }
    println!("{} seeds: {sum:?}", seed - start);
}

#[test]
fn the_same_seed_makes_the_same_chains() {
    for seed in 1..5 {
        let first = run(Setting::new(seed)).expect("a good run");
        assert_eq!(first, run(Setting::new(seed)).expect("the same run"), "seed {seed}");
    }
}

#[test]
fn a_power_cut_right_after_a_switch_loses_nothing_that_was_flushed() {
    let cuts = number("CUTS").unwrap_or(50);
    let (mut sum, mut seed) = (Report::default(), 0);
    while sum.looks[1] < cuts {
        seed += 1;
        let report = run(Setting::switching(seed)).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        sum.add(&report);
    }
    println!("{seed} seeds, {} switches, {} power cuts right after them", sum.snapshots, sum.looks[1]);
}

/// How many of the first runs the judge condemns if somebody betrays it.
fn condemned(betrayal: Betrayal) -> usize {
    let found = (1..=RUNS).filter(|seed| run(Setting::betrayed(*seed, betrayal)).is_err()).count();
    println!("{betrayal:?}: {found} of {RUNS}");
    found
}

#[test]
fn a_chain_that_nobody_betrays_is_not_condemned() {
    assert_eq!(condemned(Betrayal::Nothing), 0);
}

#[test]
fn a_flush_that_leaves_out_what_is_below_is_found_out() {
    assert!(condemned(Betrayal::FlushAlone) > MOST);
}

#[test]
fn a_chain_on_storage_that_lies_about_flushes_is_found_out() {
    assert!(condemned(Betrayal::Storage(Lie::FlushDoesNothing)) > MOST);
}

#[test]
fn a_chain_on_storage_that_drops_writes_is_found_out() {
    assert!(condemned(Betrayal::Storage(Lie::WriteIsDropped)) > MOST);
}

#[test]
fn a_mark_that_a_bitmap_on_top_misses_is_found_out() {
    assert!(condemned(Betrayal::LostMark) > MOST);
}
