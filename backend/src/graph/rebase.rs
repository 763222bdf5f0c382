//! An image over another one than before, that shows the same there, or over none: its header says so first, then it is
//! so, while guests run.
//!
//! A process that ends between the two finds the image over what its header names, where it shows the same. Knows no jobs.

use super::backing_name::{backing_format, backing_name};
use super::image::file_name;
use super::moved::Moved;
use super::{Graph, reaches};
use crate::epoch::Passage;
use crate::error::GraphError;
use crate::node::options::{Backing, ChildRef, DriverOptions};
use crate::node::qcow2::header;
use crate::node::{Driver, Node, NodeOptions};
use crate::reactor::Handle;
use std::path::PathBuf;
use std::sync::Arc;

/// Between two looks whether requests have ended, in nanoseconds.
const LOOK_NS: u64 = 100_000;

/// An image that is about to be over another one.
pub struct Rebase {
    image: Arc<Node>,
    moved: Moved,
    held: Vec<Arc<Node>>,
}

impl Graph {
    /// Takes `base` into use below the image of `node`. Nothing changes before [`Rebase::commit`]; if that does not come,
    /// drop it.
    ///
    /// # Errors
    /// With QEMU's texts: somebody does not let others read there.
    pub fn prepare_rebase(&self, node: &Arc<Node>, base: Option<&Arc<Node>>) -> Result<Rebase, GraphError> {
        let last = match node.driver() {
            Driver::Qcow2(image) => image.backing(),
            _ => None,
        };
        let mut moved = Moved::new(last, base.cloned())?;
        moved.enter_backing()?;
        let held = self.nodes().into_iter().filter(|other| reaches(other, node)).collect();
        Ok(Rebase { image: node.clone(), moved, held })
    }

    /// Closes a node that nobody uses any more, if it is there and no command has opened it by itself: it was opened for
    /// another one, by a snapshot or by a job. What stands for jobs stays. What takes I/O is done on this thread.
    pub fn let_go(&self, node: Arc<Node>) {
        let _turn = self.turn();
        let is_listed = !matches!(node.driver(), Driver::File(_) | Driver::Raw(_) | Driver::Qcow2(_));
        if !is_listed && self.find(node.name()).is_some_and(|found| Arc::ptr_eq(&found, &node)) {
            self.remove_unused(node);
        }
    }

    /// The images that are over `node`, and may have filters between.
    pub fn images_over(&self, node: &Arc<Node>) -> Vec<Arc<Node>> {
        let is_over = |other: &Arc<Node>| match other.driver() {
            Driver::Qcow2(image) => image.backing().is_some_and(|backing| Arc::ptr_eq(&backing.unfiltered(), node)),
            _ => false,
        };
        self.nodes().into_iter().filter(is_over).collect()
    }
}

impl Rebase {
    /// What to hold for [`Rebase::commit`]: the image and all above it.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.held
    }

    /// The image is over the other one; inside [`crate::node::points::hold`] of [`Rebase::nodes`].
    pub fn commit(&mut self) {
        let Driver::Qcow2(image) = self.image.driver() else { return };
        let base = self.moved.node().cloned();
        image.change_backing(base.clone());
        self.moved.settle();
        self.image.change_options(|options| {
            if let DriverOptions::Qcow2(qcow2) = &mut options.driver {
                let named = |node: Arc<Node>| Backing::Node(ChildRef::Name(node.name().to_owned()));
                qcow2.backing = base.map_or(Backing::None, named);
            }
        });
    }

    /// After the hold: waits until all that was under way has ended, and closes what nobody uses any more.
    pub async fn conclude(self, graph: &Graph, io: &Handle) {
        let mut passage = Passage::of(self.image.points().seats());
        while !passage.is_over() {
            io.sleep_until(io.read_clock().saturating_add(LOOK_NS)).await;
        }
        self.moved.leave(&self.image).into_iter().for_each(|last| graph.let_go(last));
    }
}

impl Node {
    /// The options that would open the node as it is now, but for whether it is read-only.
    pub fn as_open(&self, read_only: bool) -> NodeOptions {
        NodeOptions { read_only: read_only.into(), ..self.as_it_is() }
    }

    /// The options that would open the node as it is now.
    pub fn as_it_is(&self) -> NodeOptions {
        let mut options = NodeOptions { node_name: Some(self.name().to_owned()), ..(*self.options()).clone() };
        if let (Some(file), Some(child)) = (options.driver.file_mut(), self.child()) {
            *file = ChildRef::Name(child.name().to_owned());
        }
        if let (DriverOptions::Qcow2(qcow2), Driver::Qcow2(image)) = (&mut options.driver, self.driver()) {
            let named = |node: Arc<Node>| Backing::Node(ChildRef::Name(node.name().to_owned()));
            qcow2.backing = image.backing().map_or(Backing::None, named);
        }
        options
    }

    /// How the header of this image may name `base` below it: file and format.
    ///
    /// # Errors
    /// The node is in no file that a header could name.
    pub fn name_of_base(&self, base: &Arc<Node>) -> Result<(String, &'static str), GraphError> {
        let path = match self.driver() {
            Driver::Qcow2(image) => file_name(&image.file()).map(PathBuf::from).unwrap_or_default(),
            _ => PathBuf::new(),
        };
        Ok((backing_name(base, &path)?, backing_format(base)))
    }

    /// The format of what shows here: `raw`, unless it is an image.
    pub fn format(self: &Arc<Self>) -> &'static str {
        backing_format(self)
    }

    /// Says in the header of this image which file is below it, and of which format; or none. Stable when this returns.
    /// What is there has to show the same, and to be stable.
    ///
    /// # Errors
    /// The names are too long; the storage's: then the header names the one or the other.
    pub async fn name_backing(&self, io: &Handle, backing: Option<(String, Option<String>)>) -> Result<(), GraphError> {
        let Driver::Qcow2(image) = self.driver() else { return Err(GraphError::NotWritable) };
        if self.is_read_only() {
            return Err(GraphError::NotWritable);
        }
        let backing = backing.map(|(file, format)| header::Backing { file, format });
        let changed = image.name_backing(io, backing).await;
        changed.map_err(|error| GraphError::Options(error.to_string()))
    }

    /// What the header of this image says is below it: file and format.
    pub fn named_backing(&self) -> Option<(String, Option<String>)> {
        match self.driver() {
            Driver::Qcow2(image) => image.header().backing.clone().map(|backing| (backing.file, backing.format)),
            _ => None,
        }
    }

    /// Whether an export or a job may write to it.
    pub fn is_written(&self) -> bool {
        self.has_writers(|_| true)
    }

    /// The file that the node's content is in, as it was named when it was opened.
    pub fn file_name(self: &Arc<Self>) -> Option<String> {
        file_name(self)
    }
}
