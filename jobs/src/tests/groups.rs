//! Jobs that succeed or fail together.

use super::rig::*;
use crate::*;
use std::rc::Rc;
use tidemark_backend::error::IoError;

const WHOLE: [Step; 2] = [Step::Total(4), Step::Copy(4)];
/// Stops at a byte per second after the first.
const SLOW: [Step; 3] = [Step::Total(4), Step::Copy(1), Step::Copy(3)];
const FAILS: [Step; 3] = [Step::Total(4), Step::Wait, Step::Error(OnError::Report, Operation::Write, IoError::Io)];
const STOPS: [Step; 2] = [Step::Total(4), Step::Error(OnError::Stop, Operation::Write, IoError::Io)];

fn slow(id: &str) -> JobOptions {
    JobOptions { speed: 1, ..backup(id) }
}

fn manual(id: &str) -> JobOptions {
    JobOptions { auto_finalize: false, ..backup(id) }
}

/// Creates the members in order and starts them last to first, as a transaction does. The events from then on.
fn start(rig: &mut Rig, members: Vec<(JobOptions, &Rc<Script>)>) -> Vec<String> {
    let group = Group::new();
    let create = |(options, script): (JobOptions, &Rc<Script>)| {
        rig.create(JobOptions { group: Some(group.clone()), ..options }, script)
    };
    let jobs: Vec<_> = members.into_iter().map(create).collect();
    for job in jobs.iter().rev() {
        rig.engine.registry().start(job);
    }
    rig.events();
    rig.settle();
    rig.events()
}

/// Lets a body go on; the events from then on.
fn tell(rig: &mut Rig, script: &Rc<Script>) -> Vec<String> {
    script.tell();
    rig.pass(MS);
    rig.events()
}

#[test]
fn members_wait_for_each_other_and_take_effect_newest_first() {
    let mut rig = Rig::new();
    let (a, b) = (Script::new(&WHOLE), Script::new(&[Step::Total(4), Step::Wait, Step::Copy(4)]));
    assert_eq!(start(&mut rig, vec![(backup("A"), &a), (backup("B"), &b)]), ["A waiting"]);
    assert_eq!(
        rig.job("A", Command::Finalize).unwrap_err(),
        "Job 'A' in state 'waiting' cannot accept command verb 'finalize'"
    );
    assert_eq!(*a.calls.borrow(), ["run"], "nothing takes effect before all have succeeded");
    assert_eq!(
        tell(&mut rig, &b),
        [
            "B waiting",
            "B pending",
            "A pending",
            "COMPLETED backup B 4/4 speed=0",
            "B concluded",
            "B null",
            "COMPLETED backup A 4/4 speed=0",
            "A concluded",
            "A null"
        ]
    );
}

#[test]
fn one_member_without_auto_finalize_holds_all_and_one_finalize_finalizes_all() {
    let mut rig = Rig::new();
    let (a, b) = (Script::new(&WHOLE), Script::new(&WHOLE));
    let events = start(&mut rig, vec![(manual("A"), &a), (backup("B"), &b)]);
    assert_eq!(events[2..], ["B pending", "A pending", "PENDING backup A"]);
    assert_eq!((a.calls.borrow().len(), b.calls.borrow().len()), (1, 1));
    rig.job("B", Command::Finalize).unwrap();
    let expected =
        "COMPLETED backup B 4/4 speed=0|B concluded|B null|COMPLETED backup A 4/4 speed=0|A concluded|A null";
    assert_eq!(rig.events().join("|"), expected);
    assert_eq!(*a.calls.borrow(), ["run", "commit", "clean"]);
    assert_eq!(*b.calls.borrow(), ["run", "commit", "clean"]);
}

#[test]
fn a_failure_of_the_oldest_cancels_the_others() {
    let mut rig = Rig::new();
    let (a, b) = (Script::new(&FAILS), Script::new(&SLOW));
    start(&mut rig, vec![(backup("A"), &a), (slow("B"), &b)]);
    assert_eq!(
        tell(&mut rig, &a),
        [
            "ERROR A write report",
            "A aborting",
            "B aborting",
            "CANCELLED backup B 1/4 speed=1",
            "B concluded",
            "B null",
            "COMPLETED backup A 0/4 speed=0 error=Input/output error",
            "A concluded",
            "A null"
        ]
    );
    assert_eq!(*b.calls.borrow(), ["run", "abort", "clean"]);
}

#[test]
fn a_failure_of_the_newest_cancels_the_others() {
    let mut rig = Rig::new();
    let (a, b) = (Script::new(&SLOW), Script::new(&FAILS));
    start(&mut rig, vec![(slow("A"), &a), (backup("B"), &b)]);
    assert_eq!(
        tell(&mut rig, &b),
        [
            "ERROR B write report",
            "B aborting",
            "A aborting",
            "COMPLETED backup B 0/4 speed=0 error=Input/output error",
            "B concluded",
            "B null",
            "CANCELLED backup A 1/4 speed=1",
            "A concluded",
            "A null"
        ]
    );
}

#[test]
fn cancelling_a_member_that_waits_cancels_the_ones_it_waits_for() {
    let mut rig = Rig::new();
    let (a, b) = (Script::new(&WHOLE), Script::new(&SLOW));
    let keep = JobOptions { auto_dismiss: false, ..backup("A") };
    assert_eq!(start(&mut rig, vec![(keep, &a), (slow("B"), &b)]), ["A waiting"]);
    rig.job("A", Command::Cancel { force: true }).unwrap();
    assert_eq!(
        rig.events(),
        [
            "B aborting",
            "CANCELLED backup B 1/4 speed=1",
            "B concluded",
            "B null",
            "A aborting",
            "CANCELLED backup A 4/4 speed=0",
            "A concluded"
        ]
    );
    assert_eq!(rig.query().error.as_deref(), Some("Operation canceled"));
    assert_eq!(*a.calls.borrow(), ["run", "abort", "clean"]);
}

#[test]
fn cancelling_a_pending_member_undoes_the_whole_group() {
    let mut rig = Rig::new();
    let (a, b) = (Script::new(&WHOLE), Script::new(&WHOLE));
    start(&mut rig, vec![(manual("A"), &a), (backup("B"), &b)]);
    rig.job("A", Command::Cancel { force: true }).unwrap();
    let expected = "B aborting|CANCELLED backup B 4/4 speed=0|B concluded|B null|\
        A aborting|CANCELLED backup A 4/4 speed=0|A concluded|A null";
    assert_eq!(rig.events().join("|"), expected);
    assert_eq!(*a.calls.borrow(), ["run", "abort", "clean"]);
}

#[test]
fn a_finalize_that_comes_while_a_cancel_is_undoing_the_group_is_too_late() {
    let mut rig = Rig::new();
    let (a, b) = (Script::with_slow_end(), Script::with_slow_end());
    start(&mut rig, vec![(manual("A"), &a), (manual("B"), &b)]);
    for command in [Command::Cancel { force: true }, Command::Finalize] {
        let answer = rig.poll(async move |registry| registry.command(Family::Job, "A", command).await.is_ok());
        assert!(answer.is_none());
    }
    a.tell();
    b.tell();
    rig.settle();
    assert_eq!(*a.calls.borrow(), ["run", "abort", "clean"]);
    assert_eq!(*b.calls.borrow(), ["run", "abort", "clean"]);
    assert!(rig.engine.registry().jobs().is_empty());
}

#[test]
fn a_member_stopped_by_an_error_holds_the_group_until_it_is_cancelled() {
    let mut rig = Rig::new();
    let (a, b, c) = (Script::new(&SLOW), Script::new(&WHOLE), Script::new(&STOPS));
    let events = start(&mut rig, vec![(slow("A"), &a), (backup("B"), &b), (backup("C"), &c)]);
    assert_eq!(events, ["ERROR C write stop", "C paused", "B waiting"]);
    rig.job("C", Command::Cancel { force: true }).unwrap();
    let expected = "C running|C aborting|A aborting|CANCELLED backup C 0/4 speed=0|C concluded|C null|\
        B aborting|CANCELLED backup B 4/4 speed=0|B concluded|B null|\
        CANCELLED backup A 1/4 speed=1|A concluded|A null";
    assert_eq!(rig.events().join("|"), expected);
}

#[test]
fn a_deaf_member_delays_the_end_of_its_group_but_not_the_others_cancelling() {
    let mut rig = Rig::new();
    let (a, b) = (Script::new(&[Step::Deaf]), Script::new(&FAILS));
    start(&mut rig, vec![(backup("A"), &a), (backup("B"), &b)]);
    assert_eq!(tell(&mut rig, &b).last().unwrap(), "B null");
    assert_eq!(rig.query().status, Status::Running);
    assert!(rig.job("A", Command::Cancel { force: true }).is_ok(), "commands are answered meanwhile");
    a.tell();
    rig.settle();
    assert_eq!(rig.events(), ["A aborting", "CANCELLED backup A 0/0 speed=0", "A concluded", "A null"]);
}

#[test]
fn a_transaction_that_fails_undoes_its_created_jobs_last_to_first() {
    let mut rig = Rig::new();
    let (a, b) = (Script::new(&[]), Script::new(&[]));
    let first = rig.create(backup("A"), &a);
    let second = rig.create(backup("B"), &b);
    let undo = async move |registry: Registry| {
        registry.cancel(&second, true).await;
        registry.cancel(&first, true).await;
    };
    rig.poll(undo).unwrap();
    let expected = "A created|B created|B aborting|B concluded|B null|A aborting|A concluded|A null";
    assert_eq!(rig.events().join("|"), expected);
}

#[test]
fn a_grouped_transaction_that_fails_undoes_all_created_members() {
    let mut rig = Rig::new();
    let group = Group::new();
    let scripts = [Script::new(&[]), Script::new(&[])];
    let create = |id: &str, script| rig.create(JobOptions { group: Some(group.clone()), ..backup(id) }, script);
    let (first, last) = (create("A", &scripts[0]), create("B", &scripts[1]));
    let undo = async move |registry: Registry| {
        registry.cancel(&last, true).await;
        registry.cancel(&first, true).await;
    };
    rig.poll(undo).unwrap();
    assert!(rig.engine.registry().jobs().is_empty());
    assert!(scripts.iter().all(|script| *script.calls.borrow() == ["abort", "clean"]));
    assert!(!rig.events().iter().any(|event| event.contains("CANCELLED")));
}
