//! Job `x-fleece`: a point in time of a node that others read, as long as they need it.
//!
//! From the hold on that begins it a write to the source waits until what it overwrites is on the target, and a node of
//! its own reads what was there (`snapshot-access`). The job is ready at once. Completed, it takes the word of whoever
//! completed it that everything was fetched; ended in any other way it takes nobody's. What is to happen to exports of
//! the node that reads is for whoever made the job to say ([`Leave`]): this knows none.

use crate::action::{BitmapMode, FleeceOptions, Leave};
use crate::backup::check::{check_free, find};
use crate::context::JobContext;
use crate::copy::check_whole;
use crate::error::JobFailure;
use crate::job::{Job, JobDriver, JobKind, JobOptions, LocalFuture};
use crate::lead::lead_past_point;
use crate::point::Point;
use crate::registry::Registry;
use crate::transaction::TransactionError;
use crate::{checkpoint, points};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::slice;
use std::sync::Arc;
use tidemark_backend::bitmaps::{Frozen, Outcome, Stage};
use tidemark_backend::error::GraphError;
use tidemark_backend::graph::{Graph, check_apart};
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::copy_before_write::{self, CopyBeforeWrite, Phase};
use tidemark_backend::node::{Node, Stake, Staked};
use tidemark_backend::reactor::Handle;
use tidemark_cbt::Bitmap;

/// What is said of nodes that it has for itself.
const BUSY: &str = "block device is in use by block job: x-fleece";
/// How often it looks whether its point in time is still whole, in nanoseconds.
const IDLE_NS: u64 = 1_000_000_000;
/// How often it looks, at its end, whether copies and readers are gone, in nanoseconds.
const QUIET_NS: u64 = 1_000_000;

/// What it uses of a bitmap.
struct Tracked {
    name: String,
    mode: BitmapMode,
    /// What it marked at the point in time.
    frozen: Frozen,
}

/// One point in time that is read.
pub struct Fleece {
    registry: Registry,
    graph: Arc<Graph>,
    copy: Arc<CopyBeforeWrite>,
    /// What is listed for it among the nodes, the reader last.
    listed: RefCell<Vec<Arc<Node>>>,
    bitmap: RefCell<Option<Tracked>>,
    /// Whether only what the bitmap marks is kept.
    selects: bool,
    held: Cell<bool>,
    /// What it keeps others from.
    stakes: RefCell<Vec<Staked>>,
    installed: Cell<bool>,
    /// Whether the point in time has come for good.
    began: Cell<bool>,
    leave: Leave,
}

impl Fleece {
    /// Checks the options and makes the job, which waits to be started. Nothing of the source changes yet.
    ///
    /// # Errors
    /// With QEMU's texts, where it has such.
    pub(crate) fn prepare(
        registry: &Registry,
        graph: &Arc<Graph>,
        stage: &mut Stage<Node>,
        options: FleeceOptions,
    ) -> Result<(Rc<Job>, Rc<Self>), TransactionError> {
        let (source, target) = (find(graph, &options.node)?, find(graph, &options.target)?);
        check_free(&source)?;
        check_free(&target)?;
        copy_before_write::check(&source, &target, options.copying)?;
        if options.bitmap.is_none() && (options.selects || options.bitmap_mode.is_some()) {
            let text = "sync 'bitmap' and bitmap-mode are about a bitmap: provide its name";
            return Err(TransactionError::Text(text.to_owned()));
        }
        let fleece = Self::make(registry, graph, &source, &target, &options)?;
        let job = JobOptions::new(&options.job_id, JobKind::Fleece);
        let job = registry.create(job, fleece.clone()).inspect_err(|_| fleece.let_go())?;
        fleece.bind(stage, &options).inspect_err(|_| {
            registry.fail_early(&job);
            fleece.let_go();
        })?;
        Ok((job, fleece))
    }

    /// Takes the target into use and lists the nodes.
    fn make(
        registry: &Registry,
        graph: &Arc<Graph>,
        source: &Arc<Node>,
        target: &Arc<Node>,
        options: &FleeceOptions,
    ) -> Result<Rc<Self>, TransactionError> {
        let copy = CopyBeforeWrite::for_readers(source, target, options.copying).map_err(GraphError::from)?;
        target.hold_for(Access::Target)?;
        target.set_busy(Some(BUSY));
        let fleece = Rc::new(Self {
            registry: registry.clone(),
            graph: graph.clone(),
            listed: RefCell::default(),
            bitmap: RefCell::default(),
            selects: options.selects,
            held: Cell::new(false),
            stakes: RefCell::default(),
            installed: Cell::default(),
            began: Cell::default(),
            leave: options.leave.clone(),
            copy,
        });
        fleece.list(options).inspect_err(|_| fleece.let_go())?;
        Ok(fleece)
    }

    fn list(&self, options: &FleeceOptions) -> Result<(), GraphError> {
        let filter = self.graph.add_filter(options.filter_node_name.as_deref(), &self.copy)?;
        self.listed.borrow_mut().push(filter.clone());
        filter.set_busy(Some(BUSY));
        let writes = Stake::of_filter(filter.name());
        let reads = Stake::of_access(Access::Read);
        *self.stakes.borrow_mut() = vec![self.copy.target().stake(writes)?, filter.stake(reads)?];
        check_apart(self.source(), self.copy.target(), filter.name())?;
        let reader = self.graph.add_reader(&options.snapshot_node_name, &filter)?;
        self.listed.borrow_mut().push(reader);
        Ok(())
    }

    /// Takes the source and its bitmap into use. The reader gets a bitmap of the same name and content.
    fn bind(&self, stage: &mut Stage<Node>, options: &FleeceOptions) -> Result<(), TransactionError> {
        let source = self.source();
        source.hold_for(Access::Format)?;
        self.held.set(true);
        let Some(name) = &options.bitmap else { return Ok(()) };
        let mode = options.bitmap_mode.unwrap_or(BitmapMode::OnSuccess);
        let granularity = stage.granularity(source, name)?;
        if let Some(reader) = self.listed.borrow().last() {
            stage.add(reader, name, Some(granularity), false, true)?;
            stage.merge(reader, name, &[(source.clone(), name.clone())])?;
        }
        let frozen = stage.freeze(source, name, mode != BitmapMode::Never)?;
        *self.bitmap.borrow_mut() = Some(Tracked { name: name.clone(), mode, frozen });
        Ok(())
    }

    /// In one hold: takes the point in time off the source and lets go of the bitmap.
    async fn finish(&self, fetched: bool) {
        if !self.installed.replace(false) {
            return;
        }
        // Guests wait for nothing any more, and nobody reads what they write.
        self.copy.enter_phase(Phase::Ended);
        self.leave.call();
        while !self.copy.is_quiet() {
            // Copies that guests' writes have started still write to the target.
            self.look_later().await;
        }
        let mut released = None;
        let outcome = self.bitmap.take().map(|tracked| (self.outcome(&tracked, fetched), tracked.name));
        let mut edit = || {
            self.copy.uninstall();
            if let Some((outcome, name)) = &outcome {
                released = Some(self.source().points().tracking().release(name, outcome.clone()));
            }
        };
        let grace = points::hold_in_the_end(self.io(), slice::from_ref(self.source()), &mut edit).await;
        points::over(self.io(), &grace).await;
        if let Some(released) = released {
            released.settle();
            // Before anybody hears of the job's end.
            checkpoint::save(self.io(), slice::from_ref(self.source())).await;
        }
        self.wait_for_readers().await;
    }

    async fn wait_for_readers(&self) {
        let reader = self.listed.borrow().last().cloned();
        while reader.as_ref().is_some_and(|reader| reader.is_used()) {
            self.look_later().await;
        }
    }

    async fn look_later(&self) {
        self.io().sleep_until(self.io().read_clock().saturating_add(QUIET_NS)).await;
    }

    /// What the bitmap becomes.
    fn outcome(&self, tracked: &Tracked, fetched: bool) -> Outcome {
        match (tracked.mode, fetched) {
            (BitmapMode::Never, _) | (BitmapMode::OnSuccess, false) => Outcome::Keep,
            (_, true) => Outcome::Replace(None),
            // If it cannot be said what was fetched, nothing was.
            (BitmapMode::Always, false) => {
                self.not_fetched(tracked).map_or(Outcome::Keep, |left| Outcome::Replace(Some(left)))
            }
        }
    }

    /// What was marked and has not been discarded by its reader.
    fn not_fetched(&self, tracked: &Tracked) -> Option<Arc<Bitmap>> {
        let (access, first) = (self.copy.access()?, tracked.frozen.leaves().first()?);
        let left = Bitmap::new(first.len(), first.granularity()).ok()?;
        tracked.frozen.leaves().iter().for_each(|leaf| left.merge(leaf));
        let (block, len) = (left.granularity().bytes(), left.len());
        let mut at = 0;
        while let Some(dirty) = left.next_marked(at).map(|run| run.start) {
            let end = (dirty - dirty % block + block).min(len);
            if access.next_marked(dirty).is_none_or(|kept| kept.start >= end) {
                left.clear_range(dirty, end - dirty);
            }
            at = end;
        }
        Some(Arc::new(left))
    }

    fn io(&self) -> &Handle {
        self.registry.io()
    }

    /// Lets go of the nodes; who came to the filter comes to the source.
    async fn end(&self) {
        self.stakes.take();
        let mut listed = self.listed.take();
        listed.drain(listed.len().min(1)..).for_each(|reader| self.graph.remove_filter(&reader));
        if let Some(filter) = listed.pop() {
            lead_past_point(&self.registry, &self.graph, &filter, self.began.get()).await;
        }
        self.let_go();
    }

    /// Lets go of the nodes.
    fn let_go(&self) {
        self.stakes.take();
        let listed = std::mem::take(&mut *self.listed.borrow_mut());
        listed.iter().rev().for_each(|node| self.graph.remove_filter(node));
        drop(listed);
        self.copy.target().set_busy(None);
        self.copy.target().let_go_for(Access::Target);
        if self.held.take() {
            self.source().let_go_for(Access::Format);
        }
    }
}

impl Point for Fleece {
    fn source(&self) -> &Arc<Node> {
        self.copy.source()
    }

    fn install(&self) {
        self.copy.install();
        self.installed.set(true);
    }

    fn map_owed(&self) {
        if let Some(access) = self.copy.access() {
            match &*self.bitmap.borrow() {
                Some(tracked) if self.selects => tracked.frozen.leaves().iter().for_each(|leaf| access.merge(leaf)),
                _ => access.mark(0, access.len()),
            }
            self.copy.map().owe(access);
        }
        self.copy.enter_phase(Phase::Settling);
    }

    fn open(&self) {
        self.began.set(true);
        self.copy.enter_phase(Phase::Ready);
    }
}

impl JobDriver for Fleece {
    fn run(self: Rc<Self>, ctx: JobContext) -> LocalFuture<'static, Result<(), JobFailure>> {
        Box::pin(async move {
            ctx.ready();
            while !ctx.is_completing() {
                check_whole(&self.copy)?;
                ctx.sleep(IDLE_NS).await;
                ctx.pause_point().await?;
            }
            Ok(())
        })
    }

    fn copies_before_writes(&self) -> Option<(u64, u64)> {
        Some(self.copy.copied_for_writes())
    }

    fn commit(&self) -> LocalFuture<'_, ()> {
        Box::pin(self.finish(true))
    }

    fn abort(&self) -> LocalFuture<'_, ()> {
        Box::pin(self.finish(false))
    }

    fn clean(&self) -> LocalFuture<'_, ()> {
        Box::pin(self.end())
    }
}
