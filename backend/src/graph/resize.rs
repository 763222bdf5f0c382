//! Lengths of nodes: changed by somebody, or found to have changed.
//!
//! Knows which drivers have their length from below; points in time do not. An image has its own, and its external data
//! file follows it.

use super::{Graph, ResizeListener};
use crate::epoch::Passage;
use crate::error::GraphError;
use crate::io::Memory;
use crate::io::lock::Access;
use crate::node::file::File;
use crate::node::qcow2::create::Preallocation;
use crate::node::qcow2::image::Image;
use crate::node::{Driver, Kind, Node, Request, Root};
use crate::reactor::Handle;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

/// Between two looks whether requests have ended, in nanoseconds.
const LOOK_NS: u64 = 100_000;

/// A resize under way.
type Resizing<'a> = Pin<Box<dyn Future<Output = Result<(), GraphError>> + 'a>>;

impl Graph {
    /// Has `listener` called after each change of a node's length.
    pub fn on_resize(&self, listener: ResizeListener) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Changes a node's length, down to its file, and tells the exports.
    ///
    /// # Errors
    /// The driver cannot resize, or the system refuses.
    pub fn resize<'a>(&'a self, io: &'a Handle, node: &'a Arc<Node>, size: u64) -> Resizing<'a> {
        self.resize_with(io, node, size, Preallocation::Off)
    }

    /// As [`Graph::resize`]; an image that becomes longer takes so much space for what is new.
    ///
    /// # Errors
    /// As there; where there is no room the disk is as long as it was.
    pub fn resize_with<'a>(
        &'a self,
        io: &'a Handle,
        node: &'a Arc<Node>,
        size: u64,
        space: Preallocation,
    ) -> Resizing<'a> {
        Box::pin(async move {
            let length = match node.driver() {
                Driver::File(file) => resize_file(file, size)?,
                Driver::Raw(raw) if raw.has_fixed_size() => {
                    return Err(GraphError::Options("Cannot resize fixed-size raw disks".into()));
                }
                Driver::Raw(raw) => {
                    let end = size.checked_add(raw.offset());
                    let end = end.ok_or(GraphError::Options("Disk size too large for the chosen offset".into()))?;
                    self.resize_with(io, &raw.child(), end, space).await?;
                    size
                }
                Driver::BlkDebug(filter) => {
                    self.resize_with(io, &filter.child(), size, space).await?;
                    size
                }
                Driver::Throttle(filter) => {
                    self.resize_with(io, &filter.child(), size, space).await?;
                    size
                }
                Driver::Passing(filter) => {
                    self.resize_with(io, &filter.child(), size, space).await?;
                    size
                }
                Driver::Qcow2(image) if size < node.length() => {
                    self.shrink_image(io, node, image, size).await?;
                    size
                }
                Driver::Qcow2(image) => {
                    self.grow_image(io, node, image, (size, space)).await?;
                    size
                }
                Driver::Nbd(_) if size > node.length() => {
                    return Err(GraphError::Options("Cannot grow NBD nodes".into()));
                }
                // As in QEMU: a server's disk stays as large as it is.
                Driver::Nbd(_) => node.length(),
                Driver::Null(_) | Driver::CopyBeforeWrite(_) | Driver::SnapshotAccess(_) => {
                    return Err(GraphError::Options("Image format driver does not support resize".into()));
                }
            };
            node.set_length(length);
            self.tell(node);
            Ok(())
        })
    }

    async fn grow_image(
        &self,
        io: &Handle,
        node: &Arc<Node>,
        image: &Image,
        (size, space): (u64, Preallocation),
    ) -> Result<(), GraphError> {
        image.check_size(size)?;
        if let Some(data) = image.data_file() {
            self.resize(io, &data, size).await?;
        }
        let root = Root::new(node);
        let looking = Request { kind: Kind::Read, fua: false, offset: 0, len: 0, memory: Memory::empty() };
        let stamp = root.enter().stamp(&looking);
        let grown = image.grow(io, size, space, node.points()).await;
        root.end(stamp);
        if space != Preallocation::Off {
            // What was taken, and is of no use, others may have.
            image.cut_tail(io, node.points()).await;
        }
        Ok(grown?)
    }

    /// Nobody gets past the new end any more; when those who have are through, what is there goes.
    async fn shrink_image(&self, io: &Handle, node: &Arc<Node>, image: &Image, size: u64) -> Result<(), GraphError> {
        image.check_size(size)?;
        let old = node.length();
        node.set_length(size);
        let mut passage = Passage::of(node.points().seats());
        while !passage.is_over() {
            io.sleep_until(io.read_clock().saturating_add(LOOK_NS)).await;
        }
        if let Err(error) = image.shrink(io, size, node.points()).await {
            node.set_length(old);
            return Err(error.into());
        }
        let file = image.file().length();
        image.cut_tail(io, node.points()).await;
        if image.file().length() != file {
            self.tell(&image.file());
        }
        match image.data_file() {
            Some(data) => self.resize(io, &data, size).await,
            None => Ok(()),
        }
    }

    /// The nodes whose length [`Graph::resize`] changes, from `node` down, with the length each will have.
    pub fn resized_with(&self, node: &Arc<Node>, size: u64) -> Vec<(Arc<Node>, u64)> {
        let mut all = vec![(node.clone(), size)];
        while let Some((last, size)) = all.last() {
            let below = match last.driver() {
                Driver::Raw(raw) if !raw.has_fixed_size() => (raw.child(), size.saturating_add(raw.offset())),
                Driver::BlkDebug(filter) => (filter.child(), *size),
                Driver::Throttle(filter) => (filter.child(), *size),
                Driver::Passing(filter) => (filter.child(), *size),
                Driver::Qcow2(image) => match image.data_file() {
                    Some(data) => (data, *size),
                    None => break,
                },
                _ => break,
            };
            all.push(below);
        }
        all
    }

    /// Looks at the device or file below a node again; tells the exports if it has grown.
    pub fn refresh_length(&self, node: &Arc<Node>) {
        let found = match node.driver() {
            Driver::File(file) => file.current_length().ok(),
            Driver::Raw(raw) if !raw.has_fixed_size() => {
                self.refresh_length(&raw.child());
                Some(raw.child().length().saturating_sub(raw.offset()))
            }
            Driver::BlkDebug(filter) => {
                self.refresh_length(&filter.child());
                Some(filter.child().length())
            }
            Driver::Throttle(filter) => {
                self.refresh_length(&filter.child());
                Some(filter.child().length())
            }
            Driver::Passing(filter) => {
                self.refresh_length(&filter.child());
                Some(filter.child().length())
            }
            // A point in time keeps its length, and an image its own.
            Driver::Raw(_)
            | Driver::Null(_)
            | Driver::Nbd(_)
            | Driver::CopyBeforeWrite(_)
            | Driver::SnapshotAccess(_)
            | Driver::Qcow2(_) => None,
        };
        if let Some(length) = found
            && length > node.length()
        {
            node.set_length(length);
            self.tell(node);
        }
    }

    pub(super) fn tell(&self, node: &Arc<Node>) {
        for listener in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(node);
        }
    }
}

/// Nobody else uses the file who relies on its length.
fn resize_file(file: &File, size: u64) -> Result<u64, GraphError> {
    file.lock(Access::Resize)?;
    let resized = file.resize(size);
    file.unlock(Access::Resize);
    resized
}
