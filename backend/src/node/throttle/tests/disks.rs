//! Disks that share limits, and those who wait at them.

use super::rig::{Rig, SECOND, group, iops};
use crate::node::throttle::bucket::Limit;
use crate::node::throttle::{LimitsError, Rates, Released, ThrottleLimits};
use crate::node::{Kind, Map, Request};

const READ: (Kind, u64) = (Kind::Read, 512);

fn limit(avg: u64) -> Limit {
    Limit { avg, ..Limit::default() }
}

#[test]
fn disks_of_one_group_share_its_limit_evenly_however_many_requests_each_has() {
    let mut rig = Rig::new(3);
    let group = group(iops(100, 0, 1));
    let disks = [(); 3].map(|()| rig.disk_of(&group));
    let end = 10 * SECOND;
    let counts: Vec<_> =
        [1, 8, 64].into_iter().enumerate().map(|(at, depth)| rig.load(at, &disks[at], READ, depth, end)).collect();
    rig.pass_until(end + SECOND);
    let counts: Vec<u64> = counts.iter().map(|count| count.get()).collect();
    // A thousand in ten seconds, and what may be used at once.
    assert!((1000..=1012).contains(&counts.iter().sum::<u64>()), "{counts:?}");
    let [least, most] = [counts.iter().min().unwrap(), counts.iter().max().unwrap()];
    assert!(most - least <= 12, "{counts:?}");
}

#[test]
fn reads_and_writes_share_what_limits_both() {
    let mut rig = Rig::new(2);
    let disk = rig.disk(iops(100, 0, 1));
    let end = 10 * SECOND;
    let reads = rig.load(0, &disk, READ, 16, end);
    let writes = rig.load(1, &disk, (Kind::Write, 512), 1, end);
    rig.pass_until(end + SECOND);
    assert!(reads.get().abs_diff(writes.get()) <= 12, "{} reads, {} writes", reads.get(), writes.get());
}

#[test]
fn writes_zeroes_and_discards_are_limited_as_writes_and_hold_up_no_reads_or_flushes() {
    for kind in [Kind::Write, Kind::Zero { unmap: true }, Kind::Discard] {
        let mut rig = Rig::new(1);
        let bps = Rates { write: limit(1000), ..Rates::default() };
        let disk = rig.disk(ThrottleLimits { bps, ..ThrottleLimits::default() });
        let limited = [(); 3].map(|()| rig.begin(0, &disk, kind, 500));
        let free = [Kind::Read, Kind::Flush].map(|kind| rig.begin(0, &disk, kind, 0));
        assert_eq!(rig.finish(free.into()), [0, 0]);
        let times = rig.finish(limited.into());
        assert_eq!(times, [0, 400, 900], "{kind:?}");
    }
}

#[test]
fn a_disk_without_limits_is_as_direct_as_what_is_below_it() {
    let mut rig = Rig::new(1);
    let group = group(ThrottleLimits::default());
    let disk = rig.disk_of(&group);
    let read = Request { kind: Kind::Flush, fua: false, offset: 0, len: 0, memory: crate::io::Memory::empty() };
    assert_eq!(disk.map(&read), Map::Ended(Ok(())));
    let read = Request { kind: Kind::Read, ..read };
    assert_eq!(disk.map(&read), Map::Ended(Ok(())));
    group.change(iops(1, 0, 1)).unwrap();
    assert_eq!(disk.map(&read), Map::Task);
}

#[test]
fn nothing_runs_while_nobody_waits() {
    let mut rig = Rig::new(2);
    let disk = rig.disk(iops(10, 0, 1));
    let ended = [(); 5].map(|()| rig.begin(0, &disk, Kind::Read, 512));
    rig.finish(ended.into());
    rig.settle();
    assert!(!rig.world.advance(), "something is still to happen");
}

#[test]
fn who_waits_for_requests_to_end_has_them_pass_and_they_are_paid_for_afterwards() {
    let mut rig = Rig::new(2);
    let disk = rig.disk(iops(1, 0, 1));
    let waiting: Vec<_> = (0..20).map(|at| rig.begin(at % 2, &disk, Kind::Read, 512)).collect();
    rig.settle();
    assert_eq!(waiting.iter().filter(|ended| ended.get().is_some()).count(), 1);
    let released = Released::of([&disk]);
    let during = rig.begin(0, &disk, Kind::Write, 512);
    rig.settle();
    assert!(waiting.iter().chain([&during]).all(|ended| ended.get().is_some()));
    assert!(rig.world.now() < SECOND / 1000);
    drop(released);
    let after = rig.begin(0, &disk, Kind::Read, 512);
    // 21 of them, of which a tenth may be over.
    assert_eq!(rig.finish(vec![after]), [20_900]);
}

#[test]
fn releasing_one_disk_of_a_group_leaves_the_others_waiting() {
    let mut rig = Rig::new(1);
    let group = group(iops(1, 0, 1));
    let disks = [(); 2].map(|()| rig.disk_of(&group));
    let waiting: Vec<_> = (0..6).map(|at| rig.begin(0, &disks[at % 2], Kind::Read, 512)).collect();
    rig.settle();
    let _released = Released::of([&disks[1]]);
    rig.settle();
    let ended: Vec<_> = waiting.iter().map(|ended| ended.get().is_some()).collect();
    assert_eq!(ended, [true, true, false, true, false, true]);
    // Those of the other disk count: four are used, and two wait.
    assert_eq!([2, 4].map(|at| rig.finish(vec![waiting[at].clone()])[0]), [3900, 4900]);
}

#[test]
fn other_limits_count_at_once_for_who_waits() {
    let mut rig = Rig::new(1);
    let group = group(iops(1, 0, 1));
    let disk = rig.disk_of(&group);
    let waiting: Vec<_> = (0..10).map(|_| rig.begin(0, &disk, Kind::Read, 512)).collect();
    rig.finish(waiting[..2].to_vec());
    let ended = |all: &[super::rig::Ended]| all.iter().filter(|ended| ended.get().is_some()).count();
    assert_eq!(ended(&waiting), 2);
    group.change(iops(10, 0, 1)).unwrap();
    assert_eq!(rig.finish(waiting[..4].to_vec())[2..], [900, 1000]);
    assert_eq!(group.change(ThrottleLimits { iops_size: 5, ..ThrottleLimits::default() }), Err(LimitsError::SizeAlone));
    group.change(ThrottleLimits::default()).unwrap();
    let now = rig.world.now();
    rig.settle();
    assert_eq!(ended(&waiting), 10, "without limits nobody waits");
    assert!(rig.world.now() < now + SECOND / 1000, "and no time passes");
}

#[test]
fn what_was_used_under_a_high_limit_keeps_nobody_waiting_for_ages_under_a_low_one() {
    let mut rig = Rig::new(1);
    let bps =
        |avg| ThrottleLimits { bps: Rates { total: limit(avg), ..Rates::default() }, ..ThrottleLimits::default() };
    let group = group(bps(1 << 30));
    let disk = rig.disk_of(&group);
    let ended = rig.begin(0, &disk, Kind::Read, 64 << 20);
    rig.finish(vec![ended]);
    group.change(bps(1000)).unwrap();
    let ended = [(); 2].map(|()| rig.begin(0, &disk, Kind::Read, 500));
    assert_eq!(rig.finish(ended.into()), [0, 500]);
}

#[test]
fn a_request_that_is_given_up_keeps_nobody_behind_it_waiting() {
    let mut rig = Rig::new(2);
    let disk = rig.disk(iops(10, 0, 1));
    let before = [(); 2].map(|()| rig.begin(0, &disk, Kind::Read, 512));
    rig.finish(before.into());
    let given_up = rig.begin_revocable(0, &disk, Kind::Read, 512);
    rig.settle();
    let behind = rig.begin(1, &disk, Kind::Read, 512);
    rig.settle();
    given_up.take();
    assert_eq!(rig.finish(vec![behind]), [100]);
}
