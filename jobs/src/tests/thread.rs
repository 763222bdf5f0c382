//! The job thread as other threads see it.

use super::rig::*;
use crate::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidemark_backend::error::GraphError;
use tidemark_backend::io::{FileTable, Uring, Workers};
use tidemark_backend::reactor::Reactor;

fn reactor() -> Result<Reactor, GraphError> {
    let ring = Uring::new(Arc::new(FileTable::default()), Workers::new())?;
    Ok(Reactor::new(Box::new(ring)).unwrap())
}

fn start(registry: &Registry, options: JobOptions, steps: &[Step]) {
    let job = registry.create(options, Script::new(steps)).unwrap();
    registry.start(&job);
}

#[test]
fn the_thread_starts_with_the_first_question_and_answers_many_threads() {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = made.clone();
    let make = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        assert_eq!(std::thread::current().name(), Some("jobs"));
        reactor()
    };
    let handle = Engine::spawn(make, Arc::new(|_| ()));
    handle.cancel_all().unwrap();
    assert_eq!(made.load(Ordering::Relaxed), 0, "nothing was asked that needs a thread");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let handle = handle.clone();
            scope.spawn(move || {
                let id = format!("j{thread}");
                let own = id.clone();
                handle.ask(move |registry| start(registry, backup(&own), &[Step::Wait])).unwrap();
                handle.command(Family::Job, &id, Command::Pause).unwrap();
            });
        }
    });
    assert_eq!(handle.query_block_jobs().unwrap().len(), 4);
    assert_eq!(made.load(Ordering::Relaxed), 1);
    handle.cancel_all().unwrap();
    assert!(handle.query_jobs().unwrap().is_empty());
}

#[test]
fn quitting_returns_after_the_last_event() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = seen.clone();
    let handle = Engine::spawn(reactor, Arc::new(move |event| sink.lock().unwrap().push(text(&event))));
    handle.ask(|registry| start(registry, backup("j"), &[Step::Hang])).unwrap();
    handle.cancel_all().unwrap();
    assert_eq!(seen.lock().unwrap().last().unwrap(), "j null");
}

#[test]
fn a_real_clock_limits_a_real_job() {
    let (done, ended) = std::sync::mpsc::channel();
    let done = Mutex::new(done);
    let events: JobEventSink = Arc::new(move |event| {
        if matches!(event, JobEvent::Completed { .. }) {
            done.lock().unwrap().send(()).unwrap();
        }
    });
    let handle = Engine::spawn(reactor, events);
    let begun = Instant::now();
    handle.ask(|registry| start(registry, JobOptions { speed: 1000, ..backup("j") }, &[Step::Copy(100); 4])).unwrap();
    ended.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300), "four slices' worth in {:?}", begun.elapsed());
}

#[test]
fn a_thread_that_cannot_start_says_why_and_is_tried_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counter = tries.clone();
    let make = move || match counter.fetch_add(1, Ordering::Relaxed) {
        0 => Err(GraphError::Uring("kernel.io_uring_disabled is set".to_owned())),
        _ => reactor(),
    };
    let handle = Engine::spawn(make, Arc::new(|_| ()));
    let refused = handle.query_jobs().unwrap_err().to_string();
    assert!(refused.contains("kernel.io_uring_disabled"), "{refused}");
    assert!(handle.query_jobs().unwrap().is_empty());
}

#[test]
fn questions_to_a_thread_that_has_ended_are_errors_not_silence() {
    let handle = Engine::spawn(reactor, Arc::new(|_| ()));
    let crashed = handle.ask(|_: &Registry| -> () { panic!("a bug on the job thread, on purpose") });
    assert!(crashed.is_err());
    assert!(handle.query_jobs().is_err());
    assert!(handle.cancel_all().is_err());
}

#[test]
fn a_stepped_engine_answers_through_its_handle() {
    let mut rig = Rig::new();
    let handle = rig.engine.handle();
    let answer = handle.send_async(async |registry| registry.query_jobs().len()).unwrap();
    assert_eq!(answer.poll(), None);
    rig.settle();
    assert_eq!(answer.poll(), Some(0));
}
