//! Seeded runs with points in time: two disks, four queues each, transactions, backups, filters; judged by what guests
//! and operator were told.

pub mod history;
pub mod holds;
pub mod ledger;
mod machine;
mod operator;
pub mod setting;
pub mod site;

use crate::number;
use machine::{Machine, Report};
use setting::{Betrayal, Setting};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use tidemark_backend::io::sim::Lie;

fn run(setting: Setting) -> Result<Report, String> {
    let run = AssertUnwindSafe(|| Machine::new(setting).run());
    catch_unwind(run).unwrap_or_else(|_| Err("panic, see above".into()))
}

#[test]
fn every_point_in_time_is_one_moment_of_both_disks() {
    let (start, count) = (number("START").unwrap_or(1), number("SEEDS"));
    let limit = Instant::now() + Duration::from_secs(20);
    let mut sum = Report::default();
    let mut seed = start;
    while count.map_or(Instant::now() < limit, |count| seed < start + count) {
        let setting = Setting::new(seed);
        let report = run(setting.clone()).unwrap_or_else(|why| {
            panic!("seed {seed}: {why}\n{setting:#?}\nreplay: START={seed} SEEDS=1 cargo test --test sim every_point")
        });
        sum.add(&report);
        seed += 1;
    }
    println!("{} seeds: {sum:?}", seed - start);
}

#[test]
fn the_same_seed_makes_the_same_points_in_time() {
    for seed in 1..20 {
        let first = run(Setting::new(seed)).expect("a good run");
        assert_eq!(first, run(Setting::new(seed)).expect("the same run"), "seed {seed}");
    }
}

/// How many of 20 runs the judge condemns if somebody betrays it.
fn condemned(betrayal: Betrayal) -> usize {
    (1..=20).filter(|seed| run(Setting::betrayed(*seed, betrayal)).is_err()).count()
}

#[test]
fn a_run_that_nobody_betrays_is_not_condemned() {
    assert_eq!(condemned(Betrayal::Nothing), 0);
}

#[test]
fn a_wrong_bit_in_a_backup_is_found_out() {
    assert!(condemned(Betrayal::Target(Lie::BitIsFlipped)) > 10);
}

#[test]
fn a_copy_that_was_left_out_is_found_out() {
    assert!(condemned(Betrayal::Target(Lie::WriteIsDropped)) > 10);
}

#[test]
fn a_backup_that_is_not_stable_is_found_out() {
    assert!(condemned(Betrayal::Target(Lie::FlushDoesNothing)) > 10);
}

#[test]
fn a_bit_that_an_incremental_backup_misses_is_found_out() {
    assert!(condemned(Betrayal::LostBit) > 10);
}

#[test]
fn a_bit_that_a_bitmap_misses_is_found_out() {
    assert!(condemned(Betrayal::LostMark) > 10);
}
