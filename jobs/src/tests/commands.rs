//! What commands answer: QEMU's texts and classes, in the order in which it checks.

use super::rig::*;
use crate::*;
use tidemark_backend::error::IoError;

#[test]
fn jobs_that_are_not_there_are_missed_in_each_familys_words() {
    let rig = Rig::new();
    let check = |family, text: &str, class| {
        let registry = rig.engine.registry().clone();
        let error = futures_now(async move { registry.command(family, "no", Command::Pause).await }).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.class()), (text, class));
    };
    check(Family::Job, "Job not found", ErrorClass::Generic);
    check(Family::BlockJob, "Block job 'no' not found", ErrorClass::DeviceNotActive);
}

/// The result of a future that waits for nothing.
fn futures_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn ids_are_identifiers_and_used_once() {
    let mut rig = Rig::new();
    let script = Script::new(&[Step::Wait]);
    let refusal =
        |rig: &Rig, id: &str| rig.engine.registry().create(backup(id), script.clone()).err().unwrap().to_string();
    for id in ["", "1bad", "#bad", "a b", "-a", "_a", "é", "aé", "a/b"] {
        assert_eq!(refusal(&rig, id), format!("Invalid job ID '{id}'"));
    }
    for id in ["a", "Z9", "a-b.c_d"] {
        assert!(rig.engine.registry().check_id(id).is_ok(), "{id}");
    }
    assert!(rig.events().is_empty());
    rig.start(backup("j1"), &script);
    assert_eq!(refusal(&rig, "j1"), "Job ID 'j1' already in use");
    rig.job("j1", Command::Cancel { force: true }).unwrap();
    assert!(rig.engine.registry().check_id("j1").is_ok());
}

#[test]
fn a_running_job_refuses_what_a_running_job_refuses() {
    let mut rig = Rig::new();
    rig.start(backup("j"), &Script::new(&[Step::Wait]));
    let refused = |verb: &str| format!("Job 'j' in state 'running' cannot accept command verb '{verb}'");
    assert_eq!(rig.block_job("j", Command::Complete).unwrap_err(), refused("complete"));
    assert_eq!(rig.job("j", Command::Finalize).unwrap_err(), refused("finalize"));
    assert_eq!(rig.job("j", Command::Dismiss).unwrap_err(), refused("dismiss"));
    assert_eq!(
        rig.block_job("j", Command::Change(mirror::CopyMode::Background)).unwrap_err(),
        "Job type does not support change"
    );
    assert_eq!(rig.job("j", Command::Resume).unwrap_err(), "Can't resume a job that was not paused");
    let negative = rig.block_job("j", Command::SetSpeed(-1));
    assert_eq!(negative.unwrap_err(), "Parameter 'speed' expects a non-negative value");
    rig.job("j", Command::Pause).unwrap();
    assert_eq!(rig.block_job("j", Command::Pause).unwrap_err(), "Job is already paused");
}

#[test]
fn a_pending_job_refuses_what_a_pending_job_refuses() {
    let mut rig = Rig::new();
    rig.start(JobOptions { auto_finalize: false, ..backup("j") }, &Script::new(&[]));
    let refused = |verb: &str| format!("Job 'j' in state 'pending' cannot accept command verb '{verb}'");
    // The verb is looked at before the speed, but after whether there is a pause to resume from.
    assert_eq!(rig.block_job("j", Command::SetSpeed(-1)).unwrap_err(), refused("set-speed"));
    assert_eq!(rig.job("j", Command::Resume).unwrap_err(), "Can't resume a job that was not paused");
    assert_eq!(rig.block_job("j", Command::Pause).unwrap_err(), refused("pause"));
    assert_eq!(rig.block_job("j", Command::Change(mirror::CopyMode::Background)).unwrap_err(), refused("change"));
}

#[test]
fn a_ready_job_that_was_cancelled_cannot_be_completed() {
    let mut rig = Rig::new();
    let options = JobOptions { soft_cancel: true, ..JobOptions::new("m", JobKind::Mirror) };
    let script = Script::new(&[Step::Ready, Step::Deaf]);
    rig.start(options, &script);
    rig.block_job("m", Command::Cancel { force: false }).unwrap();
    let refused = rig.job("m", Command::Complete);
    assert_eq!(refused.unwrap_err(), "The active block job 'm' cannot be completed");
    script.tell();
    rig.settle();
    assert_eq!(rig.events().last().unwrap(), "m null");
}

#[test]
fn a_paused_job_is_shown_as_paused_and_idle() {
    let mut rig = Rig::new();
    rig.start(JobOptions { speed: 5, ..backup("j") }, &Script::new(&[Step::Total(8), Step::Deaf, Step::Wait]));
    assert!(rig.query().busy);
    rig.job("j", Command::Pause).unwrap();
    let info = rig.query();
    assert_eq!((info.paused, info.status), (true, Status::Running), "paused shows before the pause point is reached");
    assert_eq!(rig.engine.registry().query_jobs()[0].status, Status::Running);
    assert_eq!((info.len, info.offset, info.speed), (8, 0, 5));
    assert_eq!((info.auto_finalize, info.auto_dismiss, info.ready), (true, true, false));
    assert_eq!((info.kind, info.device.as_str(), info.error), (JobKind::Backup, "j", None));
}

#[test]
fn queries_list_the_newest_job_first() {
    let mut rig = Rig::new();
    for id in ["a", "b", "c"] {
        rig.start(backup(id), &Script::new(&[Step::Wait]));
    }
    let ids: Vec<_> = rig.engine.registry().query_jobs().into_iter().map(|job| job.id).collect();
    assert_eq!(ids, ["c", "b", "a"]);
}

#[test]
fn an_error_policy_decides_about_reads_and_writes() {
    let check = |policy, error, action: &str, status, io_status| {
        let mut rig = Rig::new();
        let options = JobOptions { auto_dismiss: false, ..backup("j") };
        rig.start(options, &Script::new(&[Step::Error(policy, Operation::Read, error)]));
        assert_eq!(rig.events()[2], format!("ERROR j read {action}"));
        assert_eq!((rig.query().status, rig.query().io_status), (status, io_status));
    };
    let (io, full) = (IoError::Io, IoError::NoSpace);
    check(OnError::Report, full, "report", Status::Concluded, IoStatus::Ok);
    check(OnError::Ignore, io, "ignore", Status::Running, IoStatus::Ok);
    check(OnError::Stop, io, "stop", Status::Paused, IoStatus::Failed);
    check(OnError::Stop, full, "stop", Status::Paused, IoStatus::NoSpace);
    for policy in [OnError::Enospc, OnError::Auto] {
        check(policy, io, "report", Status::Concluded, IoStatus::Ok);
        check(policy, full, "stop", Status::Paused, IoStatus::NoSpace);
    }
}

#[test]
fn a_stopped_job_tries_again_after_each_resume_until_it_succeeds() {
    let mut rig = Rig::new();
    let script = Script::new(&[Step::Error(OnError::Stop, Operation::Write, IoError::NoSpace), Step::Wait]);
    rig.start(backup("j"), &script);
    assert_eq!(rig.events()[2..], ["ERROR j write stop", "j paused"]);
    assert_eq!(rig.job("j", Command::Pause).unwrap_err(), "Job is already paused");
    rig.job("j", Command::Resume).unwrap();
    assert_eq!(rig.events(), ["j running", "ERROR j write stop", "j paused"]);
    assert_eq!(rig.query().io_status, IoStatus::NoSpace);
    script.cured.set(true);
    rig.job("j", Command::Resume).unwrap();
    assert_eq!(rig.events(), ["j running"]);
    assert_eq!((rig.query().io_status, rig.query().paused), (IoStatus::Ok, false));
    script.tell();
    rig.pass(2 * MS);
    assert_eq!(rig.events()[..2], ["j waiting", "j pending"]);
}
