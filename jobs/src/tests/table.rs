//! Random commands at random moments, against the tables of QEMU's job states as the specification prints them.

use super::rig::*;
use crate::*;
use proptest::prelude::*;
use std::rc::Rc;

/// Row by row as printed; not what the engine is built from.
const VERBS: &str = "
| verb | created | running | paused | ready | standby | waiting | pending | aborting | concluded |
| cancel | y | y | y | y | y | y | y | - | - |
| pause | y | y | y | y | y | - | - | - | - |
| resume | y | y | y | y | y | - | - | - | - |
| set-speed | y | y | y | y | y | - | - | - | - |
| change | y | y | y | y | y | - | - | - | - |
| complete | - | - | - | y | y | - | - | - | - |
| finalize | - | - | - | - | - | - | y | - | - |
| dismiss | - | - | - | - | - | - | - | - | y |";

const TRANSITIONS: &str = "
created: running, aborting, null
running: paused, ready, waiting, aborting
paused: running
ready: standby, waiting, aborting
standby: ready
waiting: pending, aborting
pending: aborting, concluded
aborting: aborting, concluded
concluded: null";

fn cells(row: &str) -> Vec<&str> {
    row.trim_matches('|').split('|').map(str::trim).collect()
}

/// What the printed table says.
fn is_allowed(status: &str, verb: &str) -> bool {
    let mut rows = VERBS.trim().lines();
    let header = cells(rows.next().unwrap());
    let Some(column) = header.iter().position(|name| *name == status) else { return false };
    let row = rows.map(cells).find(|row| row[0] == verb).unwrap();
    row[column] == "y"
}

fn may_follow(from: &str, to: &str) -> bool {
    let row = TRANSITIONS.trim().lines().find_map(|row| row.strip_prefix(&format!("{from}: ")));
    row.is_some_and(|row| row.split(", ").any(|name| name == to))
}

#[test]
fn the_tables_are_those_of_the_specification() {
    for status in Status::ALL {
        for verb in Verb::ALL {
            assert_eq!(status.accepts(verb), is_allowed(status.name(), verb.name()), "{status} {verb}");
        }
        for next in Status::ALL {
            assert_eq!(status.may_become(next), may_follow(status.name(), next.name()), "{status} -> {next}");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Start(usize),
    Ask(usize, Family, Command),
    Tell(usize),
    Pass,
}

const IDS: [&str; 3] = ["a", "b", "c"];

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::Pause),
        Just(Command::Resume),
        any::<bool>().prop_map(|force| Command::Cancel { force }),
        Just(Command::Complete),
        Just(Command::Finalize),
        Just(Command::Dismiss),
        (-1i64..3).prop_map(Command::SetSpeed),
        Just(Command::Change(mirror::CopyMode::WriteBlocking)),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    let family = prop_oneof![Just(Family::Job), Just(Family::BlockJob)];
    prop_oneof![
        2 => (0..3usize).prop_map(Deed::Start),
        6 => (0..3usize, family, command()).prop_map(|(job, family, command)| Deed::Ask(job, family, command)),
        3 => (0..3usize).prop_map(Deed::Tell),
        2 => Just(Deed::Pass),
    ]
}

/// How one job is made: fails, auto-finalize, auto-dismiss, soft-cancel, grouped.
type Make = (bool, bool, bool, bool, bool);

fn verb_of(command: Command) -> &'static str {
    match command {
        Command::Pause => "pause",
        Command::Resume => "resume",
        Command::Cancel { .. } => "cancel",
        Command::Complete => "complete",
        Command::Finalize => "finalize",
        Command::Dismiss => "dismiss",
        Command::SetSpeed(_) => "set-speed",
        Command::Change(_) => "change",
    }
}

/// Errors that are about something else than the status.
const OTHERS: [&str; 6] = [
    "Can't resume a job that was not paused",
    "Job is already paused",
    "is currently paused",
    "expects a non-negative value",
    "does not support change",
    "cannot be completed",
];

struct Run {
    rig: Rig,
    scripts: Vec<Rc<Script>>,
    jobs: Vec<Rc<Job>>,
    /// The last status seen of each.
    last: [String; 3],
    log: Vec<String>,
}

impl Run {
    fn new(makes: &[Make]) -> Self {
        let (rig, group) = (Rig::new(), Group::new());
        let (mut scripts, mut jobs) = (Vec::new(), Vec::new());
        for (id, (fails, auto_finalize, auto_dismiss, soft_cancel, grouped)) in IDS.iter().zip(makes) {
            let end = Step::Error(OnError::Report, Operation::Read, tidemark_backend::error::IoError::Io);
            let mut steps = vec![Step::Wait, Step::Ready, Step::Completion];
            steps.extend(fails.then_some(end));
            let script = Script::new(&steps);
            let (auto_finalize, auto_dismiss, soft_cancel) = (*auto_finalize, *auto_dismiss, *soft_cancel);
            let group = grouped.then(|| group.clone());
            let base = JobOptions::new(*id, JobKind::Mirror);
            let options = JobOptions { auto_finalize, auto_dismiss, soft_cancel, group, ..base };
            jobs.push(rig.create(options, &script));
            scripts.push(script);
        }
        Self { rig, scripts, jobs, last: Default::default(), log: Vec::new() }
    }

    fn act(&mut self, deed: Deed) {
        match deed {
            Deed::Start(job) if self.jobs[job].status() == Status::Created => {
                self.rig.engine.registry().start(&self.jobs[job]);
                self.rig.settle();
            }
            Deed::Start(_) => {}
            Deed::Tell(job) => self.scripts[job].tell(),
            Deed::Pass => self.rig.pass(2 * MS),
            Deed::Ask(job, family, command) => self.ask(job, family, command),
        }
        self.check_events();
    }

    fn ask(&mut self, job: usize, family: Family, command: Command) {
        let status = self.jobs[job].status().name();
        let verb = verb_of(command);
        let asked = self.rig.poll(async move |registry| registry.command(family, IDS[job], command).await);
        let Some(asked) = asked else {
            return assert_eq!(status, "created", "only a job that is being made keeps commands waiting");
        };
        let asked = asked.map_err(|error| error.to_string());
        let refusal = format!("Job '{}' in state '{status}' cannot accept command verb '{verb}'", IDS[job]);
        match (status, asked) {
            ("null", asked) => assert!(asked.unwrap_err().contains("not found")),
            (_, Ok(())) => assert!(is_allowed(status, verb), "{status} took {verb}"),
            (_, Err(text)) if text == refusal => assert!(!is_allowed(status, verb), "{text}"),
            (_, Err(text)) => assert!(OTHERS.iter().any(|other| text.contains(other)), "{text}"),
        }
    }

    /// Every change is one that the printed table has, and each job tells its end once.
    fn check_events(&mut self) {
        for event in self.rig.events() {
            self.log.push(event.clone());
            let Some((id, next)) = event.split_once(' ') else { continue };
            let Some(job) = IDS.iter().position(|known| *known == id) else { continue };
            let last = std::mem::replace(&mut self.last[job], next.to_owned());
            assert!(if last.is_empty() { next == "created" } else { may_follow(&last, next) }, "{last} -> {next}");
        }
    }

    fn finish(mut self) {
        let made: Vec<_> = self.jobs.iter().filter(|job| job.status() == Status::Created).cloned().collect();
        let undo = async move |registry: Registry| {
            for job in made {
                registry.cancel(&job, true).await;
            }
        };
        assert!(self.rig.poll(undo).is_some(), "a job cannot be undone");
        assert!(self.rig.poll(async |registry| registry.cancel_all().await).is_some(), "a job does not end");
        self.check_events();
        assert!(self.last.iter().all(|status| status == "null"), "{:?}", self.last);
        for (script, job) in self.scripts.iter().zip(&self.jobs) {
            let calls = script.calls.borrow();
            let ends: Vec<_> = calls.iter().filter(|call| **call != "run").copied().collect();
            assert!(ends == ["commit", "clean"] || ends == ["abort", "clean"], "{ends:?}");
            let end = format!("ED mirror {} ", job.id());
            let told = self.log.iter().filter(|line| line.contains(&end)).count();
            assert_eq!(told, usize::from(job.started.get()), "a job tells its end once if it was started");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_sequence_of_commands_keeps_to_the_tables(
        makes in proptest::collection::vec(any::<Make>(), 3),
        deeds in proptest::collection::vec(deed(), 1..40),
    ) {
        let mut run = Run::new(&makes);
        deeds.into_iter().for_each(|deed| run.act(deed));
        run.finish();
    }
}
