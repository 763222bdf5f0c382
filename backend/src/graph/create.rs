//! Making files and images. Whoever asks for one waits until it is there: not to be done on a thread that has other
//! things to do.
//!
//! An image's file is no image before the last of its writes, and what was in it before cannot be taken for a guest's.

mod file;
mod image;

pub use file::{CreateFile, FilePreallocation};
pub use image::CreateImage;

use super::Graph;
use crate::error::GraphError;
use crate::io::lock::Access;
use crate::node::Node;
use crate::node::options::ChildRef;
use std::sync::Arc;

/// What to make.
#[derive(Clone, Debug)]
pub enum Creation {
    /// A regular file.
    File(CreateFile),
    /// An image in a node.
    Image(Box<CreateImage>),
}

impl Graph {
    /// Makes it.
    ///
    /// # Errors
    /// With QEMU's texts. A file or a node may have changed then, but is no image.
    pub fn create(&self, creation: &Creation) -> Result<(), GraphError> {
        match creation {
            Creation::File(file) => file.create(),
            Creation::Image(image) => self.create_image(image),
        }
    }

    /// A node to be written, for as long as the result lives.
    fn borrow_node(&self, reference: &ChildRef) -> Result<Borrowed<'_>, GraphError> {
        let (node, own) = match reference {
            ChildRef::Name(name) => (self.find(name).ok_or_else(|| GraphError::ChildNotFound(name.clone()))?, false),
            // A node that nobody else owns; its name may be made up.
            ChildRef::Inline(options) => (self.open_as(options, false, &self.ring())?, true),
        };
        let mut borrowed = Borrowed { graph: self, node: node.clone(), own, acquired: false };
        node.check_replaceable()?;
        node.acquire_for(Access::Image)?;
        borrowed.acquired = true;
        Ok(borrowed)
    }
}

/// A node in use while something is made in it.
struct Borrowed<'a> {
    graph: &'a Graph,
    node: Arc<Node>,
    /// Opened for this, and to be closed after it.
    own: bool,
    acquired: bool,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if self.acquired {
            self.node.release_for(Access::Image);
        }
        if self.own && self.node.retire() {
            self.graph.remove(self.node.clone(), &self.graph.ring());
        }
    }
}
