//! An engine without a kernel, bodies that do as their script says, and what they tell.

use crate::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tidemark_backend::error::IoError;
use tidemark_backend::io::sim::{PortId, World};
use tidemark_backend::reactor::Reactor;

/// A millisecond, in nanoseconds.
pub(super) const MS: u64 = 1_000_000;

/// What a body does next. At the end of its script it succeeds.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// Sets the total.
    Total(u64),
    /// Counts bytes as done, within the limit.
    Copy(u64),
    /// Says that it is ready.
    Ready,
    /// Waits to be told to go on, pausing where it must.
    Wait,
    /// Waits to be told to go on and does not listen to anything else.
    Deaf,
    /// Starts what never ends, and lets go of it when it is cancelled.
    Hang,
    /// Meets an error, and does as the policy says; met again until the cure of the script.
    Error(OnError, Operation, IoError),
    /// Waits for a completion or a soft cancel.
    Completion,
}

/// A body, and what became of it.
#[derive(Default)]
pub(super) struct Script {
    steps: Vec<Step>,
    told: Cell<bool>,
    pub(super) cured: Cell<bool>,
    signal: signal::Signal,
    /// `run`, `commit`, `abort`, `clean`, in the order in which they came.
    pub(super) calls: RefCell<Vec<&'static str>>,
    /// Its commit and abort wait to be told.
    slow_end: bool,
    /// Bytes that guests' writes have copied.
    pub(super) written: Cell<u64>,
}

impl Script {
    pub(super) fn new(steps: &[Step]) -> Rc<Self> {
        Rc::new(Self { steps: steps.to_vec(), ..Self::default() })
    }

    /// A body that succeeds at once, whose commit and abort wait to be told.
    pub(super) fn with_slow_end() -> Rc<Self> {
        Rc::new(Self { slow_end: true, ..Self::default() })
    }

    pub(super) fn tell(&self) {
        self.told.set(true);
        self.signal.notify();
    }

    async fn step(&self, step: Step, ctx: &JobContext) -> Result<(), JobFailure> {
        match step {
            Step::Total(bytes) => ctx.progress(bytes),
            Step::Copy(bytes) => {
                ctx.limit(bytes).await?;
                ctx.advance(bytes);
            }
            Step::Ready => ctx.ready(),
            Step::Wait => {
                while !self.told.take() {
                    ctx.sleep(MS).await;
                    ctx.pause_point().await?;
                }
            }
            Step::Deaf => {
                self.signal.until(|| self.told.get()).await;
                self.told.set(false);
            }
            Step::Hang => ctx.unless_cancelled(std::future::pending()).await?,
            Step::Error(policy, operation, error) => {
                while !self.cured.get() {
                    if ctx.on_error(policy, operation, error) == ErrorAction::Report {
                        return Err(error.into());
                    }
                    ctx.sleep(MS).await;
                    ctx.pause_point().await?;
                }
            }
            Step::Completion => {
                while !ctx.is_completing() && !ctx.is_cancel_requested() {
                    ctx.sleep(1000 * MS).await;
                    ctx.pause_point().await?;
                }
            }
        }
        Ok(())
    }
}

impl JobDriver for Script {
    fn run(self: Rc<Self>, ctx: JobContext) -> LocalFuture<'static, Result<(), JobFailure>> {
        Box::pin(async move {
            self.calls.borrow_mut().push("run");
            for step in &self.steps {
                ctx.pause_point().await?;
                self.step(*step, &ctx).await?;
            }
            Ok(())
        })
    }

    fn copies_before_writes(&self) -> Option<(u64, u64)> {
        Some((u64::from(self.written.get() > 0), self.written.get()))
    }

    fn commit(&self) -> LocalFuture<'_, ()> {
        Box::pin(async {
            self.calls.borrow_mut().push("commit");
            if self.slow_end {
                self.signal.until(|| self.told.get()).await;
            }
        })
    }

    fn abort(&self) -> LocalFuture<'_, ()> {
        Box::pin(async {
            self.calls.borrow_mut().push("abort");
            if self.slow_end {
                self.signal.until(|| self.told.get()).await;
            }
        })
    }

    fn clean(&self) -> LocalFuture<'_, ()> {
        Box::pin(async { self.calls.borrow_mut().push("clean") })
    }
}

/// An engine in a simulated world.
pub(super) struct Rig {
    pub(super) world: World,
    port: PortId,
    pub(super) engine: Engine,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let world = World::new(7);
        let io = world.io(8);
        let port = io.port();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = seen.clone();
        let events: JobEventSink = Arc::new(move |event| sink.lock().unwrap().push(text(&event)));
        Self { world, port, engine: Engine::new(Reactor::new(Box::new(io)).unwrap(), events), seen }
    }

    pub(super) fn create(&self, options: JobOptions, script: &Rc<Script>) -> Rc<Job> {
        self.engine.registry().create(options, script.clone()).unwrap()
    }

    /// Creates and starts a job, and lets it come as far as it does without time passing.
    pub(super) fn start(&mut self, options: JobOptions, script: &Rc<Script>) -> Rc<Job> {
        let job = self.create(options, script);
        self.engine.registry().start(&job);
        self.settle();
        job
    }

    /// Steps until nothing happens any more, unless time passes.
    pub(super) fn settle(&mut self) {
        loop {
            assert!(self.engine.step());
            if !self.engine.has_work() && !self.world.is_awake(self.port) {
                return;
            }
        }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, nanoseconds: u64) {
        let end = self.world.now() + nanoseconds;
        self.engine.registry().io().spawn({
            let io = self.engine.registry().io().clone();
            async move { io.sleep_until(end).await }
        });
        self.settle();
        while self.world.now() < end {
            assert!(self.world.advance());
            self.settle();
        }
    }

    /// Runs a task to its end without time passing; `None` if it waits for something.
    pub(super) fn poll<T: 'static>(&mut self, task: impl AsyncFnOnce(Registry) -> T + 'static) -> Option<T> {
        let slot = Rc::new(RefCell::new(None));
        let (registry, result) = (self.engine.registry().clone(), slot.clone());
        self.engine.registry().io().spawn(async move {
            let value = task(registry).await;
            *result.borrow_mut() = Some(value);
        });
        self.settle();
        slot.take()
    }

    /// A command, and everything that follows from it without time passing; the error's text.
    pub(super) fn command(&mut self, family: Family, id: &'static str, command: Command) -> Result<(), String> {
        let result = self.poll(async move |registry| registry.command(family, id, command).await);
        result.expect("the command is answered").map_err(|error| error.to_string())
    }

    pub(super) fn job(&mut self, id: &'static str, command: Command) -> Result<(), String> {
        self.command(Family::Job, id, command)
    }

    pub(super) fn block_job(&mut self, id: &'static str, command: Command) -> Result<(), String> {
        self.command(Family::BlockJob, id, command)
    }

    /// The events since the last look.
    pub(super) fn events(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// The only entry of query-block-jobs.
    pub(super) fn query(&self) -> BlockJobInfo {
        let jobs = self.engine.registry().query_block_jobs();
        assert_eq!(jobs.len(), 1);
        jobs.into_iter().next().unwrap()
    }
}

/// A backup that ends by itself.
pub(super) fn backup(id: &str) -> JobOptions {
    JobOptions::new(id, JobKind::Backup)
}

/// One line of the log of a run.
pub(super) fn text(event: &JobEvent) -> String {
    let facts =
        |job: &JobFacts| format!("{} {} {}/{} speed={}", job.kind.name(), job.id, job.offset, job.len, job.speed);
    match event {
        JobEvent::StatusChange { id, status } => format!("{id} {status}"),
        JobEvent::Completed { job, error: None } => format!("COMPLETED {}", facts(job)),
        JobEvent::Completed { job, error: Some(error) } => format!("COMPLETED {} error={error}", facts(job)),
        JobEvent::Cancelled(job) => format!("CANCELLED {}", facts(job)),
        JobEvent::Ready(job) => format!("READY {}", facts(job)),
        JobEvent::Pending { kind, id } => format!("PENDING {} {id}", kind.name()),
        JobEvent::Error { id, operation, action } => format!("ERROR {id} {} {}", operation.name(), action.name()),
    }
}
