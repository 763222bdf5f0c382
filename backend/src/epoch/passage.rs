//! When everybody who may have looked something up before has ended, readers included: then it may be reused.
//!
//! Each seat counts the requests that pass by the parity of its *round*. A round moves on when the one before is empty
//! and nobody is inside the section with an old round in hand, so what was looked up in round `r` has ended when round
//! `r + 2` has begun. Holds nobody and waits for nobody: whoever wants to know asks again later.
//!
//! Flushes have rounds of their own: they find nothing, and one of an image gives back what others had found, so that it
//! must not wait for itself. But a node is not closed while one is under way.

use super::{Seat, barrier};
use crate::sync::{Arc, AtomicU64, Ordering};

/// What is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// All requests but flushes.
    Requests,
    /// Flushes.
    Flushes,
}

/// A seat's requests under way, by round.
#[derive(Default)]
pub(super) struct Passing {
    round: AtomicU64,
    counts: [AtomicU64; 2],
}

impl Seat {
    /// The half of the counters to be used by a request that enters now. Inside the section only.
    #[inline]
    pub fn round(&self, traffic: Traffic) -> usize {
        super::parity(self.passing(traffic).round.load(Ordering::Acquire))
    }

    /// Says how many requests of that half are under way; a first one inside the section in which it looks things up.
    #[inline]
    pub fn set_passing(&self, traffic: Traffic, half: usize, count: u64) {
        // Release: whoever sees the count at zero sees that they have ended.
        self.passing(traffic).counts[half & 1].store(count, Ordering::Release);
    }

    #[inline]
    fn passing(&self, traffic: Traffic) -> &Passing {
        match traffic {
            Traffic::Requests => &self.passing,
            Traffic::Flushes => &self.flushing,
        }
    }

    /// Begins the next round if the last one is over.
    fn move_on(&self, passing: &Passing, round: u64) {
        // Who is seen outside after it will see, once inside, this round or a later one, and whatever was changed
        // before somebody asked.
        barrier::heavy();
        let last = super::parity(round.wrapping_add(1));
        if !self.is_inside() && passing.counts[last].load(Ordering::Acquire) == 0 {
            // If it fails somebody else has moved it on, for the same reasons.
            let next = round.wrapping_add(1);
            let _ = passing.round.compare_exchange(round, next, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    fn has_passed(&self, traffic: Traffic, round: u64) -> bool {
        let passing = self.passing(traffic);
        for _ in 0..2 {
            let now = passing.round.load(Ordering::Acquire);
            if now.wrapping_sub(round) >= 2 {
                return true;
            }
            self.move_on(passing, now);
        }
        passing.round.load(Ordering::Acquire).wrapping_sub(round) >= 2
    }
}

/// The requests that were under way on some seats at one moment.
pub struct Passage(Vec<(Arc<Seat>, Traffic, u64)>);

impl Passage {
    /// Those under way now but flushes, and those that are looking something up now.
    pub fn of(seats: Vec<Arc<Seat>>) -> Self {
        Self(with_rounds(seats, Traffic::Requests).collect())
    }

    /// The same with flushes.
    pub fn with_flushes(seats: Vec<Arc<Seat>>) -> Self {
        let flushes = with_rounds(seats.clone(), Traffic::Flushes);
        Self(with_rounds(seats, Traffic::Requests).chain(flushes).collect())
    }

    /// Whether they have all ended.
    pub fn is_over(&mut self) -> bool {
        self.0.retain(|(seat, traffic, round)| !seat.has_passed(*traffic, *round));
        self.0.is_empty()
    }
}

fn with_rounds(seats: Vec<Arc<Seat>>, traffic: Traffic) -> impl Iterator<Item = (Arc<Seat>, Traffic, u64)> {
    seats.into_iter().map(move |seat| {
        let round = seat.passing(traffic).round.load(Ordering::Acquire);
        (seat, traffic, round)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(loom)]
    mod model {
        use super::*;
        use loom::sync::atomic::{AtomicBool, AtomicUsize};
        use tidemark_cbt::{Bitmap, Granularity};

        /// A cluster, whether a table leads there, and whether somebody is at it.
        struct Cluster {
            mapped: AtomicBool,
            content: AtomicUsize,
            used: AtomicBool,
        }

        fn request(seat: &Seat, cluster: &Cluster) {
            if !seat.enter() {
                return;
            }
            let half = seat.round(Traffic::Requests);
            seat.set_passing(Traffic::Requests, half, 1);
            let mapped = cluster.mapped.load(Ordering::Relaxed);
            seat.leave();
            if mapped {
                cluster.used.store(true, Ordering::Relaxed);
                assert_eq!(cluster.content.load(Ordering::Relaxed), 1, "another's content");
                cluster.used.store(false, Ordering::Relaxed);
            }
            seat.set_passing(Traffic::Requests, half, 0);
        }

        #[test]
        fn nothing_is_reused_while_a_request_that_found_it_is_under_way() {
            loom::model(|| {
                let seat = Arc::new(Seat::default());
                let cluster = Arc::new(Cluster {
                    mapped: AtomicBool::new(true),
                    content: AtomicUsize::new(1),
                    used: AtomicBool::new(false),
                });
                let guest = {
                    let (seat, cluster) = (seat.clone(), cluster.clone());
                    loom::thread::spawn(move || request(&seat, &cluster))
                };
                // Somebody else who waits: rounds move on by themselves.
                Passage::of(vec![seat.clone()]).is_over();
                cluster.mapped.store(false, Ordering::Relaxed);
                if Passage::of(vec![seat]).is_over() {
                    assert!(!cluster.used.load(Ordering::Relaxed), "still at it");
                    cluster.content.store(2, Ordering::Relaxed);
                }
                guest.join().unwrap();
            });
        }

        /// A change as a mirror sees it: marked inside the section, then made.
        fn change(seat: &Seat, dirty: &Bitmap, disk: &AtomicUsize) {
            if !seat.enter() {
                return;
            }
            let half = seat.round(Traffic::Requests);
            seat.set_passing(Traffic::Requests, half, 1);
            dirty.mark_live(0, 1);
            seat.leave();
            disk.store(2, Ordering::Relaxed);
            seat.set_passing(Traffic::Requests, half, 0);
        }

        #[test]
        fn what_is_taken_from_a_bitmap_has_landed_when_a_passage_from_then_on_is_over() {
            loom::model(|| {
                let seat = Arc::new(Seat::default());
                let dirty = Arc::new(Bitmap::new(512, Granularity::new(512).unwrap()).unwrap());
                let disk = Arc::new(AtomicUsize::new(1));
                // By a change that has ended.
                dirty.mark_live(0, 1);
                let guest = {
                    let (seat, dirty, disk) = (seat.clone(), dirty.clone(), disk.clone());
                    loom::thread::spawn(move || change(&seat, &dirty, &disk))
                };
                dirty.take(0, 1);
                let copied = Passage::of(vec![seat]).is_over().then(|| disk.load(Ordering::Relaxed));
                guest.join().unwrap();
                if let Some(copied) = copied {
                    let is_last = copied == disk.load(Ordering::Relaxed);
                    assert!(is_last || dirty.is_marked(0), "a change is neither copied nor marked");
                }
            });
        }
    }

    #[cfg(not(loom))]
    mod steps {
        use super::*;

        #[test]
        fn a_passage_lasts_until_the_requests_from_before_have_ended() {
            let seat = Seat::new(None);
            seat.set_passing(Traffic::Requests, seat.round(Traffic::Requests), 1);
            let mut passage = Passage::of(vec![seat.clone()]);
            assert!(!passage.is_over());
            let later = seat.round(Traffic::Requests);
            seat.set_passing(Traffic::Requests, later, 1);
            assert!(!passage.is_over());
            seat.set_passing(Traffic::Requests, 0, 0);
            assert!(passage.is_over(), "those that came later do not matter");
            assert!(!Passage::of(vec![seat.clone()]).is_over());
            seat.set_passing(Traffic::Requests, later, 0);
            assert!(Passage::of(vec![seat]).is_over());
        }

        #[test]
        fn who_is_inside_may_have_looked_something_up() {
            let seat = Seat::new(None);
            assert!(seat.enter());
            let mut passage = Passage::of(vec![seat.clone()]);
            assert!(!passage.is_over());
            seat.leave();
            assert!(passage.is_over());
        }

        #[test]
        fn of_two_who_wait_neither_is_let_through_by_the_other() {
            let seat = Seat::new(None);
            seat.set_passing(Traffic::Requests, 0, 1);
            let (mut one, mut other) = (Passage::of(vec![seat.clone()]), Passage::of(vec![seat.clone()]));
            assert!(!one.is_over() && !other.is_over() && !one.is_over());
            seat.set_passing(Traffic::Requests, 0, 0);
            assert!(one.is_over() && other.is_over());
        }
    }
}
