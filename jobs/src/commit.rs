//! Job `commit`: an image gets what those above it have, and whoever was over the uppermost of these comes to it.
//!
//! Of the topmost image of a chain, which guests write to, that is [`crate::mirror::active_commit`]; here it is of one
//! below. What is seen from above the committed images is the same all the time; of the base alone it is not, from the
//! beginning on. Invariant: the header of an image names the base only when all that was copied is stable there, and the
//! image comes to it only when its header says so.

mod check;

use crate::context::{JobContext, OnError};
use crate::copy::crew::{Crew, Failed};
use crate::copy::piece::bring;
use crate::engine::EngineHandle;
use crate::error::JobFailure;
use crate::event::Operation;
use crate::holdings::Holdings;
use crate::job::{JobDriver, JobKind, JobOptions, LocalFuture};
use crate::lead::lead;
use crate::mirror::active_commit::{self, ActiveCommit};
use crate::registry::Registry;
use crate::sweep::{Pass, Sweep, Todo, sweep};
use crate::transaction::TransactionError;
use crate::{opened, reopen, resize};
use check::{Checked, Found, check_frozen};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_backend::error::GraphError;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::Memory;
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::qcow2::create::Preallocation;
use tidemark_backend::node::{Kind, Node, Permissions, Request, Root, Stake};
use tidemark_backend::reactor::Handle;

/// What is said of nodes that it has for itself.
const BUSY: &str = "block device is in use by block job: commit";

/// Arguments of `block-commit`.
#[derive(Clone, Debug)]
pub struct CommitOptions {
    /// The job's id, unchecked.
    pub job_id: String,
    /// The topmost node of the chain.
    pub device: String,
    /// The image that gets what others have.
    pub base_node: Option<String>,
    /// The same, by its file's name.
    pub base: Option<String>,
    /// The uppermost image that is committed; the topmost one if `None`.
    pub top_node: Option<String>,
    /// The same, by its file's name.
    pub top: Option<String>,
    /// What the header above is to name then, rather than the file of the base.
    pub backing_file: Option<String>,
    /// Bytes per second, 0 for no limit.
    pub speed: i64,
    /// About reads and writes.
    pub on_error: OnError,
    /// A name for what stands for the job among the nodes.
    pub filter_node_name: Option<String>,
    /// Whether the result takes effect by itself.
    pub auto_finalize: bool,
    /// Whether the job is forgotten by itself.
    pub auto_dismiss: bool,
}

/// One commit.
struct Commit {
    registry: Registry,
    graph: Arc<Graph>,
    checked: Checked,
    holdings: Holdings,
    root: RefCell<Option<Rc<Root>>>,
    backing_file: Option<String>,
    on_error: OnError,
    was_read_only: Cell<bool>,
}

/// Starts a commit.
///
/// # Errors
/// With QEMU's texts; then nothing has happened.
pub fn start(jobs: &EngineHandle, graph: &Arc<Graph>, options: CommitOptions) -> Result<(), TransactionError> {
    let graph = graph.clone();
    jobs.ask_async(async move |registry: Registry| run(&registry, &graph, options).await)?
}

/// As [`start`], on the job thread.
///
/// # Errors
/// As there.
pub async fn run(registry: &Registry, graph: &Arc<Graph>, options: CommitOptions) -> Result<(), TransactionError> {
    let _turn = registry.edit().await;
    let checked = match check::check(graph, &options)? {
        Found::Active { top, base, between } => {
            return active_commit::start(registry, graph, active(options, top, base, between)).await;
        }
        Found::Intermediate(checked) => checked,
    };
    registry.check_id(&options.job_id)?;
    Commit::begin(registry, graph, checked, options).await
}

fn active(options: CommitOptions, top: Arc<Node>, base: Arc<Node>, between: Vec<Arc<Node>>) -> ActiveCommit {
    let CommitOptions { job_id, speed, on_error, filter_node_name, auto_finalize, auto_dismiss, .. } = options;
    ActiveCommit { job_id, top, base, between, filter_node_name, speed, on_error, auto_finalize, auto_dismiss }
}

/// Keeps everybody who does not come through `top` from what is between it and `base`: that shows something else as soon
/// as the base is written to.
///
/// # Errors
/// Somebody reads there.
pub(crate) fn stake_between(
    holdings: &Holdings,
    job: &str,
    top: &Arc<Node>,
    base: &Arc<Node>,
) -> Result<(), GraphError> {
    let job = format!("commit job '{job}'");
    holdings.stake(top, Stake::of_job(&job, "main node").decoupling())?;
    // Filters right above the base show what it does.
    let end = base.unfiltered();
    let mut between = top.chain().skip(1).take_while(|node| !Arc::ptr_eq(&node.unfiltered(), &end));
    between.try_for_each(|node| {
        holdings.stake(&node, Stake::of_job(&job, "intermediate node").unshared(Permissions::READ))?;
        if node.is_filter() { Ok(()) } else { holdings.hide(&node) }
    })
}

fn text(error: &dyn std::fmt::Display) -> JobFailure {
    JobFailure::Text(error.to_string())
}

impl Commit {
    async fn begin(
        registry: &Registry,
        graph: &Arc<Graph>,
        checked: Checked,
        options: CommitOptions,
    ) -> Result<(), TransactionError> {
        let job = JobOptions {
            speed: options.speed,
            auto_finalize: options.auto_finalize,
            auto_dismiss: options.auto_dismiss,
            ..JobOptions::new(options.job_id, JobKind::Commit)
        };
        let commit = Rc::new(Self {
            registry: registry.clone(),
            graph: graph.clone(),
            holdings: Holdings::new(graph, BUSY),
            root: RefCell::default(),
            backing_file: options.backing_file,
            on_error: options.on_error,
            was_read_only: Cell::new(false),
            checked,
        });
        let job = registry.create(job, commit.clone())?;
        if let Err(error) = commit.claim(job.id(), options.filter_node_name.as_deref()).await {
            registry.fail_early(&job);
            commit.let_go();
            commit.close_base().await?;
            return Err(error);
        }
        registry.start(&job);
        Ok(())
    }

    /// Makes the base writable and takes the nodes.
    async fn claim(&self, job: &str, filter: Option<&str>) -> Result<(), TransactionError> {
        self.was_read_only.set(reopen::make_writable(self.io(), &self.graph, &self.checked.base).await?);
        self.take_nodes(job, filter)
    }

    /// The base is as it was, when nothing has been done.
    async fn close_base(&self) -> Result<(), TransactionError> {
        if self.was_read_only.take() {
            reopen::set_read_only(self.io(), &self.graph, &self.checked.base, true).await?;
        }
        Ok(())
    }

    fn take_nodes(&self, job: &str, filter: Option<&str>) -> Result<(), TransactionError> {
        let Checked { device, top, base, .. } = &self.checked;
        check_frozen(&self.graph, top, base)?;
        if self.backing_file.is_none() {
            // Rather now than when all is copied.
            let above = self.graph.images_over(&top.unfiltered());
            above.iter().try_for_each(|above| above.name_of_base(base).map(drop))?;
        }
        self.holdings.list(self.graph.add_job(filter, top, "commit_top", true)?);
        stake_between(&self.holdings, job, top, base)?;
        // Nobody else writes to the base.
        self.holdings.stake(base, Stake::of_access(Access::Write).unshared(Permissions::WRITE))?;
        self.holdings.take(base, Access::Write)?;
        self.holdings.take(top, Access::Read)?;
        self.holdings.hide(&top.unfiltered())?;
        *self.root.borrow_mut() = Some(Root::new(base));
        let ends = base.below();
        let is_end = |node: &Arc<Node>| ends.as_ref().is_some_and(|end| Arc::ptr_eq(end, node));
        self.holdings.reserve(top.chain().take_while(|node| !is_end(node)).chain([device.clone()]));
        Ok(())
    }

    fn io(&self) -> &Handle {
        self.registry.io()
    }

    /// One request to the base.
    async fn to_base(&self, io: &Handle, request: Request) -> Result<(), Failed> {
        let root = self.root.borrow().clone();
        let Some(root) = root else { return Ok(()) };
        root.handle(io, request).await.1.map_err(|error| (Operation::Write, error))
    }

    async fn run(self: Rc<Self>, ctx: JobContext) -> Result<(), JobFailure> {
        let Checked { top, base, .. } = &self.checked;
        if base.length() < top.length() {
            let _turn = self.registry.edit().await;
            let grown = resize::change(&self.registry, &self.graph, base, (top.length(), Preallocation::Off)).await;
            grown.map_err(|error| text(&error))?;
        }
        sweep(&ctx, &self, Pass { len: top.length(), on_error: self.on_error, leaves_out: false }).await?;
        self.hide_tail(ctx.io()).await?;
        Ok(self.to_base(ctx.io(), Request::flush()).await.map_err(|(_, error)| error)?)
    }

    /// What the base has past the end of the uppermost committed image shows nowhere above: there it is zeroes, and so it
    /// is to stay.
    async fn hide_tail(&self, io: &Handle) -> Result<(), JobFailure> {
        let Checked { top, base, .. } = &self.checked;
        let above = self.graph.images_over(&top.unfiltered()).iter().map(|above| above.length()).max().unwrap_or(0);
        let (offset, end) = (top.length(), above.min(base.length()));
        if offset >= end {
            return Ok(());
        }
        let kind = Kind::Zero { unmap: true };
        let zero = Request { kind, fua: false, offset, len: end - offset, memory: Memory::empty() };
        Ok(self.to_base(io, zero).await.map_err(|(_, error)| error)?)
    }

    /// All is copied and stable: whoever is over the uppermost image comes to the base, and its header says so.
    async fn lead_to_base(&self) -> Result<(), JobFailure> {
        let _turn = self.registry.edit().await;
        let Checked { top, base, .. } = &self.checked;
        // Nobody else has a turn.
        self.holdings.free();
        for above in self.graph.images_over(&top.unfiltered()) {
            self.name_base(&above).await?;
        }
        self.release();
        let swap = self.graph.prepare_swap(top, base).map_err(|error| text(&error))?;
        lead(self.io(), &self.graph, swap).await;
        self.holdings.unlist(self.io()).await;
        opened::let_go(self.io(), &self.graph, top.clone()).await;
        Ok(())
    }

    /// The header of an image names the base.
    async fn name_base(&self, above: &Arc<Node>) -> Result<(), JobFailure> {
        let base = &self.checked.base;
        let (file, format) = match &self.backing_file {
            Some(file) => (file.clone(), base.format()),
            None => above.name_of_base(base).map_err(|error| text(&error))?,
        };
        let named = Some((file, Some(format.to_owned())));
        reopen::write_header(self.io(), &self.graph, above, named).await.map_err(|error| text(&error))
    }

    fn release(&self) {
        self.root.take();
        self.holdings.release();
    }

    /// Lets go of the nodes.
    fn let_go(&self) {
        self.root.take();
        self.holdings.let_go();
    }
}

impl Sweep for Commit {
    fn look<'a>(&'a self, io: &'a Handle, offset: u64, len: u64) -> LocalFuture<'a, Result<(u64, Todo), Failed>> {
        Box::pin(async move {
            let Checked { top, last, .. } = &self.checked;
            let status = top.status_above(io, offset, len, last).await.map_err(|error| (Operation::Read, error))?;
            let todo = match status {
                status if status.depth == 0 => Todo::Nothing,
                status if status.zero => Todo::Zero,
                _ => Todo::Copy,
            };
            Ok((status.len, todo))
        })
    }

    fn work<'a>(
        &'a self,
        io: &'a Handle,
        crew: &'a Crew,
        run: Range<u64>,
        todo: Todo,
    ) -> LocalFuture<'a, Result<(), Failed>> {
        Box::pin(async move {
            let (offset, len) = (run.start, run.end - run.start);
            if todo == Todo::Zero {
                let kind = Kind::Zero { unmap: true };
                return self.to_base(io, Request { kind, fua: false, offset, len, memory: Memory::empty() }).await;
            }
            let root = self.root.borrow().clone();
            let Some(root) = root else { return Ok(()) };
            let read = async |request| self.checked.top.handle(io, request).await;
            bring(crew, run, read, async |request| root.handle(io, request).await).await
        })
    }
}

impl JobDriver for Commit {
    fn run(self: Rc<Self>, ctx: JobContext) -> LocalFuture<'static, Result<(), JobFailure>> {
        Box::pin(Self::run(self, ctx))
    }

    fn prepare(&self) -> LocalFuture<'_, Result<(), JobFailure>> {
        Box::pin(self.lead_to_base())
    }

    fn clean(&self) -> LocalFuture<'_, ()> {
        Box::pin(async {
            self.root.take();
            self.holdings.end(&self.registry).await;
            if self.was_read_only.get() {
                reopen::make_read_only_again(&self.registry, &self.graph, &self.checked.base).await;
            }
        })
    }
}
