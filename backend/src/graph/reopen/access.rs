//! Whether nodes may be written to: what follows from their options and from what is below, and how they get there.
//!
//! What becomes read-only is closed, from above, before its file is; what becomes writable is begun, from below, when
//! its file is. Each step is noted, so that all can be undone.

use super::{Change, Reopen, flush};
use crate::error::{GraphError, IoError};
use crate::graph::image;
use crate::node::file::reopen::Reopened;
use crate::node::options::DriverOptions;
use crate::node::qcow2::reopen::BeginError;
use crate::node::{Driver, File, Node, Raw};
use crate::reactor::Handle;
use std::sync::Arc;

/// What has been done.
pub(super) enum Step {
    /// An image is as if it had been closed.
    Closed(Arc<Node>),
    /// A file was opened anew; the number of its change.
    Exchanged(usize),
    /// A node takes writes.
    Writable(Arc<Node>),
}

/// Finds out whether a node will be read-only, and how long it will be. Those below it are decided.
pub(super) fn decide(changes: &mut [Change], at: usize) -> Result<(), GraphError> {
    let (below, [change, ..]) = changes.split_at_mut(at) else { return Ok(()) };
    let child = change.file_below.as_ref().and_then(|moved| moved.node().cloned()).or_else(|| change.node.child());
    let of_child = |child: &Arc<Node>| below.iter().find(|change| Arc::ptr_eq(&change.node, child));
    match (change.node.driver(), &change.options.driver) {
        (Driver::File(file), DriverOptions::File(options)) => {
            change.file = file.open_again(&change.options, options)?;
            let opened_so = change.file.as_ref().map_or(file.read_only(), |file| file.read_only());
            change.read_only |= opened_so;
        }
        (Driver::Nbd(disk), _) => {
            let fixed = disk.read_only();
            change.read_only |= change.options.auto_read_only.is_on() && fixed;
            if fixed && !change.read_only {
                return Err(GraphError::Options("NBD export is read-only".into()));
            }
        }
        (Driver::Qcow2(_), _) => {
            let fixed =
                child.is_some_and(|child| of_child(&child).map_or(child.is_read_only(), |child| child.read_only));
            change.read_only |= change.options.auto_read_only.is_on() && fixed;
            if fixed && !change.read_only {
                return Err(GraphError::NotWritable);
            }
        }
        (Driver::Raw(_), DriverOptions::Raw(options)) => {
            let length = child.map_or(0, |child| {
                let changed = of_child(&child).and_then(|child| child.length.as_ref());
                changed.map_or(child.length(), |(length, _)| *length)
            });
            let length = Raw::size_over(length, options)?;
            change.length = (length != change.node.length()).then_some((length, None));
        }
        _ => {}
    }
    Ok(())
}

/// Refuses to take away from users what they need.
pub(super) fn check(changes: &[Change]) -> Result<(), GraphError> {
    let find = |node: &str| changes.iter().find(|change| change.node.name() == node);
    let leaving = |format: &str| find(format).is_some_and(|change| change.read_only);
    for change in changes.iter().rev() {
        let (node, name) = (&change.node, change.node.name());
        let written = node.has_writers(leaving);
        if change.read_only && !node.is_read_only() && written {
            return Err(GraphError::Options(format!("Read-only block node '{name}' cannot support read-write users")));
        }
        let below = change.file_below.as_ref().and_then(|moved| moved.node());
        let fixed = below.is_some_and(|below| find(below.name()).map_or(!below.is_writable(), |below| below.read_only));
        if written && fixed {
            return Err(GraphError::NotWritable);
        }
    }
    Ok(())
}

impl Change {
    /// A file of which blocks have to be locked meanwhile.
    fn toggled(&self) -> Option<(&File, &Reopened)> {
        match (self.node.driver(), &self.file) {
            (Driver::File(file), Some(new)) => Some((file, new)).filter(|(file, new)| file.must_lock_blocks(new)),
            _ => None,
        }
    }
}

impl Reopen {
    /// Whether guests' writes have to keep out of each other's blocks before the rest can begin.
    pub fn must_lock_blocks(&self) -> bool {
        self.toggled().next().is_some()
    }

    /// Has them do so; inside [`crate::node::points::hold`] of [`Reopen::nodes`].
    pub fn lock_blocks(&self) {
        self.toggled().for_each(|(file, new)| file.lock_blocks(new));
    }

    fn toggled(&self) -> impl Iterator<Item = (&File, &Reopened)> {
        self.changes.iter().filter_map(Change::toggled)
    }

    /// Does what has to be read or written before the options can take effect. Of the requests from before
    /// [`Reopen::lock_blocks`] none is under way.
    ///
    /// # Errors
    /// The storage's; then nothing has changed.
    pub async fn begin(&mut self, io: &Handle) -> Result<(), GraphError> {
        let begun = self.run(io).await;
        if begun.is_err() {
            self.undo(io).await;
        }
        begun
    }

    async fn run(&mut self, io: &Handle) -> Result<(), GraphError> {
        self.end_cycles().await;
        self.revive(io).await?;
        for change in self.changes.iter().rev().filter(|change| !change.node.is_read_only()) {
            flush(io, &change.node).await.map_err(not_flushed)?;
        }
        for at in (0..self.changes.len()).rev() {
            self.close(io, at).await?;
        }
        for at in 0..self.changes.len() {
            self.open(io, at).await?;
        }
        Ok(())
    }

    /// Waits until no image writes its tables as it did before.
    async fn end_cycles(&self) {
        for node in &self.above {
            if let Driver::Qcow2(image) = node.driver() {
                drop(image.pause_write_back().await);
            }
        }
    }

    async fn close(&mut self, io: &Handle, at: usize) -> Result<(), GraphError> {
        let Some(change) = self.changes.get(at).filter(|change| change.read_only) else { return Ok(()) };
        if let Driver::Qcow2(image) = change.node.driver()
            && !change.node.is_read_only()
        {
            let closed = image.become_read_only(io, change.node.points()).await;
            if closed.is_err() && image.is_read_only() {
                change.node.set_read_only(true);
            }
            closed.map_err(|error| GraphError::Options(error.to_string()))?;
            self.steps.push(Step::Closed(change.node.clone()));
        }
        Ok(())
    }

    async fn open(&mut self, io: &Handle, at: usize) -> Result<(), GraphError> {
        let Some(change) = self.changes.get_mut(at) else { return Ok(()) };
        if let (Driver::File(file), Some(new)) = (change.node.driver(), &mut change.file) {
            file.exchange(new)?;
            self.steps.push(Step::Exchanged(at));
        }
        if change.read_only || !change.node.is_read_only() {
            return Ok(());
        }
        change.node.set_read_only(false);
        self.steps.push(Step::Writable(change.node.clone()));
        match (change.node.driver(), &change.image) {
            (Driver::Qcow2(image), Some(options)) => {
                let begun = image.become_writable(io, options.journal.as_ref()).await;
                begun.map_err(|error| match error {
                    BeginError::Used(error) => error,
                    BeginError::Open(error) => image::refusal(&image.file(), error),
                })
            }
            _ => Ok(()),
        }
    }

    /// Undoes what [`Reopen::begin`] has done.
    pub async fn undo(&mut self, io: &Handle) {
        while let Some(step) = self.steps.pop() {
            match step {
                Step::Exchanged(at) => {
                    let Some(Change { node, file: Some(new), .. }) = self.changes.get_mut(at) else { continue };
                    if let Driver::File(file) = node.driver() {
                        file.exchange(new).unwrap_or_else(|error| failed(node, &error));
                    }
                }
                Step::Writable(node) => {
                    if let Driver::Qcow2(image) = node.driver()
                        && !image.is_read_only()
                    {
                        let closed = image.become_read_only(io, node.points()).await;
                        closed.unwrap_or_else(|error| failed(&node, &error));
                    }
                    node.set_read_only(true);
                }
                Step::Closed(node) => {
                    let Driver::Qcow2(image) = node.driver() else { continue };
                    let begun = image.become_writable(io, Some(&crate::node::qcow2::journal::Place::default())).await;
                    if let Err(error) = begun {
                        // It stays as if closed: nobody writes to it.
                        node.set_read_only(true);
                        failed(&node, &error);
                    }
                }
            }
        }
    }
}

fn failed(node: &Arc<Node>, error: &dyn std::fmt::Display) {
    tracing::error!(node = node.name(), "could not be made again what it was before a command that failed: {error}");
}

pub(super) fn not_flushed(error: IoError) -> GraphError {
    GraphError::Options(format!("Error flushing drive: {error}"))
}
