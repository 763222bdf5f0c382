//! Job `mirror`: a target gets what a node has and keeps up with it, until it takes its place or is left as it is then.
//!
//! What guests change from the beginning on hangs on the source's requests (`backend::node::mirroring`, which has the
//! orderings); the body copies the rest and what they change ([`follow`]). Completed, it has changes reach both before they
//! complete, until there is no difference, and whoever used the source comes to the target ([`pivot`]). Cancelled when
//! ready, it leaves the target as the source is at one moment. An active commit is the same into an image below.

pub mod active_commit;
mod allocated;
mod check;
mod follow;
mod pivot;
mod worker;

use crate::context::{JobContext, OnError};
use crate::engine::EngineHandle;
use crate::error::{JobError, JobFailure};
use crate::job::{Job, JobDriver, JobKind, JobOptions, LocalFuture};
use crate::points;
use crate::registry::Registry;
use crate::reopen;
use crate::transaction::TransactionError;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::slice;
use std::sync::Arc;
use tidemark_backend::epoch::Passage;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::mirroring::Mirroring;
use tidemark_backend::node::{Node, Root};
use tidemark_backend::reactor::Handle;

/// Between two looks whether requests have ended, in nanoseconds.
const LOOK_NS: u64 = 50_000;

/// When changes of the source reach the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyMode {
    /// Some time later.
    #[default]
    Background,
    /// Before they complete.
    WriteBlocking,
}

/// What there is to copy at first.
#[derive(Clone, Debug)]
pub enum MirrorSync {
    /// Everything.
    Full,
    /// What the topmost image has of its own.
    Top,
    /// Nothing: only what is changed from now on.
    None,
    /// What QEMU knows and a mirror cannot.
    Unsupported(&'static str),
}

/// Arguments of `blockdev-mirror`.
#[derive(Clone, Debug)]
pub struct MirrorOptions {
    /// The job's id; there may be none to make one of.
    pub job_id: Option<String>,
    /// The node to copy from.
    pub device: String,
    /// The node to copy to.
    pub target: String,
    /// The node that the target is to replace; the source if `None`.
    pub replaces: Option<String>,
    /// What there is to copy at first.
    pub sync: MirrorSync,
    /// Bytes per second, 0 for no limit.
    pub speed: i64,
    /// Bytes per chunk; 0 for what suits the target.
    pub granularity: u32,
    /// Bytes under way at a time; 0 for what suits.
    pub buf_size: i64,
    /// About reads.
    pub on_source_error: OnError,
    /// About writes.
    pub on_target_error: OnError,
    /// Whether zeroes may give space back on the target.
    pub unmap: bool,
    /// A name for what stands for the job among the nodes.
    pub filter_node_name: Option<String>,
    /// When changes reach the target.
    pub copy_mode: CopyMode,
    /// Whether the result takes effect by itself.
    pub auto_finalize: bool,
    /// Whether the job is forgotten by itself.
    pub auto_dismiss: bool,
}

/// What a mirror and an active commit have in common.
struct Plan {
    source: Arc<Node>,
    target: Arc<Node>,
    /// What the target takes the place of.
    replaced: Arc<Node>,
    start: Start,
    /// What is said of nodes that the job has for itself.
    reason: &'static str,
    granularity: tidemark_cbt::Granularity,
    /// Copies at a time.
    workers_max: usize,
    on_source_error: OnError,
    on_target_error: OnError,
    unmap: bool,
    copy_mode: CopyMode,
    /// The target is made as long as the source.
    grows: bool,
    /// The target did not take writes before the job.
    reopened: bool,
    /// Nodes between the two, which nobody else may use meanwhile.
    between: Vec<Arc<Node>>,
}

/// What is copied at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    All,
    /// What so many topmost images have.
    Top(u32),
    Nothing,
}

/// How far it is.
#[derive(Default)]
struct State {
    /// Bytes that were copied.
    done: Cell<u64>,
    /// Bytes that are taken or being copied.
    under_way: Cell<u64>,
    /// Changes have to reach the target before they complete from now on.
    wants_blocking: Cell<bool>,
    /// They do, and what was under way before has ended.
    blocks: Cell<bool>,
    /// The guest's flushes reach the target, too.
    flushes_along: Cell<bool>,
    /// It was in sync when it was last looked at, and changes reach both.
    synced: Cell<bool>,
    /// It does not get to the end of what is changed.
    behind: Cell<bool>,
    installed: Cell<bool>,
    /// The target is to take the source's place.
    pivots: Cell<bool>,
    /// It has.
    pivoted: Cell<bool>,
}

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
    held: RefCell<Vec<(Arc<Node>, Access)>>,
}

/// Starts a mirror.
///
/// # Errors
/// With QEMU's texts; then nothing has happened.
pub fn start(jobs: &EngineHandle, graph: &Arc<Graph>, options: MirrorOptions) -> Result<(), TransactionError> {
    let graph = graph.clone();
    jobs.ask_async(async move |registry: Registry| {
        let _turn = registry.edit().await;
        let plan = check::check(&registry, &graph, &options)?;
        let job = JobOptions {
            speed: options.speed,
            auto_finalize: options.auto_finalize,
            auto_dismiss: options.auto_dismiss,
            soft_cancel: true,
            ..JobOptions::new(options.job_id.unwrap_or_default(), JobKind::Mirror)
        };
        Mirror::begin(&registry, &graph, plan, job).await
    })?
}

impl Mirror {
    /// Makes the job, begins to follow the source and starts.
    async fn begin(
        registry: &Registry,
        graph: &Arc<Graph>,
        plan: Plan,
        job: JobOptions,
    ) -> Result<(), TransactionError> {
        let mirror = Self::new(registry, graph, plan)?;
        let job = registry.create(job, mirror.clone()).inspect_err(|_| mirror.let_go())?;
        let started = mirror.take_nodes();
        let started = match started {
            Ok(()) => mirror.install().await,
            refused => refused,
        };
        match started {
            Ok(()) => registry.start(&job),
            Err(_) => {
                registry.fail_early(&job);
                mirror.let_go();
            }
        }
        started
    }

    fn new(registry: &Registry, graph: &Arc<Graph>, plan: Plan) -> Result<Rc<Self>, TransactionError> {
        let mirroring = Mirroring::new(&plan.source, &plan.target, plan.granularity, plan.unmap);
        let mirroring = mirroring.map_err(|error| TransactionError::Text(error.to_string()))?;
        Ok(Rc::new(Self {
            registry: registry.clone(),
            graph: graph.clone(),
            source: Root::new(&plan.source),
            target: Root::new(&plan.target),
            mirroring,
            plan,
            state: State::default(),
            held: RefCell::default(),
        }))
    }

    /// Takes the nodes into use.
    fn take_nodes(&self) -> Result<(), TransactionError> {
        for (node, access) in [(&self.plan.target, Access::Target), (&self.plan.source, Access::Read)] {
            node.acquire_for(access)?;
            self.held.borrow_mut().push((node.clone(), access));
        }
        self.nodes().for_each(|node| node.set_busy(Some(self.plan.reason)));
        Ok(())
    }

    fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        [&self.plan.source, &self.plan.target].into_iter().chain(&self.plan.between)
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
        self.let_go();
        if self.plan.reopened && !self.state.pivoted.get() {
            let _turn = self.registry.edit().await;
            let closed = reopen::set_read_only(self.io(), &self.graph, &self.plan.target, true).await;
            if let Err(error) = closed {
                tracing::warn!(node = self.plan.target.name(), "it still takes writes: {error}");
            }
        }
    }

    /// Lets go of the nodes.
    fn let_go(&self) {
        let held = std::mem::take(&mut *self.held.borrow_mut());
        if held.len() == 2 {
            self.nodes().for_each(|node| node.set_busy(None));
        }
        held.into_iter().for_each(|(node, access)| node.release_for(access));
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
