//! Transactions: all actions at one point in time, or none.
//!
//! Every action is staged in order, seeing those before it, while guests go on; the first that cannot be done ends the
//! transaction with nothing changed. Then one hold of all nodes concerned swaps what has to be swapped, and after grace
//! what was swapped out is put where it belongs. A single command is a transaction of one action.

use crate::action::{Action, BitmapName, DriveBackupOptions, MergeSource};
use crate::backup::{Backup, drive};
use crate::checkpoint;
use crate::engine::EngineHandle;
use crate::error::{ErrorClass, JobError};
use crate::fleece::Fleece;
use crate::group::Group;
use crate::internal::Internal;
use crate::job::{Job, LocalFuture};
use crate::opened;
use crate::point::Point;
use crate::points::{self, NotHeld};
use crate::registry::Registry;
use crate::snapshot::Snapshot;
use crate::together;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_backend::bitmaps::{BitmapError, Stage};
use tidemark_backend::graph::Graph;
use tidemark_backend::node::{Driver, Node};

/// Why nothing of a transaction was done.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// `abort`.
    #[error("Transaction aborted using Abort action")]
    Aborted,
    /// An action on bitmaps.
    #[error(transparent)]
    Bitmap(#[from] BitmapError),
    /// A job that cannot be made, or the job thread.
    #[error(transparent)]
    Job(#[from] JobError),
    /// Anything else.
    #[error("{0}")]
    Text(String),
}

impl TransactionError {
    /// The class on the wire.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Job(error) => error.class(),
            _ => ErrorClass::Generic,
        }
    }
}

impl From<NotHeld> for TransactionError {
    fn from(_: NotHeld) -> Self {
        Self::Text("Cannot make a point in time: a queue does not leave its critical section; try again".to_owned())
    }
}

impl From<tidemark_backend::error::GraphError> for TransactionError {
    fn from(error: tidemark_backend::error::GraphError) -> Self {
        Self::Text(error.to_string())
    }
}

/// Runs a transaction on the job thread and waits for its end. `grouped` jobs succeed or fail together.
///
/// # Errors
/// The first action's that cannot be done; then nothing has happened.
pub fn transact(
    jobs: &EngineHandle,
    graph: &Arc<Graph>,
    actions: Vec<Action>,
    grouped: bool,
) -> Result<(), TransactionError> {
    let graph = graph.clone();
    jobs.ask_async(async move |registry| run(&registry, &graph, actions, grouped).await)?
}

/// Runs a transaction, on the job thread.
///
/// # Errors
/// As [`transact`].
pub async fn run(
    registry: &Registry,
    graph: &Arc<Graph>,
    actions: Vec<Action>,
    grouped: bool,
) -> Result<(), TransactionError> {
    let _turn = registry.edit().await;
    let group = grouped.then(Group::new);
    let mut plan = Plan {
        registry,
        graph,
        group,
        stage: Stage::new(),
        begun: Vec::new(),
        snapshots: Vec::new(),
        internal: Vec::new(),
    };
    let result = match plan.prepare_all(actions).await {
        Ok(()) => plan.commit().await,
        Err(error) => Err(error),
    };
    if result.is_err() {
        plan.undo().await;
    }
    result
}

/// What a transaction has staged so far.
struct Plan<'a> {
    registry: &'a Registry,
    graph: &'a Arc<Graph>,
    group: Option<Rc<Group>>,
    stage: Stage<Node>,
    begun: Vec<(Rc<Job>, Rc<dyn Point>)>,
    snapshots: Vec<Snapshot>,
    internal: Vec<Internal>,
}

impl Plan<'_> {
    async fn prepare_all(&mut self, actions: Vec<Action>) -> Result<(), TransactionError> {
        for action in actions {
            self.prepare(action).await?;
        }
        Ok(())
    }

    async fn prepare(&mut self, action: Action) -> Result<(), TransactionError> {
        match action {
            Action::Abort => return Err(TransactionError::Aborted),
            Action::BitmapAdd { node, name, granularity, persistent, disabled } => {
                let text = || format!("Cannot find device='{node}' nor node-name='{node}'");
                let node = self.graph.find(&node).ok_or_else(|| TransactionError::Text(text()))?;
                self.stage.add(&node, &name, granularity, persistent, disabled)?;
            }
            Action::BitmapRemove(bitmap) => self.stage.remove(&self.node(&bitmap.node)?, &bitmap.name)?,
            Action::BitmapClear(bitmap) => self.stage.clear(&self.node(&bitmap.node)?, &bitmap.name)?,
            Action::BitmapEnable(bitmap) => self.stage.enable(&self.node(&bitmap.node)?, &bitmap.name)?,
            Action::BitmapDisable(bitmap) => self.stage.disable(&self.node(&bitmap.node)?, &bitmap.name)?,
            Action::BitmapMerge { target, sources } => self.merge(&target, sources)?,
            Action::Backup(options) => {
                let group = self.group.clone();
                let (job, backup) = Backup::prepare(self.registry, self.graph, &mut self.stage, options, group)?;
                self.begun.push((job, backup));
            }
            Action::DriveBackup(options) => self.drive_backup(options).await?,
            Action::Fleece(options) => {
                let (job, fleece) = Fleece::prepare(self.registry, self.graph, &mut self.stage, options)?;
                self.begun.push((job, fleece));
            }
            Action::Snapshot(options) => {
                let others = &self.snapshots;
                let snapshot = Snapshot::prepare(self.registry, self.graph, options, others).await?;
                self.snapshots.push(snapshot);
                Snapshot::lead(self.graph, &mut self.snapshots)?;
            }
            Action::InternalSnapshot(options) => {
                let io = self.registry.io();
                let below: Vec<_> = self.snapshots.iter().map(Snapshot::node).collect();
                self.internal.push(Internal::prepare(io, self.graph, options, &self.internal, &below).await?);
            }
        }
        Ok(())
    }

    async fn drive_backup(&mut self, options: DriveBackupOptions) -> Result<(), TransactionError> {
        let (options, target) = drive::open(self.registry.io(), self.graph, options).await?;
        let group = self.group.clone();
        match Backup::prepare(self.registry, self.graph, &mut self.stage, options, group) {
            Ok((job, backup)) => {
                backup.own(target);
                self.begun.push((job, backup));
                Ok(())
            }
            Err(error) => {
                opened::let_go(self.registry.io(), self.graph, target).await;
                Err(error)
            }
        }
    }

    fn merge(&mut self, target: &BitmapName, sources: Vec<MergeSource>) -> Result<(), TransactionError> {
        let node = self.node(&target.node)?;
        let mut found = Vec::new();
        for source in sources {
            let of = source.node.as_ref().map_or(Ok(node.clone()), |name| self.node(name))?;
            found.push((of, source.name));
        }
        Ok(self.stage.merge(&node, &target.name, &found)?)
    }

    fn node(&self, name: &str) -> Result<Arc<Node>, TransactionError> {
        self.graph.find(name).ok_or_else(|| TransactionError::Text(format!("Node '{name}' not found")))
    }

    /// The point in time: from here on nothing can fail but the hold itself.
    async fn commit(&mut self) -> Result<(), TransactionError> {
        self.stage.prepare()?;
        self.keep_changes().await?;
        let leaving = self.stage.leaving();
        self.flush_snapshots().await?;
        self.forget(&leaving).await?;
        let mut nodes = self.stage.nodes();
        // The stage begins the point in time on the nodes that it changes.
        let staged_nodes = nodes.len();
        for (_, point) in &self.begun {
            points::add(&mut nodes, point.source());
        }
        for snapshot in &self.snapshots {
            snapshot.nodes().iter().for_each(|node| points::add(&mut nodes, node));
        }
        self.internal.iter().for_each(|snapshot| points::add(&mut nodes, snapshot.node()));
        let stage = std::mem::take(&mut self.stage);
        let mut staged = Some(stage);
        let mut committed = None;
        let (begun, snapshots, internal) = (&self.begun, &mut self.snapshots, &self.internal);
        let mut edit = || {
            nodes.iter().skip(staged_nodes).for_each(|node| node.points().tracking().begin_point());
            committed = staged.take().map(Stage::commit);
            nodes.iter().for_each(|node| node.keep_changes());
            begun.iter().for_each(|(_, point)| point.install());
            snapshots.iter_mut().for_each(Snapshot::install);
            internal.iter().for_each(Internal::install);
        };
        let grace = match points::hold(self.registry.io(), &nodes, &mut edit).await {
            Ok(grace) => grace,
            Err(error) => {
                // What was to leave stays, and survives a crash as before.
                checkpoint::save(self.registry.io(), &nodes).await;
                return Err(error.into());
            }
        };
        begun.iter().for_each(|(_, point)| point.map_owed());
        snapshots.iter().for_each(Snapshot::settle);
        points::over(self.registry.io(), &grace).await;
        // Writes wait for them.
        let taken = self.take_internal().await;
        if let Some(committed) = committed {
            committed.settle();
        }
        // Before anybody hears of it.
        checkpoint::save(self.registry.io(), &nodes).await;
        self.conclude_snapshots().await;
        // The end of a backup may have stored them meanwhile, as long as they were there.
        self.forget(&leaving).await?;
        self.end_changes(&leaving).await;
        taken?;
        for (job, point) in self.begun.iter().rev() {
            point.open();
            self.registry.start(job);
        }
        Ok(())
    }

    /// Leaves little to be flushed after the point in time.
    async fn flush_snapshots(&self) -> Result<(), TransactionError> {
        let io = self.registry.io();
        let flushes = self.snapshots.iter().map(|snapshot| -> LocalFuture<'_, _> { Box::pin(snapshot.flush(io)) });
        together::all(flushes.collect()).await.into_iter().collect()
    }

    /// What is below the images becomes stable and read-only, of all disks at once.
    async fn conclude_snapshots(&mut self) {
        let (registry, graph) = (self.registry, self.graph);
        let snapshots = std::mem::take(&mut self.snapshots).into_iter();
        let ends = snapshots.map(|snapshot| -> LocalFuture<'_, ()> { Box::pin(snapshot.conclude(registry, graph)) });
        together::all(ends.collect()).await;
    }

    /// Takes the internal snapshots; all of them, whatever becomes of one.
    async fn take_internal(&mut self) -> Result<(), TransactionError> {
        let mut result = Ok(());
        for snapshot in std::mem::take(&mut self.internal) {
            result = result.and(snapshot.take(self.registry.io()).await);
        }
        result
    }

    /// Begins the change journals of images that get persistent bitmaps.
    async fn keep_changes(&self) -> Result<(), TransactionError> {
        for node in self.stage.keeping() {
            if let Driver::Qcow2(image) = node.driver() {
                let begun = image.ensure_changes(self.registry.io()).await;
                begun.map_err(|error| TransactionError::Text(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Removes persistent bitmaps from their images. If the transaction fails after this, they are stored again when
    /// their images are closed.
    async fn forget(&self, leaving: &[(Arc<Node>, String)]) -> Result<(), TransactionError> {
        for (node, name) in leaving {
            if let Driver::Qcow2(image) = node.driver() {
                let removed = image.remove_bitmap(self.registry.io(), name).await;
                removed.map_err(|error| BitmapError::NotRemoved(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Ends the change journals that were kept for these alone, now that no image has them any more.
    async fn end_changes(&self, left: &[(Arc<Node>, String)]) {
        let mut nodes = Vec::new();
        left.iter().for_each(|(node, _)| points::add(&mut nodes, node));
        if !nodes.is_empty() {
            let mut edit = || nodes.iter().for_each(|node| node.end_changes());
            // If it could not be made they are kept, which costs a little time and nothing else.
            let _ = points::hold(self.registry.io(), &nodes, &mut edit).await;
        }
    }

    /// Last to first, as they were made.
    async fn undo(&mut self) {
        for (job, _) in self.begun.iter().rev() {
            self.registry.cancel(job, true).await;
        }
        // They may be in an image that was made for another snapshot and is closed below.
        while let Some(snapshot) = self.internal.pop() {
            snapshot.undo(self.registry.io()).await;
        }
        let left: Vec<_> = self.snapshots.drain(..).rev().filter_map(Snapshot::withdraw).collect();
        opened::let_go_all(self.registry.io(), self.graph, left).await;
    }
}
