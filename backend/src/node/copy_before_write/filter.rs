//! Driver `copy-before-write`: a filter whose child's content at the time it was opened can be read through
//! `snapshot-access` while writes go on through the filter.

use super::{CbwOptions, CopyBeforeWrite, Phase, chunk_of};
use crate::error::GraphError;
use crate::io::lock::Access;
use crate::node::{Map, Node, Outcome, Request, Stake, Staked};
use crate::reactor::Handle;
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_cbt::{Bitmap, OutOfMemory};

/// The filter.
pub struct Filter {
    copy: Arc<CopyBeforeWrite>,
    /// Whether the point in time is the filter's own, and not that of a job it stands for.
    own: bool,
    /// Its stake in the target, as long as it has that in use.
    target: Mutex<Option<Staked>>,
}

impl Filter {
    /// The filter `name` over `source`. With `access` only what it marks is kept and may be read.
    ///
    /// # Errors
    /// The target is the source, too small, read-only, locked or not to be written to; a chunk size that is none; no
    /// memory.
    pub fn new(
        name: &str,
        source: &Arc<Node>,
        target: &Arc<Node>,
        access: Option<Bitmap>,
        options: CbwOptions,
    ) -> Result<Self, GraphError> {
        check(source, target, options)?;
        let stake = target.stake(Stake::of_filter(name))?;
        target.hold_for(Access::Target)?;
        let copy = match Self::copying(source, target, access, options) {
            Ok(copy) => copy,
            Err(error) => {
                target.let_go_for(Access::Target);
                return Err(error.into());
            }
        };
        copy.access.iter().for_each(|access| copy.map.owe(access));
        // Nothing has gone through the filter yet.
        copy.enter_phase(Phase::Ready);
        Ok(Self { copy, own: true, target: Mutex::new(Some(stake)) })
    }

    /// A point in time of which `access`, or all, may be read until its reader discards it.
    fn copying(
        source: &Arc<Node>,
        target: &Arc<Node>,
        access: Option<Bitmap>,
        options: CbwOptions,
    ) -> Result<Arc<CopyBeforeWrite>, OutOfMemory> {
        let all = || {
            let all = Bitmap::new(source.length(), chunk_of(source, target, options))?;
            all.mark(0, source.length());
            Ok(all)
        };
        let access = access.map_or_else(all, Ok)?;
        CopyBeforeWrite::new(source, target, Some(access), options)
    }

    /// What stands for the point in time of a job in lists of nodes. Writes through it wait as all writes to the
    /// source do.
    pub(crate) fn listed(copy: &Arc<CopyBeforeWrite>) -> Self {
        Self { copy: copy.clone(), own: false, target: Mutex::default() }
    }

    /// Copies nothing any more and needs its target no more: the node is closed, though somebody may still look at it.
    pub(in crate::node) fn let_go(&self) {
        let stake = self.target.lock().unwrap_or_else(PoisonError::into_inner).take();
        if stake.is_some() {
            self.copy.enter_phase(Phase::Ended);
            self.copy.target().let_go_for(Access::Target);
        }
    }

    /// Whether writes wait here.
    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    /// The point in time it keeps.
    pub fn copy(&self) -> &Arc<CopyBeforeWrite> {
        &self.copy
    }

    /// The node below.
    pub fn child(&self) -> &Arc<Node> {
        self.copy.source()
    }

    #[inline(never)]
    pub(in crate::node) fn map(&self, request: &Request, offset: u64) -> Map {
        self.child().map_at(request, offset)
    }

    pub(in crate::node) async fn handle(&self, io: &Handle, request: Request) -> Outcome {
        self.child().handle(io, request).await
    }
}

/// Refuses what cannot be a point in time of `source` kept on `target`.
///
/// # Errors
/// The target is the source or too small; a chunk size that is none.
pub fn check(source: &Arc<Node>, target: &Arc<Node>, options: CbwOptions) -> Result<(), GraphError> {
    if Arc::ptr_eq(source, target) {
        return Err(GraphError::Options("Source and target cannot be the same".into()));
    }
    if i64::try_from(options.min_chunk).is_err() {
        let (asked, most) = (options.min_chunk, i64::MAX);
        let text = format!("Cannot create block-copy-state: min-cluster-size too large: {asked} > {most}");
        return Err(GraphError::Options(text));
    }
    if options.min_chunk != 0 && !options.min_chunk.is_power_of_two() {
        let text = "Cannot create block-copy-state: min-cluster-size needs to be a power of 2";
        return Err(GraphError::Options(text.into()));
    }
    if target.length() < source.length() {
        let (name, target, len) = (target.name(), target.length(), source.length());
        let text = format!("Target node '{name}' is too small: it has {target} bytes and needs {len}");
        return Err(GraphError::Options(text));
    }
    Ok(())
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.let_go();
    }
}
