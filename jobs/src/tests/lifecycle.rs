//! One job from creation to null, in every way there is.

use super::rig::*;
use crate::*;
use tidemark_backend::error::IoError;

const MIB: u64 = 1 << 20;
const WHOLE: [Step; 2] = [Step::Total(4 * MIB), Step::Copy(4 * MIB)];

fn manual(id: &str) -> JobOptions {
    JobOptions { auto_finalize: false, auto_dismiss: false, ..backup(id) }
}

#[test]
fn a_successful_backup_shows_what_qemu_shows() {
    let mut rig = Rig::new();
    let script = Script::new(&WHOLE);
    rig.start(backup("j"), &script);
    assert_eq!(
        rig.events(),
        [
            "j created",
            "j running",
            "j waiting",
            "j pending",
            "COMPLETED backup j 4194304/4194304 speed=0",
            "j concluded",
            "j null"
        ]
    );
    assert_eq!(*script.calls.borrow(), ["run", "commit", "clean"]);
    assert!(rig.engine.registry().query_jobs().is_empty());
}

#[test]
fn a_job_without_auto_finalize_and_auto_dismiss_waits_for_both() {
    let mut rig = Rig::new();
    let script = Script::new(&WHOLE);
    rig.start(manual("j"), &script);
    assert_eq!(rig.events()[2..], ["j waiting", "j pending", "PENDING backup j"]);
    assert_eq!(*script.calls.borrow(), ["run"]);
    rig.job("j", Command::Finalize).unwrap();
    assert_eq!(rig.events(), ["COMPLETED backup j 4194304/4194304 speed=0", "j concluded"]);
    assert_eq!(*script.calls.borrow(), ["run", "commit", "clean"]);
    assert_eq!(rig.query().status, Status::Concluded);
    rig.block_job("j", Command::Dismiss).unwrap();
    assert_eq!(rig.events(), ["j null"]);
}

#[test]
fn a_failing_job_aborts_and_tells_why() {
    let mut rig = Rig::new();
    let script = Script::new(&[Step::Total(MIB), Step::Error(OnError::Report, Operation::Write, IoError::Io)]);
    rig.start(manual("j"), &script);
    assert_eq!(
        rig.events()[2..],
        [
            "ERROR j write report",
            "j aborting",
            "COMPLETED backup j 0/1048576 speed=0 error=Input/output error",
            "j concluded"
        ]
    );
    assert_eq!(*script.calls.borrow(), ["run", "abort", "clean"]);
    let info = rig.query();
    assert_eq!(info.error.as_deref(), Some("Input/output error"));
    assert_eq!((info.io_status, info.busy, info.paused), (IoStatus::Ok, false, false));
}

#[test]
fn a_create_job_has_no_block_job_events() {
    let mut rig = Rig::new();
    let options = JobOptions { auto_dismiss: false, ..JobOptions::new("c", JobKind::Create) };
    rig.start(options, &Script::new(&[Step::Total(1), Step::Copy(1)]));
    assert_eq!(rig.events(), ["c created", "c running", "c waiting", "c pending", "c concluded"]);
    assert!(rig.engine.registry().query_block_jobs().is_empty());
    let jobs = rig.engine.registry().query_jobs();
    assert_eq!((jobs[0].current_progress, jobs[0].total_progress), (1, 1));
    assert_eq!(rig.block_job("c", Command::Dismiss).unwrap_err(), "Block job 'c' not found");
    rig.job("c", Command::Dismiss).unwrap();
    assert_eq!(rig.events(), ["c null"]);
}

#[test]
fn a_failed_start_is_created_and_null() {
    let rig = Rig::new();
    let script = Script::new(&[]);
    let refused = rig.engine.registry().create(JobOptions { speed: -1, ..backup("j") }, script.clone());
    assert_eq!(refused.err().unwrap().to_string(), "Parameter 'speed' expects a non-negative value");
    let job = rig.create(backup("k"), &script);
    rig.engine.registry().fail_early(&job);
    assert_eq!(rig.events(), ["j created", "j null", "k created", "k null"]);
    assert!(script.calls.borrow().is_empty());
    assert!(rig.engine.registry().jobs().is_empty());
}

#[test]
fn a_job_cancelled_before_its_start_is_undone_without_block_job_events() {
    let mut rig = Rig::new();
    let script = Script::new(&[]);
    let job = rig.create(JobOptions { auto_dismiss: false, ..backup("A") }, &script);
    rig.poll(async move |registry| registry.cancel(&job, true).await).unwrap();
    assert_eq!(rig.events(), ["A created", "A aborting", "A concluded", "A null"]);
    assert_eq!(*script.calls.borrow(), ["abort", "clean"]);
}

#[test]
fn cancelling_a_running_job_ends_it_at_its_next_pause_point() {
    let mut rig = Rig::new();
    rig.start(backup("j"), &Script::new(&[Step::Total(4 * MIB), Step::Copy(MIB), Step::Wait]));
    rig.events();
    rig.block_job("j", Command::Cancel { force: false }).unwrap();
    assert_eq!(rig.events(), ["j aborting", "CANCELLED backup j 1048576/4194304 speed=0", "j concluded", "j null"]);
}

#[test]
fn cancelling_a_paused_job_wakes_it_first() {
    for (family, options) in [(Family::Job, backup("j")), (Family::BlockJob, manual("j"))] {
        let mut rig = Rig::new();
        let dismissed = options.auto_dismiss;
        rig.start(options, &Script::new(&[Step::Wait]));
        rig.job("j", Command::Pause).unwrap();
        assert_eq!(rig.events(), ["j created", "j running", "j paused"]);
        let soft = rig.block_job("j", Command::Cancel { force: false });
        assert_eq!(soft.unwrap_err(), "The block job for device 'j' is currently paused");
        // job-cancel needs no force.
        rig.command(family, "j", Command::Cancel { force: family == Family::BlockJob }).unwrap();
        let mut expected = vec!["j running", "j aborting", "CANCELLED backup j 0/0 speed=0", "j concluded"];
        expected.extend(dismissed.then_some("j null"));
        assert_eq!(rig.events(), expected);
        let left = rig.engine.registry().query_jobs();
        assert!(left.iter().all(|job| job.error.as_deref() == Some("Operation canceled")));
    }
}

#[test]
fn cancelling_a_pending_job_undoes_its_work() {
    let mut rig = Rig::new();
    let script = Script::new(&WHOLE);
    rig.start(manual("j"), &script);
    rig.events();
    rig.block_job("j", Command::Cancel { force: false }).unwrap();
    assert_eq!(rig.events(), ["j aborting", "CANCELLED backup j 4194304/4194304 speed=0", "j concluded"]);
    assert_eq!(*script.calls.borrow(), ["run", "abort", "clean"]);
    assert_eq!(rig.query().error.as_deref(), Some("Operation canceled"));
}

#[test]
fn a_ready_job_completes_or_is_cancelled_softly_or_for_good() {
    let steps = [Step::Total(MIB), Step::Copy(MIB), Step::Ready, Step::Completion];
    let done = ["m waiting", "m pending", "COMPLETED mirror m 1048576/1048576 speed=0", "m concluded", "m null"];
    let cancelled = ["m aborting", "CANCELLED mirror m 1048576/1048576 speed=0", "m concluded", "m null"];
    let check = |family, command, expected: &[&str]| {
        let mut rig = Rig::new();
        let options = JobOptions { soft_cancel: true, ..JobOptions::new("m", JobKind::Mirror) };
        rig.start(options, &Script::new(&steps));
        assert_eq!(rig.events()[2..], ["m ready", "READY mirror m 1048576/1048576 speed=0"]);
        assert!(rig.query().ready);
        rig.job("m", Command::Pause).unwrap();
        assert_eq!(rig.events(), ["m standby"]);
        assert!(rig.query().ready);
        rig.job("m", Command::Resume).unwrap();
        assert_eq!(rig.events(), ["m ready"]);
        rig.command(family, "m", command).unwrap();
        assert_eq!(rig.events(), expected);
    };
    check(Family::BlockJob, Command::Cancel { force: false }, &done);
    check(Family::BlockJob, Command::Cancel { force: true }, &cancelled);
    check(Family::Job, Command::Cancel { force: false }, &cancelled);
    check(Family::Job, Command::Complete, &done);
    check(Family::BlockJob, Command::Complete, &done);
}

#[test]
fn a_soft_cancel_before_ready_is_for_good() {
    let mut rig = Rig::new();
    let options = JobOptions { soft_cancel: true, ..JobOptions::new("m", JobKind::Mirror) };
    rig.start(options, &Script::new(&[Step::Wait, Step::Ready]));
    rig.events();
    rig.block_job("m", Command::Cancel { force: false }).unwrap();
    assert_eq!(rig.events(), ["m aborting", "CANCELLED mirror m 0/0 speed=0", "m concluded", "m null"]);
}

#[test]
fn a_hung_body_can_be_cancelled() {
    let mut rig = Rig::new();
    rig.start(backup("j"), &Script::new(&[Step::Hang]));
    rig.job("j", Command::Pause).unwrap();
    assert_eq!(rig.query().status, Status::Running, "what hangs does not come to its pause point");
    assert!(rig.query().paused);
    rig.job("j", Command::Cancel { force: true }).unwrap();
    let events = rig.events();
    assert_eq!(events[2..], ["j aborting", "CANCELLED backup j 0/0 speed=0", "j concluded", "j null"]);
}

#[test]
fn a_cancel_that_comes_while_the_body_is_deaf_counts_when_it_ends() {
    let mut rig = Rig::new();
    let script = Script::new(&[Step::Deaf]);
    rig.start(backup("j"), &script);
    rig.job("j", Command::Cancel { force: true }).unwrap();
    assert_eq!(rig.events(), ["j created", "j running"]);
    script.tell();
    rig.settle();
    assert_eq!(rig.events(), ["j aborting", "CANCELLED backup j 0/0 speed=0", "j concluded", "j null"]);
    assert_eq!(*script.calls.borrow(), ["run", "abort", "clean"]);
}

#[test]
fn commands_wait_for_results_that_are_taking_effect() {
    let mut rig = Rig::new();
    let script = Script::with_slow_end();
    rig.start(manual("j"), &script);
    let registry = rig.engine.registry().clone();
    for command in [Command::Finalize, Command::Finalize, Command::Cancel { force: true }] {
        let registry = registry.clone();
        let waits = rig.poll(async move |_| registry.command(Family::Job, "j", command).await.is_ok());
        assert!(waits.is_none());
    }
    assert_eq!(rig.query().status, Status::Pending);
    script.tell();
    rig.settle();
    assert_eq!(*script.calls.borrow(), ["run", "commit", "clean"], "the second finalize and the cancel came too late");
    assert_eq!(rig.query().status, Status::Concluded);
}

#[test]
fn quitting_ends_all_jobs_newest_first_in_whatever_state_they_are() {
    let mut rig = Rig::new();
    rig.start(JobOptions { speed: 1, ..backup("j1") }, &Script::new(&[Step::Total(9), Step::Copy(1), Step::Copy(8)]));
    rig.start(backup("j2"), &Script::new(&[Step::Wait]));
    rig.job("j2", Command::Pause).unwrap();
    rig.start(JobOptions { auto_finalize: false, ..backup("j3") }, &Script::new(&[]));
    rig.start(JobOptions { auto_dismiss: false, ..backup("j4") }, &Script::new(&[]));
    rig.start(manual("j5"), &Script::new(&[]));
    rig.start(JobOptions { auto_dismiss: false, ..backup("j6") }, &Script::new(&[Step::Hang]));
    rig.events();
    assert!(rig.poll(async |registry| registry.cancel_all().await).is_some());
    let expected = "j6 aborting|CANCELLED backup j6 0/0 speed=0|j6 concluded|j6 null|\
        j5 aborting|CANCELLED backup j5 0/0 speed=0|j5 concluded|j5 null|\
        j4 null|\
        j3 aborting|CANCELLED backup j3 0/0 speed=0|j3 concluded|j3 null|\
        j2 running|j2 aborting|CANCELLED backup j2 0/0 speed=0|j2 concluded|j2 null|\
        j1 aborting|CANCELLED backup j1 1/9 speed=1|j1 concluded|j1 null";
    assert_eq!(rig.events().join("|"), expected);
    assert!(rig.engine.registry().jobs().is_empty());
}

#[test]
fn quitting_and_commands_wait_for_a_job_that_is_being_made() {
    let mut rig = Rig::new();
    let job = rig.create(backup("j"), &Script::new(&[Step::Wait]));
    assert!(rig.poll(async |registry| registry.command(Family::Job, "j", Command::Pause).await.is_ok()).is_none());
    assert!(rig.poll(async |registry| registry.cancel_all().await).is_none());
    assert_eq!(rig.events(), ["j created"]);
    rig.engine.registry().start(&job);
    rig.settle();
    assert_eq!(rig.events()[0], "j running");
    assert!(rig.engine.registry().jobs().is_empty());
}
