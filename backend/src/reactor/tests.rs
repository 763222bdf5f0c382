//! What tasks and roots may rely on, over the simulated kernel and over the real one.

use super::*;
use crate::export::vhost::memory::{MemTable, MemoryFault, MemoryPin, RegionSpec};
use crate::io::sim::{Faults, PortId, World};
use crate::io::{AtOnce, Buf, FileId, FileInfo, FileTable, Memory, Segment, Uring, Workers};
use crate::mailbox::Ring;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

const FILE: FileId = FileId(0);

/// A reactor in a simulated machine with one disk.
fn simulated(seed: u64, content: Vec<u8>, faults: Faults) -> (World, PortId, Reactor) {
    let world = World::new(seed);
    world.add_disk(FILE, content, 1);
    world.set_faults(faults);
    let io = world.io(8);
    let port = io.port();
    (world, port, Reactor::new(Box::new(io)).unwrap())
}

/// A reactor over io_uring and a temporary file.
fn real(content: &[u8]) -> (File, Reactor) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    let table = Arc::new(FileTable::default());
    let fd = Arc::new(file.try_clone().unwrap().into());
    assert_eq!(table.insert(FileInfo { fd, block_device: false, direct: false, at_once: AtOnce::Nothing }), FILE);
    let ring = Uring::new(table, Workers::new()).unwrap();
    (file, Reactor::new(Box::new(ring)).unwrap())
}

#[test]
fn a_file_that_a_task_has_closed_is_closed_before_the_thread_sleeps() {
    let table = Arc::new(FileTable::default());
    let fd = Arc::new(tempfile::tempfile().unwrap().into());
    let closed = Arc::downgrade(&fd);
    let id = table.insert(FileInfo { fd, block_device: false, direct: false, at_once: AtOnce::Nothing });
    let mut reactor = Reactor::new(Box::new(Uring::new(table.clone(), Workers::new()).unwrap())).unwrap();
    let (io, ended) = (reactor.handle().clone(), Rc::new(Cell::new(false)));
    let end = ended.clone();
    reactor.handle().spawn(async move {
        let read = Op { kind: OpKind::Read, file: id, offset: 0, len: 512, memory: Buf::new(512).into() };
        let _ = io.run(read).await;
        table.remove(id);
        end.set(true);
    });
    turn_until(&mut reactor, || ended.get());
    let bell = reactor.bell();
    let seen = std::thread::spawn(move || {
        let limit = Instant::now() + Duration::from_secs(10);
        while closed.strong_count() > 0 && Instant::now() < limit {
            std::thread::yield_now();
        }
        let seen = closed.strong_count() == 0;
        bell.ringer().ring();
        seen
    });
    reactor.turn(Wait::Forever, || false, |_| ());
    assert!(seen.join().unwrap(), "the sleeping thread holds it");
}

/// Turns a reactor over the real kernel until `done`.
fn turn_until(reactor: &mut Reactor, done: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !done() {
        let pause = reactor.handle().read_clock() + 100_000_000;
        reactor.turn(Wait::Until(pause), || false, |_| ());
        assert!(Instant::now() < limit, "nothing comes");
    }
}

/// Turns a simulated reactor until `done`.
fn step_until(world: &World, port: PortId, reactor: &mut Reactor, done: impl Fn() -> bool) {
    while !done() {
        reactor.turn(Wait::Forever, || false, |_| ());
        assert!(done() || world.is_awake(port) || world.advance(), "asleep for ever");
    }
}

/// Runs a task to its end on a simulated reactor.
fn finish<T: 'static>(
    world: &World,
    port: PortId,
    reactor: &mut Reactor,
    task: impl AsyncFnOnce(Handle) -> T + 'static,
) -> T {
    let result = Rc::new(RefCell::new(None));
    let (handle, slot) = (reactor.handle().clone(), result.clone());
    reactor.handle().spawn(async move {
        let value = task(handle).await;
        *slot.borrow_mut() = Some(value);
    });
    step_until(world, port, reactor, || result.borrow().is_some());
    result.take().unwrap()
}

fn buf(bytes: &[u8]) -> Memory {
    let mut buf = Buf::new(bytes.len());
    buf.as_mut_slice().copy_from_slice(bytes);
    Memory::from(buf)
}

fn bytes(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(memory.len()).unwrap()];
    memory.copy_to(0, &mut bytes);
    bytes
}

#[test]
fn a_sleeping_reactor_is_woken_by_another_thread_for_its_task() {
    let (_file, mut reactor) = real(b"");
    let shared: Arc<std::sync::Mutex<(u32, Option<std::task::Waker>)>> = Arc::default();
    let ended = Rc::new(Cell::new(false));
    let (state, flag) = (shared.clone(), ended.clone());
    reactor.handle().spawn(async move {
        std::future::poll_fn(|cx| {
            let mut state = state.lock().unwrap();
            state.1 = Some(cx.waker().clone());
            if state.0 == 100 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        flag.set(true);
    });
    let waker = std::thread::spawn(move || {
        let mut count = 0;
        while count < 100 {
            let mut state = shared.lock().unwrap();
            if let Some(waker) = state.1.take() {
                (state.0, count) = (state.0 + 1, count + 1);
                drop(state);
                waker.wake();
            } else {
                drop(state);
                std::thread::yield_now();
            }
        }
    });
    let limit = Instant::now() + Duration::from_secs(20);
    while !ended.get() {
        // Without a deadline: a wake-up that is lost hangs here.
        reactor.turn(Wait::Forever, || false, |_| ());
        assert!(Instant::now() < limit);
    }
    waker.join().unwrap();
}

#[test]
fn a_reactor_does_not_sleep_on_what_its_tasks_have_just_ended() {
    let (world, port, mut reactor) = simulated(1, Vec::new(), Faults::default());
    let (waker, ended) = (Rc::new(RefCell::new(None)), Rc::new(Cell::new(false)));
    let (slot, flag) = (waker.clone(), ended.clone());
    reactor.handle().spawn(async move {
        let mut asked = false;
        std::future::poll_fn(|cx| {
            *slot.borrow_mut() = Some(cx.waker().clone());
            if std::mem::replace(&mut asked, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        flag.set(true);
    });
    while world.is_awake(port) {
        reactor.turn(Wait::Forever, || false, |_| ());
    }
    waker.take().expect("the task has run").wake();
    reactor.turn(Wait::Forever, || false, |_| ());
    assert!(ended.get() && world.is_awake(port), "the root could not have seen the end before it slept");
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines_and_not_before() {
    let (world, port, mut reactor) = simulated(1, Vec::new(), Faults::default());
    let order = Rc::new(RefCell::new(Vec::new()));
    for deadline in [30_000_000, 10_000_000, 20_000_000, 10_000_000, 0] {
        let (handle, order, world) = (reactor.handle().clone(), order.clone(), world.clone());
        reactor.handle().spawn(async move {
            handle.sleep_until(deadline).await;
            assert!(world.now() >= deadline);
            order.borrow_mut().push(deadline);
        });
    }
    step_until(&world, port, &mut reactor, || order.borrow().len() == 5);
    assert_eq!(*order.borrow(), [0, 10_000_000, 10_000_000, 20_000_000, 30_000_000]);
    assert!(!reactor.has_tasks());
}

#[test]
fn a_timer_of_the_real_clock_ends_a_sleep_that_has_no_other_end() {
    let (_file, mut reactor) = real(b"");
    let started = Instant::now();
    let handle = reactor.handle().clone();
    reactor.handle().spawn(async move {
        let deadline = handle.read_clock() + 20_000_000;
        handle.sleep_until(deadline).await;
    });
    while reactor.has_tasks() {
        reactor.turn(Wait::Forever, || false, |_| ());
    }
    let slept = started.elapsed();
    assert!((Duration::from_millis(20)..Duration::from_secs(10)).contains(&slept), "slept {slept:?}");
}

/// Guest memory from address 0 on.
fn guest_memory(len: u64) -> Arc<MemTable> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    let spec = RegionSpec { guest_addr: 0, len, user_addr: 0, file_offset: 0 };
    Arc::new(MemTable::new([(spec, file)], MemoryFault::new().unwrap()).unwrap())
}

/// Segments of these lengths, one after the other.
fn pieces(table: &MemTable, lens: &[usize]) -> Vec<Segment> {
    let mut at = 0;
    let segments = lens.iter().map(|len| {
        let start = table.translate(at, *len as u64).unwrap();
        at += *len as u64;
        Segment { start, len: *len }
    });
    segments.collect()
}

/// Memory of an operation whose end of life can be watched.
fn watched(len: usize) -> (Memory, Weak<MemTable>) {
    let table = guest_memory(len as u64);
    let watch = Arc::downgrade(&table);
    let segments = pieces(&table, &[len]);
    (MemoryPin::new(table).memory_of(segments).unwrap(), watch)
}

#[test]
fn an_operation_whose_future_is_dropped_keeps_its_memory_until_it_completes() {
    for seed in 0..50 {
        let (world, port, mut reactor) =
            simulated(seed, vec![9; 4096], Faults { long_delay: 1024, ..Faults::default() });
        let (memory, watch) = watched(4096);
        let handle = reactor.handle().clone();
        finish(&world, port, &mut reactor, async move |_| {
            let mut operation = Box::pin(handle.run(Op::read(FILE, 0, memory)));
            let once = std::future::poll_fn(|cx| Poll::Ready(operation.as_mut().poll(cx).is_pending()));
            assert!(once.await, "it takes a while");
        });
        while world.in_flight(port) > 0 {
            assert!(watch.upgrade().is_some(), "seed {seed}: freed while the kernel may write to it");
            reactor.turn(Wait::Forever, || false, |_| ());
            world.advance();
        }
        reactor.turn(Wait::No, || false, |_| ());
        assert!(watch.upgrade().is_none(), "seed {seed}: memory of an ended operation is kept");
    }
}

#[test]
fn an_orphan_of_the_real_kernel_gives_its_memory_back_and_its_slot_serves_the_next() {
    let (_file, mut reactor) = real(&[5; 8192]);
    let (memory, watch) = watched(4096);
    let handle = reactor.handle().clone();
    let answer = Rc::new(RefCell::new(Vec::new()));
    let sink = answer.clone();
    reactor.handle().spawn(async move {
        let mut operation = Box::pin(handle.run(Op::read(FILE, 0, memory)));
        std::future::poll_fn(|cx| Poll::Ready(operation.as_mut().poll(cx).is_pending())).await;
        drop(operation);
        let (op, result) = handle.run(Op::read(FILE, 4096, buf(&[0; 4096]))).await;
        assert_eq!(result, Ok(()));
        *sink.borrow_mut() = bytes(&op.memory);
    });
    turn_until(&mut reactor, || watch.upgrade().is_none() && !answer.borrow().is_empty());
    assert_eq!(*answer.borrow(), [5; 4096]);
}

#[test]
fn short_transfers_go_on_until_all_bytes_are_moved() {
    for seed in 0..50 {
        let (world, port, mut reactor) = simulated(seed, vec![0; 64 << 10], Faults { short: 900, ..Faults::default() });
        let data: Vec<u8> = (0..32 << 10).map(|at: u32| (at / 512 + 1).to_le_bytes()[0]).collect();
        let written = data.clone();
        let read = finish(&world, port, &mut reactor, async move |io| {
            let (_, result) = io.run(Op::write(FILE, 4096, buf(&written), false)).await;
            assert_eq!(result, Ok(()));
            let table = guest_memory(32 << 10);
            let segments = pieces(&table, &[512, 1536, 8192, 22528]);
            let memory = MemoryPin::new(table.clone()).memory_of(segments.clone()).unwrap();
            let (_, result) = io.run(Op::read(FILE, 4096, memory)).await;
            assert_eq!(result, Ok(()));
            bytes(&MemoryPin::new(table).memory_of(segments).unwrap())
        });
        assert_eq!(world.content(FILE)[4096..][..data.len()], data, "seed {seed}");
        assert_eq!(read, data, "seed {seed}");
    }
}

#[test]
fn a_read_across_the_end_of_the_file_is_filled_with_zeroes() {
    let (world, port, mut reactor) = simulated(3, vec![7; 1000], Faults { short: 500, ..Faults::default() });
    let ended = finish(&world, port, &mut reactor, async |io| io.run(Op::read(FILE, 512, buf(&[1; 1024]))).await);
    let expected = [vec![7; 488], vec![0; 536]].concat();
    assert!(ended.1.is_ok());
    assert_eq!(world.content(FILE).len(), 1000);
    // The reactor advances the memory past what was moved; the owned buffer has all of it.
    assert_eq!(ended.0.memory.into_buf().unwrap().as_slice(), expected);

    let (_file, mut reactor) = real(&[7; 1000]);
    let answer = Rc::new(RefCell::new(None));
    let (sink, handle) = (answer.clone(), reactor.handle().clone());
    reactor.handle().spawn(async move {
        let (op, result) = handle.run(Op::read(FILE, 512, buf(&[1; 1024]))).await;
        *sink.borrow_mut() = Some((op.memory.into_buf().unwrap().as_slice().to_vec(), result));
    });
    turn_until(&mut reactor, || answer.borrow().is_some());
    assert_eq!(answer.take().unwrap(), (expected, Ok(())));
}

#[test]
fn more_operations_than_the_kernel_takes_at_once_queue_and_never_fail() {
    let (_file, mut reactor) = real(&[1; 512 * 64]);
    let count = 5000;
    assert!(reactor.handle().room() < count);
    let done = Rc::new(RefCell::new(BTreeSet::new()));
    for cookie in 0..u32::try_from(count).unwrap() {
        let offset = u64::from(cookie % 64) * 512;
        reactor.handle().submit(Op::read(FILE, offset, buf(&[0; 512])), cookie);
    }
    assert_eq!(reactor.handle().room(), 0, "a full ring says so");
    let limit = Instant::now() + Duration::from_secs(30);
    while done.borrow().len() < count {
        reactor.turn(
            Wait::Forever,
            || false,
            |end| {
                assert_eq!(end.result, Ok(()));
                assert_eq!(bytes(&end.op.unwrap().memory), [1; 512]);
                assert!(done.borrow_mut().insert(end.cookie), "{} completed twice", end.cookie);
            },
        );
        assert!(Instant::now() < limit);
    }
    assert!(reactor.handle().room() > 0);
}

#[test]
fn a_root_hears_of_each_write_to_a_watched_eventfd_until_it_ends_the_watch() {
    let (_file, mut reactor) = real(b"");
    let fd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    reactor.handle().watch(fd.clone(), 77);
    for _ in 0..3 {
        rustix::io::write(&fd, &1u64.to_ne_bytes()).unwrap();
        let mut heard = 0;
        while heard == 0 {
            reactor.turn(Wait::Forever, || false, |done| heard += u32::from(done.cookie == 77 && done.op.is_none()));
        }
    }
    reactor.handle().unwatch(77);
    reactor.turn(Wait::No, || false, |_| ());
    rustix::io::write(&fd, &1u64.to_ne_bytes()).unwrap();
    let deadline = reactor.handle().read_clock() + 10_000_000;
    while reactor.handle().read_clock() < deadline {
        reactor.turn(Wait::Until(deadline), || false, |done| assert_ne!(done.cookie, 77, "the watch has ended"));
    }
}

#[test]
fn a_task_that_others_wake_too_often_still_gets_only_its_own_completion() {
    let (world, port, mut reactor) = simulated(5, vec![3; 8192], Faults::default());
    let polls = Arc::new(AtomicUsize::new(0));
    let count = polls.clone();
    let ended = finish(&world, port, &mut reactor, async move |io| {
        let mut operation = Box::pin(io.run(Op::read(FILE, 0, buf(&[0; 4096]))));
        std::future::poll_fn(|cx| {
            if count.fetch_add(1, Ordering::Relaxed) < 10 {
                cx.waker().wake_by_ref();
            }
            operation.as_mut().poll(cx)
        })
        .await
    });
    assert_eq!((bytes(&ended.0.memory), ended.1), (vec![3; 4096], Ok(())));
    assert!(polls.load(Ordering::Relaxed) > 10);
}
