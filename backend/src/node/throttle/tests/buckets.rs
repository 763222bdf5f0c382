//! When requests pass: by hand, and for any limits.

use super::rig::{Rig, iops};
use crate::node::Kind;
use crate::node::throttle::bucket::{Bucket, Limit, UNIT};
use crate::node::throttle::{Rates, ThrottleLimits};
use proptest::prelude::*;

fn bps(avg: u64, max: u64, max_length: u64) -> ThrottleLimits {
    let total = Limit { avg, max, max_length };
    ThrottleLimits { bps: Rates { total, ..Rates::default() }, ..ThrottleLimits::default() }
}

/// The times in ms at which `count` reads of `len` bytes pass that all come at once.
fn times(limits: ThrottleLimits, count: usize, len: u64) -> Vec<u64> {
    let mut rig = Rig::new(1);
    let disk = rig.disk(limits);
    let ended = (0..count).map(|_| rig.begin(0, &disk, Kind::Read, len)).collect();
    rig.finish(ended)
}

#[test]
fn short_bursts_of_a_tenth_of_a_second_pass_and_the_rest_keeps_the_rate() {
    // One request's worth may be used at once, and what goes over it is paid for afterwards.
    assert_eq!(times(iops(10, 0, 1), 6, 512), [0, 0, 100, 200, 300, 400]);
    // A hundred bytes may be used at once. 500 bytes take half a second.
    assert_eq!(times(bps(1000, 0, 1), 4, 500), [0, 400, 900, 1400]);
}

#[test]
fn a_burst_of_one_second_is_used_as_fast_as_it_can_be() {
    let times = times(iops(10, 20, 1), 24, 512);
    assert_eq!(times[..21], [0; 21]);
    assert_eq!(times[21..], [100, 200, 300]);
}

#[test]
fn a_longer_burst_has_its_own_rate_until_it_is_used_up() {
    // Three at once, then 20 a second. In time t so 3 + 20 t are used and 10 t run out, until 60 are over: that is the 119th.
    let times = times(iops(10, 20, 3), 123, 512);
    assert_eq!(times[..5], [0, 0, 0, 50, 100]);
    assert_eq!(times[117..], [5750, 5800, 5900, 6000, 6100, 6200]);
}

#[test]
fn large_requests_count_as_several_if_a_size_is_given_and_small_ones_as_one() {
    let limits = ThrottleLimits { iops_size: 4096, ..iops(10, 0, 1) };
    assert_eq!(times(limits, 4, 16384), [0, 300, 700, 1100]);
    assert_eq!(times(limits, 4, 512), [0, 0, 100, 200]);
    // One and a half.
    assert_eq!(times(limits, 4, 6144), [0, 50, 200, 350]);
}

#[test]
fn the_tightest_of_several_limits_counts() {
    let limits = ThrottleLimits { bps: bps(1000, 0, 1).bps, ..iops(10, 0, 1) };
    assert_eq!(times(limits, 3, 500), [0, 400, 900]);
    assert_eq!(times(limits, 4, 10), [0, 0, 100, 200]);
}

proptest! {
    /// In no time more passes than the limit allows for it, however it comes; and a moment earlier it would have been more.
    #[test]
    fn what_passes_is_what_the_limit_allows_and_nobody_waits_longer_than_that(
        avg in 1u64..1_000_000,
        burst in prop::option::of((1u64..50, 1u64..20)),
        sizes in prop::collection::vec(1u64..2_000_000, 1..60),
        pauses in prop::collection::vec(0u64..3_000_000_000, 60),
    ) {
        let (max, max_length) = burst.map_or((0, 1), |(factor, length)| (avg * factor, length));
        let mut bucket = Bucket::default();
        bucket.change(Limit { avg, max, max_length });
        let at_once = if max > 0 { u128::from(max * max_length) * UNIT } else { u128::from(avg) * UNIT / 10 };
        let (mut now, mut passed) = (0u64, 0u128);
        for (size, pause) in sizes.into_iter().zip(pauses) {
            now += pause;
            bucket.leak(pause);
            let wait = bucket.wait();
            if wait > 0 {
                let mut early = bucket;
                early.leak(wait - 1);
                prop_assert_eq!(early.wait(), 1);
            }
            bucket.leak(wait);
            now += wait;
            prop_assert_eq!(bucket.wait(), 0);
            prop_assert!(passed <= at_once + u128::from(avg) * u128::from(now), "{} too many by {}", passed, now);
            bucket.take(u128::from(size) * UNIT);
            passed += u128::from(size) * UNIT;
        }
    }
}
