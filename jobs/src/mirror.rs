//! Job `mirror`: a target gets what a node has and keeps up with it, until it takes its place or is left as it is then.
//!
//! What guests change from the beginning on hangs on the source's requests (`backend::node::mirroring`, which has the
//! orderings); the body copies the rest and what they change ([`follow`]). Completed, it has changes reach both before they
//! complete, until there is no difference, and whoever used the source comes to the target ([`pivot`]). Cancelled when
//! ready, it leaves the target as the source is at one moment. An active commit is the same into an image below.

pub mod active_commit;
mod allocated;
mod check;
mod drive;
mod follow;
mod options;
mod pivot;
mod plan;
mod worker;

pub use drive::DriveMirrorOptions;
pub use options::{CopyMode, MirrorOptions, MirrorSync};

use crate::commit::stake_between;
use crate::context::JobContext;
use crate::engine::EngineHandle;
use crate::error::{JobError, JobFailure};
use crate::holdings::Holdings;
use crate::job::{Job, JobDriver, JobKind, JobOptions, LocalFuture};
use crate::opened;
use crate::points;
use crate::registry::Registry;
use crate::reopen;
use crate::transaction::TransactionError;
use plan::{Plan, Start, State};
use std::rc::Rc;
use std::slice;
use std::sync::Arc;
use tidemark_backend::epoch::Passage;
use tidemark_backend::graph::{Graph, check_apart};
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::mirroring::Mirroring;
use tidemark_backend::node::{Node, Permissions, Root, Stake};
use tidemark_backend::reactor::Handle;

/// QEMU's driver of what stands for a mirror among the nodes.
const DRIVER: &str = "mirror_top";
/// Between two looks whether requests have ended, in nanoseconds.
const LOOK_NS: u64 = 50_000;
/// Bytes of one copy, at most: some of them fit in a processor's cache.
const COPY_MAX: u64 = 512 << 10;

/// One mirror.
pub(crate) struct Mirror {
    registry: Registry,
    graph: Arc<Graph>,
    plan: Plan,
    mirroring: Arc<Mirroring>,
    /// The job's own ways, by which it is seen to be under way.
    source: Rc<Root>,
    target: Rc<Root>,
    state: State,
    holdings: Holdings,
}

/// Starts a mirror.
///
/// # Errors
/// With QEMU's texts; then nothing has happened.
pub fn start(jobs: &EngineHandle, graph: &Arc<Graph>, options: MirrorOptions) -> Result<(), TransactionError> {
    let graph = graph.clone();
    jobs.ask_async(async move |registry: Registry| run(&registry, &graph, options).await)?
}

/// As [`start`], on the job thread.
///
/// # Errors
/// As there.
pub async fn run(registry: &Registry, graph: &Arc<Graph>, options: MirrorOptions) -> Result<(), TransactionError> {
    let _turn = registry.edit().await;
    begin(registry, graph, options, None).await
}

/// Starts a mirror to a file.
///
/// # Errors
/// With QEMU's texts; then nothing has happened, but a file that was made stays.
pub fn start_drive(
    jobs: &EngineHandle,
    graph: &Arc<Graph>,
    options: DriveMirrorOptions,
) -> Result<(), TransactionError> {
    let graph = graph.clone();
    jobs.ask_async(async move |registry: Registry| {
        let _turn = registry.edit().await;
        let (options, node) = drive::open(registry.io(), &graph, options).await?;
        let begun = begin(&registry, &graph, options, Some(node.clone())).await;
        if begun.is_err() {
            opened::let_go(registry.io(), &graph, node).await;
        }
        begun
    })?
}

/// Starts a mirror; `opened` is its target if that was opened for it.
///
/// # Errors
/// As [`start`].
pub(crate) async fn begin(
    registry: &Registry,
    graph: &Arc<Graph>,
    options: MirrorOptions,
    opened: Option<Arc<Node>>,
) -> Result<(), TransactionError> {
    let plan = check::check(graph, &options, opened)?;
    let job = JobOptions {
        speed: options.speed,
        auto_finalize: options.auto_finalize,
        auto_dismiss: options.auto_dismiss,
        soft_cancel: true,
        ..JobOptions::new(options.job_id.clone().unwrap_or_default(), JobKind::Mirror)
    };
    Mirror::begin(registry, graph, plan, job, options.filter_node_name.as_deref()).await
}

impl Mirror {
    /// Makes the job, begins to follow the source and starts. `filter` is the name of what stands for it among the nodes.
    async fn begin(
        registry: &Registry,
        graph: &Arc<Graph>,
        plan: Plan,
        job: JobOptions,
        filter: Option<&str>,
    ) -> Result<(), TransactionError> {
        let mirror = Self::new(registry, graph, plan)?;
        mirror.holdings.list(graph.add_job(filter, mirror.mirroring.source(), DRIVER, false)?);
        let job = registry.create(job, mirror.clone()).inspect_err(|_| mirror.holdings.let_go())?;
        let started = mirror.take_nodes(job.id());
        let started = match started {
            Ok(()) => mirror.install().await,
            refused => refused,
        };
        match started {
            Ok(()) => registry.start(&job),
            Err(_) => {
                registry.fail_early(&job);
                mirror.holdings.let_go();
            }
        }
        started
    }

    fn new(registry: &Registry, graph: &Arc<Graph>, plan: Plan) -> Result<Rc<Self>, TransactionError> {
        let mirroring = Mirroring::new(&plan.source, &plan.target, plan.granularity, plan.unmap);
        let mirroring = mirroring.map_err(|error| TransactionError::Text(error.to_string()))?;
        Ok(Rc::new(Self {
            holdings: Holdings::new(graph, plan.reason),
            registry: registry.clone(),
            graph: graph.clone(),
            source: Root::new(&plan.source),
            target: Root::new(&plan.target),
            mirroring,
            plan,
            state: State::default(),
        }))
    }

    /// Takes the nodes into use.
    fn take_nodes(&self, job: &str) -> Result<(), TransactionError> {
        let Plan { source, target, between, grows, opened, .. } = &self.plan;
        if let Some(filter) = self.holdings.listed() {
            check_apart(source, target, filter.name())?;
            if !grows {
                self.holdings.stake(&filter, Stake::of_access(Access::Read))?;
            }
            self.holdings.reserve([filter]);
        }
        let writes = Stake::of_access(Access::Target);
        if *grows {
            stake_between(&self.holdings, job, source, target)?;
            self.holdings.stake(target, writes)?;
        } else {
            let alone = writes.unshared(Permissions::ALL);
            // What was opened for the job is over the source perhaps, and nobody else's.
            self.holdings.stake(target, if opened.is_some() { alone.decoupling() } else { alone })?;
        }
        self.holdings.take(source, Access::Read)?;
        self.holdings.take(target, if *grows { Access::Target } else { Access::Alone })?;
        self.holdings.reserve([source, target].into_iter().chain(between).cloned());
        Ok(())
    }

    /// From here on no change of the source is missed.
    async fn install(&self) -> Result<(), TransactionError> {
        let blocking = self.plan.copy_mode == CopyMode::WriteBlocking;
        self.state.wants_blocking.set(blocking);
        let mut edit = || {
            if blocking {
                self.mirroring.block();
            }
            self.mirroring.install();
        };
        points::hold(self.io(), slice::from_ref(&self.plan.source), &mut edit).await?;
        self.state.installed.set(true);
        Ok(())
    }

    fn io(&self) -> &Handle {
        self.registry.io()
    }

    /// Waits until all requests to the source that are under way have ended.
    async fn pass(&self) {
        let mut passage = Passage::of(self.plan.source.points().seats());
        while !passage.is_over() {
            self.io().sleep_until(self.io().read_clock().saturating_add(LOOK_NS)).await;
        }
    }

    /// Takes the mirror off the source, if it hangs there.
    async fn uninstall(&self) {
        if !self.state.installed.replace(false) {
            return;
        }
        let mut edit = || self.unhook();
        points::hold_in_the_end(self.io(), slice::from_ref(&self.plan.source), &mut edit).await;
        // Requests under way still go to the target.
        self.pass().await;
    }

    /// Inside a hold of the source.
    fn unhook(&self) {
        self.mirroring.uninstall();
        if self.state.flushes_along.take() {
            self.plan.source.points().flush_alone(&self.plan.target);
        }
    }

    /// Bytes that differ, or may, and are not under way.
    fn waiting(&self) -> u64 {
        let (dirty, owed) = (self.mirroring.dirty(), self.mirroring.owed());
        let (block, len) = (owed.granularity().bytes(), owed.len());
        let slack = if len > 0 && owed.is_marked(len - 1) { len.next_multiple_of(block) - len } else { 0 };
        let mut bytes = owed.count().saturating_sub(slack);
        let mut from = 0;
        while let Some(run) = dirty.next_marked(from) {
            from = run.end;
            bytes += run.end - run.start;
            let mut at = run.start;
            while let Some(both) = owed.next_marked(at).filter(|both| both.start < run.end) {
                at = both.end.min(run.end);
                bytes = bytes.saturating_sub(at - both.start.max(run.start));
                if at >= run.end {
                    break;
                }
            }
        }
        bytes
    }

    /// Lets go of the nodes, and leaves a target that took no writes as it was.
    async fn end(&self) {
        self.holdings.end(&self.registry).await;
        for node in [Some(&self.plan.replaced), self.plan.opened.as_ref()].into_iter().flatten() {
            opened::let_go(self.io(), &self.graph, node.clone()).await;
        }
        if self.plan.reopened && !self.state.pivoted.get() {
            reopen::make_read_only_again(&self.registry, &self.graph, &self.plan.target).await;
        }
    }
}

impl JobDriver for Mirror {
    fn run(self: Rc<Self>, ctx: JobContext) -> LocalFuture<'static, Result<(), JobFailure>> {
        Box::pin(async move { follow::run(&self, &ctx).await })
    }

    fn progress(&self) -> Option<(u64, u64)> {
        let (active, mirrored) = self.mirroring.active_bytes();
        let done = self.state.done.get() + mirrored;
        Some((done, done + self.waiting() + self.state.under_way.get() + active))
    }

    fn actively_synced(&self) -> Option<bool> {
        // QEMU says so of mirrors only.
        (!self.plan.grows).then(|| self.state.synced.get())
    }

    fn is_behind(&self) -> bool {
        self.state.behind.get()
    }

    fn change(&self, job: &Job, mode: CopyMode) -> Result<(), JobError> {
        if self.plan.grows {
            return Err(JobError::Unchangeable);
        }
        match (self.state.wants_blocking.get(), mode) {
            (true, CopyMode::Background) => Err(JobError::NoSuchChange("background")),
            (false, CopyMode::WriteBlocking) => {
                self.state.wants_blocking.set(true);
                job.changed.notify();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn prepare(&self) -> LocalFuture<'_, Result<(), JobFailure>> {
        Box::pin(self.pivot())
    }

    fn abort(&self) -> LocalFuture<'_, ()> {
        Box::pin(self.uninstall())
    }

    fn clean(&self) -> LocalFuture<'_, ()> {
        Box::pin(self.end())
    }
}
