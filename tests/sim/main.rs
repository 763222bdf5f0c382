//! Seeded runs of the real queues, nodes and jobs on a simulated kernel, judged by what the guest was told: one machine
//! crashes and loses power, one ([`points`]) makes points in time, one ([`chains`]) has images put on top of each other.
//!
//! `SEEDS=n` runs that many seeds instead of 20 seconds' worth, `START=s` begins with seed s. A failing seed is printed
//! with the command that replays it.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod chains;
mod guest;
mod machine;
mod oracle;
mod points;
mod process;
mod request;
mod scenario;
mod served;
mod trouble;

use machine::{Machine, Report};
use scenario::Scenario;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use tidemark_backend::io::sim::{Faults, Lie};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn run(scenario: Scenario) -> Result<Report, String> {
    let run = AssertUnwindSafe(|| Machine::new(scenario).run());
    catch_unwind(run).unwrap_or_else(|_| Err("panic, see above".into()))
}

#[test]
fn every_request_ends_once_and_every_byte_is_what_the_guest_was_promised() {
    let (start, count) = (number("START").unwrap_or(1), number("SEEDS"));
    let limit = Instant::now() + Duration::from_secs(20);
    let mut sum = Report::default();
    let mut seed = start;
    while count.map_or(Instant::now() < limit, |count| seed < start + count) {
        let scenario = Scenario::new(seed);
        let report = run(scenario.clone()).unwrap_or_else(|why| {
            panic!(
                "seed {seed}: {why}\n{scenario:#?}\nreplay: START={seed} SEEDS=1 cargo test --test sim every_request"
            )
        });
        sum.requests += report.requests;
        sum.failed += report.failed;
        sum.operations += report.operations;
        sum.stops += report.stops;
        sum.kills += report.kills;
        sum.power_cuts += report.power_cuts;
        seed += 1;
    }
    println!(
        "{} seeds: {} requests ({} failed by faults), {} operations, {} rings stopped, {} kills, {} power cuts",
        seed - start,
        sum.requests,
        sum.failed,
        sum.operations,
        sum.stops,
        sum.kills,
        sum.power_cuts
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..20 {
        let first = run(Scenario::new(seed)).expect("a good run");
        assert_eq!(first, run(Scenario::new(seed)).expect("the same run"), "seed {seed}");
    }
}

/// How many of these runs the judge condemns.
fn condemned(lie: Lie, seeds: u64) -> usize {
    let betrayed = |seed| {
        let honest = Scenario::new(seed);
        let faults = Faults { short: 200, flush_error: 0, ..honest.faults };
        Scenario { faults: Faults { lie: Some(lie), ..faults }, ..honest }
    };
    (1..=seeds).filter(|seed| run(betrayed(*seed)).is_err()).count()
}

#[test]
fn a_disk_that_lies_about_flushes_is_found_out() {
    assert!(condemned(Lie::FlushDoesNothing, 40) > 5);
}

#[test]
fn a_disk_that_drops_writes_is_found_out() {
    assert!(condemned(Lie::WriteIsDropped, 40) > 20);
}

#[test]
fn a_disk_that_calls_a_short_write_whole_is_found_out() {
    assert!(condemned(Lie::ShortIsWhole, 40) > 10);
}
