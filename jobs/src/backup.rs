//! Job `backup`: a point in time of a node, copied to another node while guests write on.
//!
//! The source's writes wait for what they overwrite from the hold on that begins the backup until it is finalized. Which
//! chunks are owed is the bitmap's content at that hold; until it is known (microseconds later) every write waits.

pub(crate) mod check;
pub(crate) mod drive;
mod finish;

use crate::action::{BackupOptions, BackupSync, BitmapMode};
use crate::context::JobContext;
use crate::copy::{CopyOptions, check_whole, copy_owed, leave_out_below};
use crate::error::JobFailure;
use crate::group::Group;
use crate::job::{Job, JobDriver, JobKind, JobOptions, LocalFuture};
use crate::opened;
use crate::point::Point;
use crate::registry::Registry;
use crate::transaction::TransactionError;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tidemark_backend::bitmaps::{Frozen, Stage};
use tidemark_backend::error::GraphError;
use tidemark_backend::graph::{Graph, check_apart};
use tidemark_backend::io::Memory;
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::copy_before_write::{CopyBeforeWrite, Phase};
use tidemark_backend::node::qcow2::image::Image;
use tidemark_backend::node::{Kind, Node, Request, Root, Stake, Staked};
use tidemark_backend::reactor::Handle;
use tidemark_cbt::{Bitmap, ChunkState};

/// What QEMU says of nodes that a backup has for itself.
const BUSY: &str = "block device is in use by block job: backup";
/// How often a job that only waits for its end looks around, in nanoseconds.
const IDLE_NS: u64 = 1_000_000_000;

/// What the backup uses of a bitmap.
struct Tracked {
    name: String,
    mode: BitmapMode,
    /// Its content at the point in time, until the chunks owed are known from it.
    frozen: RefCell<Option<Frozen>>,
    /// Whether it says what is copied; otherwise it only begins anew.
    selects: bool,
}

/// Bytes to copy, as QEMU counts them: whole clusters of the job.
#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    total: u64,
    /// What the last cluster has beyond the end of the disk, if it is copied.
    slack: u64,
}

/// One backup.
pub struct Backup {
    registry: Registry,
    graph: Arc<Graph>,
    copy: Arc<CopyBeforeWrite>,
    /// What is listed for it among the nodes.
    filter: RefCell<Option<Arc<Node>>>,
    target: Rc<Root>,
    /// The target, if it was opened for this alone.
    own: RefCell<Option<Arc<Node>>>,
    /// The door through which what was copied is discarded, if it is.
    discarding: RefCell<Option<Rc<Root>>>,
    /// What it keeps others from.
    stakes: RefCell<Vec<Staked>>,
    /// What the source was taken into use for.
    access: Cell<Option<Access>>,
    bitmap: Option<Tracked>,
    /// What is owed once the point in time has come; with the job's clusters for bits.
    owed: Arc<Bitmap>,
    sync: BackupSync,
    /// Whether the target compresses.
    compresses: bool,
    options: CopyOptions,
    amount: Cell<Amount>,
    installed: Cell<bool>,
    /// Whether the point in time has come for good.
    began: Cell<bool>,
}

impl Backup {
    /// Checks the options and makes the job, which waits to be started. Nothing of the source changes yet.
    ///
    /// # Errors
    /// With QEMU's texts.
    pub(crate) fn prepare(
        registry: &Registry,
        graph: &Arc<Graph>,
        stage: &mut Stage<Node>,
        options: BackupOptions,
        group: Option<Rc<Group>>,
    ) -> Result<(Rc<Job>, Rc<Self>), TransactionError> {
        let checked = check::check(graph, stage, &options)?;
        // Nobody comes through the filter of a source that nobody uses: it takes no place there.
        let displaces = checked.source.is_used();
        let backup = Self::make(registry, graph, checked, &options)?;
        if options.discard_source && displaces {
            let in_place = |error| TransactionError::Text(format!("Could not replace node: {error}"));
            backup.take_source(Access::Write).map_err(in_place).inspect_err(|_| backup.let_go())?;
        }
        let id = options.job_id.unwrap_or_default();
        let job = JobOptions {
            speed: options.speed,
            auto_finalize: options.auto_finalize,
            auto_dismiss: options.auto_dismiss,
            group,
            ..JobOptions::new(id, JobKind::Backup)
        };
        let job = registry.create(job, backup.clone()).inspect_err(|_| backup.let_go())?;
        backup.bind(stage, options.discard_source).inspect_err(|_| {
            registry.fail_early(&job);
            backup.let_go();
        })?;
        Ok((job, backup))
    }

    /// Has the target closed with the job.
    pub(crate) fn own(&self, target: Arc<Node>) {
        *self.own.borrow_mut() = Some(target);
    }

    /// Takes the target into use.
    fn make(
        registry: &Registry,
        graph: &Arc<Graph>,
        checked: check::Checked,
        options: &BackupOptions,
    ) -> Result<Rc<Self>, TransactionError> {
        let check::Checked { source, target, mode, copy: copy_options } = checked;
        let mut copying = options.copying;
        let image = if options.compress { check::compressing(&target) } else { None };
        // What is compressed is a whole cluster.
        copying.min_chunk = image.map_or(0, Image::cluster_size).max(copying.min_chunk);
        let compresses = image.is_some();
        let copy = CopyBeforeWrite::new(&source, &target, None, copying).map_err(|error| text(&error))?;
        let in_filter = |error: GraphError| TransactionError::Text(format!("Could not create node: {error}"));
        let filter = graph.add_filter(options.filter_node_name.as_deref(), &copy).map_err(in_filter)?;
        let remove = || graph.remove_filter(&filter);
        let stake = target.stake(Stake::of_filter(filter.name())).map_err(in_filter).inspect_err(|_| remove())?;
        target.hold_for(Access::Target).map_err(in_filter).inspect_err(|_| remove())?;
        let owed = check::cluster(options, &target)
            .and_then(|cluster| Bitmap::new(source.length(), cluster).map_err(|error| text(&error)))
            .inspect_err(|_| {
                target.let_go_for(Access::Target);
                remove();
            })?;
        if options.sync == BackupSync::Top {
            copy.leave_out_below(owed.granularity().bytes());
        }
        let selects = matches!(options.sync, BackupSync::Incremental | BackupSync::Bitmap);
        let bitmap = options.bitmap.clone().zip(mode);
        let bitmap = bitmap.map(|(name, mode)| Tracked { name, mode, frozen: RefCell::default(), selects });
        target.set_busy(Some(BUSY));
        filter.set_busy(Some(BUSY));
        Ok(Rc::new(Self {
            registry: registry.clone(),
            graph: graph.clone(),
            filter: RefCell::new(Some(filter)),
            target: Root::new(&target),
            own: RefCell::default(),
            discarding: RefCell::default(),
            stakes: RefCell::new(vec![stake]),
            access: Cell::default(),
            bitmap,
            owed: Arc::new(owed),
            sync: options.sync,
            compresses,
            options: copy_options,
            amount: Cell::default(),
            installed: Cell::default(),
            began: Cell::default(),
            copy,
        }))
    }

    /// The image that compresses what is copied.
    fn compressing(&self) -> Option<&Image> {
        if self.compresses { check::compressing(self.copy.target()) } else { None }
    }

    /// Takes the source into use; who writes to it discards what was copied.
    fn take_source(&self, access: Access) -> Result<(), GraphError> {
        let source = self.source();
        source.hold_for(access)?;
        self.access.set(Some(access));
        if access == Access::Write {
            *self.discarding.borrow_mut() = Some(Root::new(source));
        }
        Ok(())
    }

    /// Takes the source, unless it is, and its bitmap into use.
    fn bind(&self, stage: &mut Stage<Node>, discards: bool) -> Result<(), TransactionError> {
        let (source, target) = (self.source(), self.target.node());
        if let Some(filter) = &*self.filter.borrow() {
            // Writes to the source itself wait for their copies, those to what it shows of others do not.
            self.stakes.borrow_mut().push(filter.stake(Stake::of_access(Access::Read))?);
            check_apart(source, &target, filter.name())?;
        }
        if self.access.get().is_none() {
            self.take_source(if discards { Access::Write } else { Access::Format })?;
        }
        if let Some(tracked) = &self.bitmap {
            *tracked.frozen.borrow_mut() =
                Some(stage.freeze(source, &tracked.name, tracked.mode != BitmapMode::Never)?);
        }
        Ok(())
    }

    async fn copy_all(&self, ctx: &JobContext) -> Result<(), JobFailure> {
        if self.sync == BackupSync::None {
            loop {
                check_whole(&self.copy)?;
                ctx.pause_point().await?;
                ctx.sleep(IDLE_NS).await;
            }
        }
        if self.sync == BackupSync::Top {
            leave_out_below(ctx, &self.copy).await?;
        }
        let discarding = self.discarding.borrow().clone();
        copy_owed(ctx, &self.copy, &self.target, discarding, self.options).await?;
        self.flush(ctx.io()).await
    }

    /// What was copied is stable before the job says that it is done.
    async fn flush(&self, io: &Handle) -> Result<(), JobFailure> {
        let flush = Request { kind: Kind::Flush, fua: false, offset: 0, len: 0, memory: Memory::empty() };
        Ok(self.target.handle(io, flush).await.1?)
    }

    fn total(&self) -> u64 {
        self.amount.get().total.saturating_sub(self.copy.left_out())
    }

    fn done(&self) -> u64 {
        let slack = self.amount.get().slack;
        let map = self.copy.map();
        let last = map.len().saturating_sub(1);
        let ahead = if map.state(last) == ChunkState::Done { 0 } else { slack };
        self.total().saturating_sub(map.owed_bytes()).saturating_sub(ahead)
    }
}

impl Point for Backup {
    fn source(&self) -> &Arc<Node> {
        self.copy.source()
    }

    fn install(&self) {
        self.compressing().into_iter().for_each(Image::begin_compressing);
        self.copy.install();
        self.installed.set(true);
    }

    fn map_owed(&self) {
        let frozen = self.bitmap.as_ref().filter(|tracked| tracked.selects).map(|tracked| tracked.frozen.take());
        match frozen {
            Some(frozen) => frozen.iter().flat_map(Frozen::leaves).for_each(|leaf| self.owed.merge(leaf)),
            None => self.owed.mark(0, self.owed.len()),
        }
        self.copy.map().owe(&self.owed);
        let total = self.owed.count();
        self.amount.set(Amount { total, slack: total - self.copy.map().owed_bytes() });
        self.copy.enter_phase(Phase::Settling);
    }

    fn open(&self) {
        self.began.set(true);
        self.copy.enter_phase(Phase::Ready);
    }
}

impl JobDriver for Backup {
    fn run(self: Rc<Self>, ctx: JobContext) -> LocalFuture<'static, Result<(), JobFailure>> {
        Box::pin(async move { self.copy_all(&ctx).await })
    }

    fn progress(&self) -> Option<(u64, u64)> {
        Some((self.done(), self.total()))
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
        Box::pin(async {
            self.end().await;
            if let Some(own) = self.own.take() {
                opened::let_go(self.registry.io(), &self.graph, own).await;
            }
        })
    }
}

fn text(error: &dyn std::fmt::Display) -> TransactionError {
    TransactionError::Text(error.to_string())
}
