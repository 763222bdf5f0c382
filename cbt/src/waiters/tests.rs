//! No wake-up is lost.

#[cfg(loom)]
mod model {
    use crate::sync::{AtomicU64, Ordering};
    use crate::{ChunkState, CopyMap, Granularity, Waiters};
    use loom::sync::Arc;

    const CHUNK: u64 = 512;

    #[test]
    fn whoever_waits_for_a_chunk_sees_it_done_or_is_woken() {
        loom::model(|| {
            let map = CopyMap::new(CHUNK, Granularity::new(CHUNK).unwrap()).unwrap();
            map.owe_all();
            let run = map.claim(0, CHUNK, CHUNK).unwrap();
            let shared = Arc::new((map, Waiters::new(), AtomicU64::new(0)));
            let copier = {
                let shared = shared.clone();
                loom::thread::spawn(move || {
                    let (map, waiters, woken) = &*shared;
                    map.done(run);
                    waiters.wake(0..1, |()| {
                        woken.fetch_add(1, Ordering::Relaxed);
                    });
                })
            };
            let (map, waiters, woken) = &*shared;
            waiters.add(0, ());
            let seen = map.state(0) == ChunkState::Done;
            copier.join().unwrap();
            assert!(seen || woken.load(Ordering::Relaxed) == 1, "asleep beside a chunk that is done");
        });
    }
}

#[cfg(not(loom))]
#[test]
fn those_of_other_chunks_sleep_on_unless_all_are_meant() {
    let waiters = crate::Waiters::new();
    let woken = std::cell::RefCell::new(Vec::new());
    for chunk in 0..4u64 {
        waiters.add(chunk, chunk);
    }
    waiters.wake(1..3, |chunk| woken.borrow_mut().push(chunk));
    assert_eq!(*woken.borrow(), [1, 2]);
    waiters.wake_all(|chunk| woken.borrow_mut().push(chunk));
    assert_eq!(*woken.borrow(), [1, 2, 0, 3]);
    waiters.wake_all(|chunk| woken.borrow_mut().push(chunk));
    assert_eq!(woken.borrow().len(), 4, "nobody is woken twice");
}

#[cfg(not(loom))]
#[test]
fn whoever_has_left_is_not_woken() {
    let waiters = crate::Waiters::new();
    let woken = std::cell::RefCell::new(Vec::new());
    waiters.add(5, 'a');
    waiters.add(5, 'b');
    waiters.remove(5, |waiter| *waiter == 'a');
    waiters.wake_all(|waiter| woken.borrow_mut().push(waiter));
    assert_eq!(*woken.borrow(), ['b']);
}
