//! Speed limits, sleeping and pausing.

use super::rig::*;
use crate::*;

const MIB: u64 = 1 << 20;

fn limited(speed: i64) -> JobOptions {
    JobOptions { speed, ..backup("j") }
}

fn copies(count: usize) -> Vec<Step> {
    let mut steps = vec![Step::Total(count as u64 * MIB)];
    steps.extend(vec![Step::Copy(MIB); count]);
    steps
}

#[test]
fn the_first_request_passes_whatever_the_limit() {
    let mut rig = Rig::new();
    rig.start(limited(1), &Script::new(&copies(4)));
    rig.pass(3_600_000 * MS);
    let info = rig.query();
    assert_eq!((info.offset, info.len, info.speed), (MIB, 4 * MIB, 1));
    assert!(!info.busy);
}

#[test]
fn a_limit_holds_on_average() {
    let mut rig = Rig::new();
    rig.start(limited(10 << 20), &Script::new(&copies(41)));
    for second in 1..=4 {
        rig.pass(1000 * MS);
        let offset = rig.query().offset / MIB;
        assert!((10 * second..=10 * second + 1).contains(&offset), "{offset} MiB after {second} s");
    }
}

#[test]
fn small_requests_of_one_slice_pass_together() {
    let mut rig = Rig::new();
    rig.start(limited(10 << 20), &Script::new(&[Step::Copy(MIB / 4); 12]));
    assert_eq!(rig.query().offset, MIB);
    rig.pass(100 * MS);
    assert_eq!(rig.query().offset, 2 * MIB);
}

#[test]
fn copies_that_guests_writes_make_count_for_the_limit_and_do_not_wait_for_it() {
    let mut rig = Rig::new();
    let script = Script::new(&copies(3));
    rig.start(limited(1 << 20), &script);
    assert_eq!(rig.query().offset, MIB);
    script.written.set(2 * MIB);
    rig.pass(2900 * MS);
    assert_eq!(rig.query().offset, MIB, "the guests had the second and the third second");
    rig.pass(200 * MS);
    assert_eq!(rig.query().offset, 2 * MIB);
    rig.pass(1000 * MS);
    assert!(rig.engine.registry().query_block_jobs().is_empty());
}

#[test]
fn time_that_was_not_used_is_not_saved_up() {
    let mut rig = Rig::new();
    let mut steps = vec![Step::Wait];
    steps.extend(copies(20));
    let script = Script::new(&steps);
    rig.start(limited(10 << 20), &script);
    rig.pass(5000 * MS);
    script.tell();
    rig.pass(MS);
    assert_eq!(rig.query().offset, MIB);
}

#[test]
fn a_new_speed_wakes_a_sleeping_job_at_once() {
    let mut rig = Rig::new();
    rig.start(limited(1), &Script::new(&copies(4)));
    rig.events();
    rig.block_job("j", Command::SetSpeed(2)).unwrap();
    assert_eq!((rig.query().speed, rig.query().offset), (2, MIB));
    rig.block_job("j", Command::SetSpeed(30 << 20)).unwrap();
    // A slice holds 3 MiB now, of which one was used.
    assert_eq!(rig.query().offset, 3 * MIB);
    rig.block_job("j", Command::SetSpeed(0)).unwrap();
    assert_eq!(
        rig.events(),
        ["j waiting", "j pending", "COMPLETED backup j 4194304/4194304 speed=0", "j concluded", "j null"]
    );
}

#[test]
fn a_job_that_waits_for_its_limit_can_be_paused_and_cancelled() {
    let mut rig = Rig::new();
    rig.start(limited(1), &Script::new(&copies(4)));
    rig.events();
    rig.job("j", Command::Pause).unwrap();
    assert_eq!(rig.events(), ["j paused"]);
    rig.block_job("j", Command::SetSpeed(0)).unwrap();
    rig.pass(1000 * MS);
    assert_eq!(rig.query().offset, MIB, "a paused job does not go on");
    rig.block_job("j", Command::SetSpeed(1)).unwrap();
    rig.job("j", Command::Resume).unwrap();
    assert_eq!(rig.events(), ["j running"]);
    rig.block_job("j", Command::Cancel { force: false }).unwrap();
    assert_eq!(rig.events(), ["j aborting", "CANCELLED backup j 1048576/4194304 speed=1", "j concluded", "j null"]);
}

#[test]
fn a_job_without_a_limit_takes_no_time() {
    let mut rig = Rig::new();
    rig.start(limited(0), &Script::new(&copies(1000)));
    assert!(rig.world.now() < MS);
    assert_eq!(rig.events().last().unwrap(), "j null");
}
