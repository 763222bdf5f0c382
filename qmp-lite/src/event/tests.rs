//! Who gets which event, and when.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemark_backend::error::IoError;
use tidemark_backend::event as backend;
use tidemark_jobs::{ErrorAction, JobEvent, JobFacts, JobKind, Operation, Status};

use super::rate::{PERIOD, RateLimit};
use super::{EVENTS, Event, EventBus, Listener};

#[derive(Default)]
struct Recorder(Mutex<Vec<Value>>);

impl Listener for Recorder {
    fn event(&self, event: &Value) {
        self.0.lock().unwrap().push(event.clone());
    }
}

fn deleted(id: &str) -> Event {
    backend::Event::ExportDeleted { id: id.into() }.into()
}

fn io_error(export: &str, error: IoError) -> Event {
    let (export, node) = (export.into(), "disk".into());
    backend::Event::IoError { export, node, write: true, error }.into()
}

#[test]
fn every_listener_gets_every_event_with_its_time() {
    let bus = EventBus::new();
    let recorders = [Arc::new(Recorder::default()), Arc::new(Recorder::default())];
    recorders.iter().for_each(|recorder| bus.listen(recorder));
    bus.listen(&Arc::new(Recorder::default()));
    bus.send(deleted("e"));
    bus.send(deleted("f"));
    for recorder in &recorders {
        let events = recorder.0.lock().unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(events[1]["event"], "BLOCK_EXPORT_DELETED");
        assert_eq!(events[1]["data"], json!({"id": "f"}));
        assert!(events[1]["timestamp"]["seconds"].as_u64().unwrap() > 1_600_000_000);
        assert!(events[1]["timestamp"]["microseconds"].as_u64().unwrap() < 1_000_000);
    }
}

#[test]
fn a_failed_request_is_reported_with_its_export_its_node_and_the_reason() {
    let bus = EventBus::new();
    let recorder = Arc::new(Recorder::default());
    bus.listen(&recorder);
    bus.send(io_error("vda", IoError::NoSpace));
    let events = recorder.0.lock().unwrap();
    let expected = json!({
        "qom-path": "vda", "device": "vda", "node-name": "disk", "operation": "write",
        "action": "report", "nospace": true, "reason": "No space left on device",
    });
    assert_eq!(events[0]["data"], expected);
}

#[test]
fn of_many_io_errors_of_one_export_the_first_and_the_last_of_a_second_are_sent() {
    let mut limit = RateLimit::default();
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let (first, last) = (io_error("a", IoError::Io), io_error("a", IoError::NoSpace));
    assert_eq!(limit.admit(first.clone(), at(0)), Some(first.clone()));
    assert_eq!(limit.admit(first.clone(), at(1)), None);
    assert_eq!(limit.admit(last.clone(), at(2)), None);
    assert!(limit.admit(io_error("b", IoError::Io), at(3)).is_some(), "another export");
    assert!(limit.admit(deleted("a"), at(4)).is_some(), "another event");
    assert_eq!(limit.next(), Some(start + PERIOD));
    assert_eq!(limit.due(at(999)), vec![]);
    assert_eq!(limit.due(at(1003)), vec![last]);
    assert_eq!(limit.admit(first.clone(), at(1500)), None, "the held one began a new second");
    assert_eq!(limit.due(at(2003)), vec![first]);
    assert_eq!(limit.due(at(3003)), vec![]);
    assert_eq!(limit.next(), None, "nothing is remembered of quiet exports");
}

#[test]
fn a_held_event_is_sent_although_no_other_follows() {
    let bus = EventBus::new();
    let recorder = Arc::new(Recorder::default());
    bus.listen(&recorder);
    (0..50).for_each(|_| bus.send(io_error("a", IoError::Io)));
    assert_eq!(recorder.0.lock().unwrap().len(), 1);
    let deadline = Instant::now() + 10 * PERIOD;
    while recorder.0.lock().unwrap().len() < 2 {
        assert!(Instant::now() < deadline, "the held event never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn events_of_jobs_have_the_names_and_members_of_qemu() {
    let id = || "j".to_owned();
    let facts = || JobFacts { kind: JobKind::Backup, id: id(), len: 4096, offset: 512, speed: 7 };
    let told = json!({"type": "backup", "device": "j", "len": 4096, "offset": 512, "speed": 7});
    let mut failed = told.clone();
    failed["error"] = json!("Input/output error");
    let error = Some("Input/output error".to_owned());
    let stopped = JobEvent::Error { id: id(), operation: Operation::Write, action: ErrorAction::Stop };
    let cases = [
        (
            JobEvent::StatusChange { id: id(), status: Status::Standby },
            "JOB_STATUS_CHANGE",
            json!({"id": "j", "status": "standby"}),
        ),
        (JobEvent::Completed { job: facts(), error: None }, "BLOCK_JOB_COMPLETED", told.clone()),
        (JobEvent::Completed { job: facts(), error }, "BLOCK_JOB_COMPLETED", failed),
        (JobEvent::Cancelled(facts()), "BLOCK_JOB_CANCELLED", told.clone()),
        (JobEvent::Ready(facts()), "BLOCK_JOB_READY", told),
        (
            JobEvent::Pending { kind: JobKind::Backup, id: id() },
            "BLOCK_JOB_PENDING",
            json!({"type": "backup", "id": "j"}),
        ),
        (stopped, "BLOCK_JOB_ERROR", json!({"device": "j", "operation": "write", "action": "stop"})),
    ];
    for (event, name, data) in cases {
        let event = Event::from(event);
        assert_eq!((event.name(), event.data()), (name, data));
        assert!(EVENTS.iter().any(|kind| kind.name == name), "{name} is not in the schema");
    }
}

#[test]
fn events_of_jobs_are_never_held_back() {
    let bus = EventBus::new();
    let recorder = Arc::new(Recorder::default());
    bus.listen(&recorder);
    for _ in 0..3 {
        let (operation, action) = (Operation::Read, ErrorAction::Ignore);
        bus.send(JobEvent::Error { id: "j".into(), operation, action }.into());
    }
    assert_eq!(recorder.0.lock().unwrap().len(), 3);
}
