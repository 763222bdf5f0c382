//! Job `stream`: an image gets what images below it have, beside its guests, until it does not need them any more.
//!
//! Its content stays the same all the time, whatever becomes of the job: copied is only what the image has nothing of
//! ([`Node::populate`]). Invariant: the image's header names another file below it only when all that was copied is
//! stable, and it is over that one only when its header says so.

mod check;

use crate::chain::contains;
use crate::context::{JobContext, OnError};
use crate::copy::crew::{Crew, Failed};
use crate::engine::EngineHandle;
use crate::error::JobFailure;
use crate::event::Operation;
use crate::holdings::Holdings;
use crate::job::{JobDriver, JobKind, JobOptions, LocalFuture};
use crate::registry::Registry;
use crate::sweep::{Pass, Sweep, Todo, sweep};
use crate::transaction::TransactionError;
use crate::{points, reopen};
use check::Checked;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::{Node, Permissions, Request, Root, Stake};
use tidemark_backend::reactor::Handle;

/// What is said of nodes that it has for itself.
const BUSY: &str = "block device is in use by block job: stream";

/// Arguments of `block-stream`.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The job's id, unchecked.
    pub job_id: String,
    /// The image that gets what others have.
    pub device: String,
    /// The image to be over then, by its file's name.
    pub base: Option<String>,
    /// The same, by its node's name.
    pub base_node: Option<String>,
    /// The last image to copy from.
    pub bottom: Option<String>,
    /// What the header is to name then, rather than the file of the base.
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

/// One stream.
struct Stream {
    registry: Registry,
    graph: Arc<Graph>,
    checked: Checked,
    holdings: Holdings,
    root: RefCell<Option<Rc<Root>>>,
    backing_file: Option<String>,
    on_error: OnError,
    was_read_only: bool,
}

/// Starts a stream.
///
/// # Errors
/// With QEMU's texts; then nothing has happened.
pub fn start(jobs: &EngineHandle, graph: &Arc<Graph>, options: StreamOptions) -> Result<(), TransactionError> {
    let graph = graph.clone();
    jobs.ask_async(async move |registry: Registry| run(&registry, &graph, options).await)?
}

/// As [`start`], on the job thread.
///
/// # Errors
/// As there.
pub async fn run(registry: &Registry, graph: &Arc<Graph>, options: StreamOptions) -> Result<(), TransactionError> {
    let _turn = registry.edit().await;
    let checked = check::check(graph, &options)?;
    let image = checked.image.clone();
    let was_read_only = reopen::make_writable(registry.io(), graph, &image).await?;
    let begun = Stream::begin(registry, graph, checked, options, was_read_only);
    if begun.is_err() && was_read_only {
        reopen::set_read_only(registry.io(), graph, &image, true).await?;
    }
    begun
}

impl Stream {
    fn begin(
        registry: &Registry,
        graph: &Arc<Graph>,
        checked: Checked,
        options: StreamOptions,
        was_read_only: bool,
    ) -> Result<(), TransactionError> {
        let job = JobOptions {
            speed: options.speed,
            auto_finalize: options.auto_finalize,
            auto_dismiss: options.auto_dismiss,
            ..JobOptions::new(options.job_id, JobKind::Stream)
        };
        let stream = Rc::new(Self {
            registry: registry.clone(),
            graph: graph.clone(),
            holdings: Holdings::new(graph, BUSY),
            root: RefCell::default(),
            backing_file: options.backing_file,
            on_error: options.on_error,
            was_read_only,
            checked,
        });
        let filter = graph.add_stream(options.filter_node_name.as_deref(), &stream.checked.image, &stream.checked.last);
        let filter = filter.map_err(|error| TransactionError::Text(format!("Could not create node: {error}")))?;
        stream.holdings.list(filter.clone());
        let job = registry.create(job, stream.clone()).inspect_err(|_| stream.let_go())?;
        stream.take_nodes(job.id(), filter).inspect_err(|_| {
            registry.fail_early(&job);
            stream.let_go();
        })?;
        registry.start(&job);
        Ok(())
    }

    fn take_nodes(&self, job: &str, filter: Arc<Node>) -> Result<(), TransactionError> {
        let Checked { image, last, .. } = &self.checked;
        self.holdings.stake(&filter, Stake::of_access(Access::Read))?;
        let job = format!("stream job '{job}'");
        let below = last.below();
        let ends = |node: &Arc<Node>| below.as_ref().is_some_and(|below| Arc::ptr_eq(below, node));
        // What was read of an image once is to be what it shows at the end.
        for below in image.chain().take_while(|node| !ends(node)).skip(1) {
            self.holdings.stake(&below, Stake::of_job(&job, "intermediate node").unshared(Permissions::WRITE))?;
        }
        self.holdings.take(image, Access::Write)?;
        *self.root.borrow_mut() = Some(Root::new(image));
        self.holdings.reserve(image.chain().take_while(|node| !ends(node)).chain([filter]));
        Ok(())
    }

    fn root(&self) -> Option<Rc<Root>> {
        self.root.borrow().clone()
    }

    fn io(&self) -> &Handle {
        self.registry.io()
    }

    async fn run(self: Rc<Self>, ctx: JobContext) -> Result<(), JobFailure> {
        let Checked { image, last, .. } = &self.checked;
        if Arc::ptr_eq(image, last) {
            // There is nothing between.
            return Ok(());
        }
        let pass = Pass { len: image.length(), on_error: self.on_error, leaves_out: true };
        sweep(&ctx, &self, pass).await?;
        match self.root() {
            Some(root) => Ok(root.handle(ctx.io(), Request::flush()).await.1?),
            None => Ok(()),
        }
    }

    /// All is copied and stable: the image is over the base from now on, and says so.
    async fn leave_behind(&self) -> Result<(), JobFailure> {
        let _turn = self.registry.edit().await;
        self.holdings.unlist(self.io()).await;
        let Checked { image, last, base } = &self.checked;
        if image.below().is_none() {
            return Ok(());
        }
        let text = |error: &dyn std::fmt::Display| JobFailure::Text(error.to_string());
        let below = last.below();
        // Filters right above the base may be left out.
        let is_below = |base: &Arc<Node>| below.as_ref().is_some_and(|below| contains(below, base));
        let base = base.clone().filter(is_below).or_else(|| below.clone());
        let named = match (&base, &self.backing_file) {
            (None, _) => None,
            (Some(base), Some(file)) => Some((file.clone(), Some(base.format().to_owned()))),
            (Some(base), None) => {
                let (file, format) = image.name_of_base(base).map_err(|error| text(&error))?;
                Some((file, Some(format.to_owned())))
            }
        };
        image.name_backing(self.io(), named).await.map_err(|error| text(&error))?;
        let mut rebase = self.graph.prepare_rebase(image, base.as_ref()).map_err(|error| text(&error))?;
        self.holdings.free();
        let nodes = rebase.nodes().to_vec();
        let grace = points::hold_in_the_end(self.io(), &nodes, &mut || rebase.commit()).await;
        points::over(self.io(), &grace).await;
        rebase.conclude(&self.graph, self.io()).await;
        Ok(())
    }

    /// Lets go of the nodes.
    fn let_go(&self) {
        self.root.take();
        self.holdings.let_go();
    }
}

impl Sweep for Stream {
    fn look<'a>(&'a self, io: &'a Handle, offset: u64, len: u64) -> LocalFuture<'a, Result<(u64, Todo), Failed>> {
        Box::pin(async move {
            let Checked { image, last, .. } = &self.checked;
            let status = image.status_above(io, offset, len, last).await.map_err(|error| (Operation::Read, error))?;
            let todo = match status {
                status if status.depth < 2 => Todo::Nothing,
                status if status.zero => Todo::Zero,
                _ => Todo::Copy,
            };
            Ok((status.len, todo))
        })
    }

    /// Whatever fails, it is as with a read for QEMU.
    fn work<'a>(
        &'a self,
        io: &'a Handle,
        crew: &'a Crew,
        run: Range<u64>,
        _: Todo,
    ) -> LocalFuture<'a, Result<(), Failed>> {
        Box::pin(async move {
            let Some(root) = self.root() else { return Ok(()) };
            let image = root.visit();
            let mut memory = crew.spare();
            let populated = image.populate(io, run.start, run.end - run.start, &mut memory).await;
            crew.keep(memory);
            populated.map_err(|error| (Operation::Read, error))
        })
    }
}

impl JobDriver for Stream {
    fn run(self: Rc<Self>, ctx: JobContext) -> LocalFuture<'static, Result<(), JobFailure>> {
        Box::pin(Self::run(self, ctx))
    }

    fn prepare(&self) -> LocalFuture<'_, Result<(), JobFailure>> {
        Box::pin(self.leave_behind())
    }

    fn clean(&self) -> LocalFuture<'_, ()> {
        Box::pin(async {
            self.root.take();
            self.holdings.end(&self.registry).await;
            if self.was_read_only {
                reopen::make_read_only_again(&self.registry, &self.graph, &self.checked.image).await;
            }
        })
    }
}
