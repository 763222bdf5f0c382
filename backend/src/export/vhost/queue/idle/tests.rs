//! When a queue polls, told as what a guest does and when; times in nanoseconds.

use super::{Idle, Polling};

/// The default of `poll-max-ns`.
const MAX: u64 = 8_192;

/// A queue of depth 1 and the time.
struct Scene {
    idle: Idle,
    now: u64,
}

impl Scene {
    fn new(max_ns: u64) -> Self {
        Self { idle: Idle::new(Polling { max_ns }), now: 1_000_000 }
    }

    /// One request of a guest that thinks for `think` after its last answer; true if the queue was still looking then.
    fn request(&mut self, think: u64, device: u64) -> bool {
        let answered = self.now;
        let mut awake = true;
        while awake && self.now < answered + think {
            self.now += 100;
            awake = self.idle.polls(self.now);
        }
        self.now = answered + think;
        self.idle.fetched(1, self.now);
        assert!(!self.idle.polls(self.now), "all the guest's requests are in flight: nothing to look for");
        self.now += device;
        self.idle.published(1, self.now);
        awake
    }
}

#[test]
fn a_guest_that_answers_at_once_is_polled_for_however_slow_the_device_is() {
    for device in [0, 10_000, 1_000_000] {
        let mut scene = Scene::new(MAX);
        for _ in 0..3 {
            scene.request(3_000, device);
        }
        assert!((0..100).all(|_| scene.request(3_000, device)), "device {device}");
    }
}

#[test]
fn a_wait_as_long_as_a_wake_up_is_worth_polling_for() {
    let mut scene = Scene::new(MAX);
    // Asleep, the wake-up of both sides adds to the guest's time: longer than the longest polling itself.
    scene.request(20_000, 10_000);
    scene.request(20_000, 10_000);
    assert!(scene.request(3_000, 10_000), "polling starts");
}

#[test]
fn one_long_pause_ends_polling_until_the_guest_is_fast_again() {
    let mut scene = Scene::new(MAX);
    for _ in 0..5 {
        scene.request(1_000, 0);
    }
    assert!(scene.request(1_000, 0));
    assert!(!scene.request(1_000_000, 0));
    assert!(!scene.idle.polls(scene.now), "a guest that paused is not polled for");
    scene.request(1_000, 0);
    assert!(scene.request(1_000, 0));
}

#[test]
fn an_idle_guest_is_looked_at_for_one_window_only() {
    let mut scene = Scene::new(MAX);
    for _ in 0..5 {
        scene.request(1_000, 0);
    }
    let answered = scene.now;
    while scene.idle.polls(scene.now) {
        scene.now += 100;
    }
    assert!(scene.now - answered <= MAX);
    scene.now += 1_000_000_000;
    assert!(!scene.idle.polls(scene.now));
}

#[test]
fn without_polling_the_queue_sleeps_at_once() {
    let mut scene = Scene::new(0);
    assert!((0..10).all(|_| !scene.request(200, 0)));
}

#[test]
fn a_queue_waits_for_as_many_requests_as_it_answered() {
    let mut idle = Idle::new(Polling { max_ns: MAX });
    for now in [0, 10_000, 20_000] {
        idle.published(4, now);
        assert!(!idle.polls(now + 9_000));
        idle.fetched(4, now + 9_500);
    }
    idle.published(4, 30_000);
    idle.fetched(3, 31_000);
    assert!(idle.polls(31_100), "one is missing");
    idle.fetched(1, 31_200);
    assert!(!idle.polls(31_300), "all are there");
}
