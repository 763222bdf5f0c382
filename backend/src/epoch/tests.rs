//! What a stamp sees and what a grace promises: by model under loom, step by step without it.

use super::*;

#[cfg(loom)]
mod model {
    use super::*;
    use loom::sync::atomic::AtomicUsize;

    /// Two sets of marks; `current` is the pointer that a hold swaps.
    #[derive(Default)]
    struct Sets {
        current: AtomicUsize,
        marks: [AtomicUsize; 2],
    }

    /// One request: stamped, counted, marked in the set it saw, counted off. Which set that was, unless it was held.
    fn request(seat: &Seat, sets: &Sets) -> Option<usize> {
        if !seat.enter() {
            return None;
        }
        let epoch = seat.epoch();
        let set = sets.current.load(Ordering::Relaxed);
        seat.set_changes(parity(epoch), 1);
        assert_eq!(set, sets.current.load(Ordering::Relaxed), "a pointer moved inside the section");
        seat.leave();
        let old = sets.marks[set].load(Ordering::Relaxed);
        sets.marks[set].store(old + 1, Ordering::Relaxed);
        seat.set_changes(parity(epoch), 0);
        Some(set)
    }

    /// Nobody waits here for anybody: a model of a loop that waits has no end. Every order in which a wait would have
    /// ended is among those tried.
    #[test]
    fn after_grace_the_old_set_has_every_mark_it_will_ever_get() {
        loom::model(|| {
            let (seat, sets) = (Arc::new(Seat::default()), Arc::new(Sets::default()));
            let guest = {
                let (seat, sets) = (seat.clone(), sets.clone());
                loom::thread::spawn(move || request(&seat, &sets))
            };
            let Some(hold) = Hold::begin(vec![seat.clone()], || false) else { return };
            sets.current.store(1, Ordering::Relaxed);
            let grace = hold.release();
            let frozen = grace.is_over().then(|| sets.marks[0].load(Ordering::Relaxed));
            let set = guest.join().unwrap();
            assert!(frozen.is_none_or(|frozen| frozen == usize::from(set == Some(0))), "marked after grace");
        });
    }

    #[test]
    fn who_comes_after_a_hold_sees_what_it_changed() {
        loom::model(|| {
            let (seat, sets) = (Arc::new(Seat::default()), Arc::new(Sets::default()));
            let holder = {
                let (seat, sets) = (seat.clone(), sets.clone());
                loom::thread::spawn(move || {
                    let Some(hold) = Hold::begin(vec![seat], || false) else { return };
                    sets.current.store(1, Ordering::Relaxed);
                    hold.release();
                })
            };
            if seat.enter() {
                let (epoch, set) = (seat.epoch(), sets.current.load(Ordering::Relaxed));
                assert_eq!(epoch, set as u64, "the epoch moves with the pointers");
                seat.leave();
            }
            holder.join().unwrap();
        });
    }
}

#[cfg(not(loom))]
mod steps {
    use super::*;

    fn begin(seat: &Arc<Seat>) -> Option<Hold> {
        Hold::begin(vec![seat.clone()], || false)
    }

    #[test]
    fn a_hold_waits_for_whoever_is_inside_and_for_nobody_else() {
        let seat = Seat::new(None);
        assert!(seat.enter());
        assert!(begin(&seat).is_none(), "inside");
        seat.leave();
        assert!(seat.enter(), "a hold that failed holds nobody");
        seat.set_changes(0, 1);
        seat.leave();
        let hold = begin(&seat).expect("a request under way is no reason to wait");
        assert!(!seat.enter());
        drop(hold);
        assert!(seat.enter());
    }

    #[test]
    fn grace_lasts_until_the_requests_from_before_have_ended() {
        let seat = Seat::new(None);
        seat.set_changes(0, 2);
        let grace = begin(&seat).unwrap().release();
        assert_eq!(seat.epoch(), 1);
        seat.set_changes(1, 1);
        assert!(!grace.is_over());
        seat.set_changes(0, 1);
        assert!(!grace.is_over());
        seat.set_changes(0, 0);
        assert!(grace.is_over(), "those from after the hold do not matter");
    }

    #[test]
    fn a_grace_that_was_over_when_the_next_hold_came_is_over_for_whoever_looks_late() {
        let seat = Seat::new(None);
        seat.set_changes(0, 1);
        let first = begin(&seat).unwrap().release();
        // It begins after the hold, and looks only now and then whether those from before have ended.
        seat.set_changes(1, 1);
        assert!(!first.is_over());
        seat.set_changes(0, 0);
        let second = begin(&seat).unwrap().release();
        assert!(first.is_over(), "or who waits for the first would wait for itself");
        assert!(!second.is_over());
    }

    #[test]
    fn threads_that_stamp_are_never_inside_a_hold() {
        let seat = Seat::new(None);
        let (stop, shared, entered) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if seat.enter() {
                        let seen = shared.load(Ordering::Relaxed);
                        std::hint::spin_loop();
                        assert_eq!(seen, shared.load(Ordering::Relaxed));
                        seat.leave();
                        entered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            while entered.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            for _ in 0..2000 {
                let hold = Hold::begin(vec![seat.clone()], || true).expect("patient");
                for _ in 0..100 {
                    shared.store(shared.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
                hold.release();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(seat.epoch(), 2000);
    }
}
