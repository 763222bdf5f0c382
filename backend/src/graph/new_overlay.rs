//! The file of an external snapshot that a command names: made for the node that it goes on top of, or one that is there.

use super::Graph;
use super::backing_name::{Coming, backing_format, backing_name};
use super::create::{CreateFile, CreateImage, Creation, FilePreallocation};
use crate::error::GraphError;
use crate::node::options::{Backing, ChildRef, DriverOptions, FileOptions, Locking, Qcow2Options};
use crate::node::qcow2::create::CreateOptions;
use crate::node::{Node, NodeOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image to be put on top of a node.
#[derive(Clone, Debug)]
pub struct NewOverlay {
    /// The image's file.
    pub path: PathBuf,
    /// The name that its node gets; made up if absent.
    pub node_name: Option<String>,
    /// It may not be absent.
    pub needs_name: bool,
    /// Its format; only qcow2 images have others below.
    pub format: String,
    /// The file is an image already.
    pub existing: bool,
}

impl Graph {
    /// Makes the image, unless it is there, and opens it with nothing below. It belongs to whoever comes to use it: see
    /// [`Graph::let_go`]. `coming` are links that there are going to be below. What takes I/O is done on this thread.
    ///
    /// # Errors
    /// With QEMU's texts. A file that was made stays.
    pub fn open_overlay(&self, node: &Arc<Node>, new: &NewOverlay, coming: &Coming) -> Result<Arc<Node>, GraphError> {
        match new.format.as_str() {
            "qcow2" => {}
            "raw" => return Err(GraphError::Options("Backing file not supported for file format 'raw'".into())),
            other => return Err(GraphError::Options(format!("Unknown file format '{other}'"))),
        }
        if !new.existing {
            self.make_overlay(node, &new.path, coming)?;
        }
        let file = ChildRef::Inline(Box::new(file_options(&new.path)));
        let image = Qcow2Options { backing: Backing::None, ..Qcow2Options::new(file) };
        let above = node.options();
        let options = NodeOptions {
            node_name: new.node_name.clone(),
            cache_direct: above.cache_direct,
            cache_no_flush: above.cache_no_flush,
            discard: above.discard,
            ..NodeOptions::new(DriverOptions::Qcow2(Box::new(image)))
        };
        self.open_as(&options, false, &self.ring())
    }

    fn make_overlay(&self, node: &Arc<Node>, path: &Path, coming: &Coming) -> Result<(), GraphError> {
        let backing = backing_name(node, path, coming)?;
        let file = CreateFile { filename: path.to_owned(), size: 0, preallocation: FilePreallocation::Off };
        self.create(&Creation::File(file))?;
        let options = CreateOptions {
            backing: Some(backing),
            backing_format: Some(backing_format(node).to_owned()),
            size: node.length(),
            ..CreateOptions::default()
        };
        let file = ChildRef::Inline(Box::new(file_options(path)));
        self.create(&Creation::Image(Box::new(CreateImage { file, data_file: None, options })))
    }
}

fn file_options(path: &Path) -> NodeOptions {
    NodeOptions::new(DriverOptions::File(FileOptions {
        filename: path.to_owned(),
        locking: Locking::Auto,
        device: false,
    }))
}
