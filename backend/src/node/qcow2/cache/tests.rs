//! What readers, writers and those who make room may do to each other: by model under loom, step by step without it.

use super::*;

/// A cache with one slot of one word, and table 0 in it.
fn with_one_slot(word: u64) -> Cache {
    let cache = Cache::new(1, 1, 2).unwrap();
    drop(cache.insert(0, &[word]).unwrap());
    cache
}

#[cfg(loom)]
mod model {
    use super::*;
    use crate::sync::Arc;

    /// Runs both on one cache, the first in a thread of its own.
    fn race<T: Send + 'static>(one: fn(&Cache) -> T, other: fn(&Cache), after: fn(&Cache, T)) {
        loom::model(move || {
            let cache = Arc::new(with_one_slot(10));
            let thread = {
                let cache = cache.clone();
                loom::thread::spawn(move || one(&cache))
            };
            other(&cache);
            let result = thread.join().unwrap();
            after(&cache, result);
        });
    }

    #[test]
    fn a_reader_never_gets_another_tables_word() {
        let makes_room = |cache: &Cache| {
            // If the other has it pinned, there is no room.
            let Ok(pin) = cache.insert(1, &[20]) else { return };
            drop(pin);
            let _ = cache.insert(0, &[12]);
        };
        race(|cache| cache.get(0, 0), makes_room, |_, seen| assert!(matches!(seen, None | Some(10 | 12)), "{seen:?}"));
    }

    #[test]
    fn what_is_pinned_stays() {
        let look = |cache: &Cache| cache.pin(0).map(|pin| (pin.word(0), pin.word(0)));
        let makes_room = |cache: &Cache| drop(cache.insert(1, &[20]));
        race(look, makes_room, |_, seen| assert!(matches!(seen, None | Some((10, 10))), "{seen:?}"));
    }

    #[test]
    fn what_was_set_is_not_given_up_before_it_was_taken() {
        let change = |cache: &Cache| cache.pin(0).map(|pin| pin.set(0, 11)).is_some();
        let makes_room = |cache: &Cache| drop(cache.insert(1, &[20]));
        race(change, makes_room, |cache, changed| assert!(!changed || cache.get(0, 0) == Some(11)));
    }

    #[test]
    fn what_is_set_while_a_table_is_taken_is_taken_then_or_the_next_time() {
        let copy = |cache: &Cache| cache.take_dirty(0).map(|(_, words)| words);
        loom::model(move || {
            let cache = Arc::new(with_one_slot(10));
            cache.pin(0).unwrap().set(0, 11);
            let thread = {
                let cache = cache.clone();
                loom::thread::spawn(move || cache.pin(0).unwrap().set(0, 12))
            };
            let first = copy(&cache);
            thread.join().unwrap();
            assert_eq!(copy(&cache).or(first), Some(vec![12]), "the last that is written is the last that was set");
        });
    }

    #[test]
    fn two_who_bring_the_same_table_in_share_it() {
        let bring = |cache: &Cache| cache.insert(1, &[20]).map(|pin| pin.word(0)).ok();
        loom::model(move || {
            let cache = Arc::new(Cache::new(1, 2, 2).unwrap());
            let thread = {
                let cache = cache.clone();
                loom::thread::spawn(move || bring(&cache))
            };
            assert_eq!(bring(&cache), Some(20));
            assert_eq!(thread.join().unwrap(), Some(20));
            let both = [0, 1].map(|slot| cache.clock().table(slot));
            assert_eq!(both.into_iter().flatten().collect::<Vec<_>>(), [1], "it is there once");
        });
    }

    #[test]
    fn a_table_that_there_is_room_for_now_is_found_with_its_own_words() {
        let grow = |cache: &Cache| cache.grow(2, 3) && cache.insert(2, &[30]).is_ok();
        let look = |cache: &Cache| {
            let seen = [cache.get(0, 0), cache.get(2, 0), cache.pin(2).map(|pin| pin.word(0))];
            assert!(matches!(seen, [Some(10), None | Some(30), None | Some(30)]), "{seen:?}");
        };
        race(grow, look, |cache, grown| {
            assert!(grown);
            assert_eq!([0, 2].map(|table| cache.get(table, 0)), [Some(10), Some(30)], "there is room for both");
        });
    }

    #[test]
    fn a_table_comes_into_a_slot_that_is_there() {
        let bring = |cache: &Cache| {
            let pin = cache.insert(1, &[20]).unwrap();
            pin.set(0, pin.word(0) + 1);
        };
        race(
            |cache| cache.grow(2, 2),
            bring,
            |cache, grown| {
                assert!(grown);
                assert_eq!((cache.get(1, 0), cache.dirty()), (Some(21), vec![1]));
            },
        );
    }
}

#[cfg(not(loom))]
mod steps {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_table_is_found_until_its_slot_is_needed() {
        let cache = Cache::new(2, 2, 5).unwrap();
        for (table, words) in [(3, [30, 31]), (1, [10, 11])] {
            assert_eq!(cache.get(table, 0), None);
            let pin = cache.insert(table, &words).unwrap();
            assert_eq!(
                (pin.word(1), cache.get(table, 0), cache.get(table, 1)),
                (words[1], Some(words[0]), Some(words[1]))
            );
        }
        drop(cache.insert(4, &[40, 41]).unwrap());
        assert_eq!(cache.get(4, 1), Some(41));
        let left = [3, 1].iter().filter(|table| cache.get(**table, 0).is_some()).count();
        assert_eq!(left, 1, "one of two had to go");
        assert_eq!(cache.get(5, 0), None, "there is no such table");
    }

    #[test]
    fn what_was_looked_at_since_the_hand_passed_stays_before_what_was_not() {
        for pinned in [false, true] {
            let cache = Cache::new(1, 3, 5).unwrap();
            (0..3).for_each(|table| drop(cache.insert(table, &[table as u64]).unwrap()));
            // All three have just come; the hand goes round once and takes the first.
            drop(cache.insert(3, &[3]).unwrap());
            assert_eq!(cache.get(0, 0), None);
            match pinned {
                true => drop(cache.pin(1)),
                false => drop(cache.get(1, 0)),
            }
            drop(cache.insert(4, &[4]).unwrap());
            let there = [1, 2, 3, 4].map(|table| cache.get(table, 0));
            assert_eq!(there, [Some(1), None, Some(3), Some(4)], "1 was next in line");
        }
    }

    #[test]
    fn the_pinned_and_the_changed_stay_and_then_there_is_no_room() {
        let cache = Cache::new(1, 2, 4).unwrap();
        let pin = cache.insert(0, &[1]).unwrap();
        cache.insert(1, &[2]).unwrap().set(0, 3);
        assert!(matches!(cache.insert(2, &[4]), Err(Full)));
        assert_eq!((cache.get(0, 0), cache.get(1, 0), cache.dirty()), (Some(1), Some(3), vec![1]));
        let (taken, words) = cache.take_dirty(1).unwrap();
        assert_eq!((words, cache.dirty()), (vec![3], vec![]));
        assert!(cache.take_dirty(1).is_none(), "it was taken");
        assert!(cache.insert(2, &[4]).is_err(), "who took it has not written it yet");
        taken.mark_dirty();
        drop(taken);
        assert_eq!(cache.dirty(), [1], "and could not");
        drop(cache.take_dirty(1));
        drop(cache.insert(2, &[4]).unwrap());
        assert_eq!((cache.get(0, 0), cache.get(1, 0), cache.get(2, 0)), (Some(1), None, Some(4)));
        drop(pin);
    }

    #[test]
    fn a_table_that_is_there_keeps_what_was_set() {
        let cache = with_one_slot(10);
        cache.pin(0).unwrap().set(0, 11);
        assert_eq!(cache.insert(0, &[12]).unwrap().word(0), 11);
    }

    #[test]
    fn threads_that_read_while_tables_come_and_go_see_only_their_own() {
        let (words, tables) = (64, 40);
        let cache = Cache::new(words, 4, tables).unwrap();
        let stop = AtomicBool::new(false);
        let word = |table: usize, index: usize| (table * 1000 + index) as u64;
        std::thread::scope(|scope| {
            for seed in 0..2 {
                let (cache, stop) = (&cache, &stop);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    while !stop.load(Ordering::Relaxed) {
                        let (table, index) = (random.usize(..tables), random.usize(..words));
                        assert!(cache.get(table, index).is_none_or(|seen| seen == word(table, index)));
                        if let Some(pin) = cache.pin(table) {
                            assert_eq!(pin.word(index), word(table, index));
                        }
                    }
                });
            }
            let mut random = fastrand::Rng::with_seed(7);
            for _ in 0..20_000 {
                let table = random.usize(..tables);
                let fresh: Vec<u64> = (0..words).map(|index| word(table, index)).collect();
                drop(cache.insert(table, &fresh));
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
