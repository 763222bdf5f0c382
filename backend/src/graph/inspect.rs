//! Images as they describe themselves, for whoever only wants to know: no node is listed, no guest could use them.
//!
//! Names in headers lead where they may when an image is opened (see [`super::chain`]), and no further. A format that
//! nobody said is looked for in the first bytes of the file that was named, and there alone: below, it is what the
//! header says.

use super::Graph;
use super::chain::Chain;
use super::errand::run;
use crate::error::GraphError;
use crate::node::options::{DriverOptions, FileOptions, Locking};
use crate::node::qcow2::description::Description;
use crate::node::qcow2::header::{self, Fields, MAGIC};
use crate::node::qcow2::open::OpenError;
use crate::node::qcow2::refcount::check::{CheckError, CheckReport, Parts, check};
use crate::node::qcow2::store::Store;
use crate::node::{Hold, Node, NodeOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

/// The oldest version of qcow2; before, it was another format.
const OLDEST: u32 = 2;

/// What the bytes of an image mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// The disk as it is.
    Raw,
    /// QEMU's format.
    Qcow2,
}

/// An image that was looked at. Whoever writes to it is kept out as long as this lives, if its format asks for that.
pub struct Inspected {
    path: PathBuf,
    file: Arc<Node>,
    description: Option<Description>,
    _hold: Option<Hold>,
}

impl Inspected {
    /// The name it was found under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node of its file.
    pub fn file(&self) -> &Arc<Node> {
        &self.file
    }

    /// What it says of itself; nothing if it is raw.
    pub fn description(&self) -> Option<&Description> {
        self.description.as_ref()
    }
}

/// Why there is nothing to tell of an image.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It cannot be opened.
    #[error("Could not open '{path}': {source}")]
    Open {
        /// The image.
        path: String,
        /// The reason.
        source: GraphError,
    },
    /// It is below itself.
    #[error("Backing file '{0}' creates an infinite loop.")]
    Loop(String),
}

/// Why an image was not checked.
#[derive(Debug, thiserror::Error)]
pub enum ImageCheckError {
    /// It cannot be opened.
    #[error("{0}")]
    Inspect(#[from] InspectError),
    /// There is nothing to check in this format.
    #[error("This image format does not support checks")]
    Unsupported,
    /// The check could not come to its end.
    #[error("Check failed: {0}")]
    Check(#[from] CheckError),
    /// The system has no ring for it.
    #[error("Check failed: {0}")]
    Ring(GraphError),
}

impl Graph {
    /// Looks at an image. With `force_share`, also at one that somebody is writing to; what is told may contradict
    /// itself then.
    ///
    /// # Errors
    /// It cannot be opened, somebody writes to it, or it is not what its format asks for.
    pub fn inspect(
        &self,
        path: &Path,
        format: Option<ImageFormat>,
        force_share: bool,
    ) -> Result<Inspected, InspectError> {
        let fail = |source| InspectError::Open { path: path.display().to_string(), source };
        let file = self.look_at(path, force_share).map_err(fail)?;
        let format = match format {
            Some(format) => format,
            None => self.format_of(&file).map_err(fail)?,
        };
        if format == ImageFormat::Raw {
            return Ok(Inspected { path: path.to_owned(), file, description: None, _hold: None });
        }
        let hold = Hold::of_format(&file, "image", "file", false).map_err(fail)?;
        let node = file.clone();
        let description = run(&self.ring(), move |io| async move { Description::read(&io, &node).await });
        let description = description.map_err(fail)?.map_err(|error| fail(refusal(error)))?;
        Ok(Inspected { path: path.to_owned(), file, description: Some(description), _hold: Some(hold) })
    }

    /// Looks at an image and at those below it, as far as headers lead.
    ///
    /// # Errors
    /// As [`Graph::inspect`], of any of them; a header leads where it may not, or back to an image of the chain.
    pub fn inspect_chain(
        &self,
        path: &Path,
        format: Option<ImageFormat>,
        force_share: bool,
    ) -> Result<Vec<Inspected>, InspectError> {
        let fail = |path: &Path, source| InspectError::Open { path: path.display().to_string(), source };
        let mut images = vec![self.inspect(path, format, force_share)?];
        let dirs = self.backing_dirs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut chain = Chain::begin(path, &dirs).map_err(|source| fail(path, source))?;
        while let Some(top) = images.last()
            && let Some(backing) = top.description().and_then(|description| description.header.backing.as_ref())
        {
            let below = chain.find(top.path(), &backing.file).map_err(|source| match source {
                GraphError::Open { ref path, .. } => fail(&PathBuf::from(path), source),
                source => fail(top.path(), source),
            })?;
            let path = below.path.as_path();
            let format = format_named(top.path(), backing).map_err(|source| fail(path, source))?;
            if chain.has(&below) {
                return Err(InspectError::Loop(path.display().to_string()));
            }
            chain = chain.below(&below).map_err(|source| fail(path, source))?;
            let image = self.inspect(path, Some(format), force_share)?;
            below.check(image.file()).map_err(|source| fail(path, source))?;
            images.push(image);
        }
        Ok(images)
    }

    /// Counts all references of an image that was looked at.
    ///
    /// # Errors
    /// See [`ImageCheckError`].
    pub fn check(&self, image: &Inspected) -> Result<CheckReport, ImageCheckError> {
        let description = image.description().ok_or(ImageCheckError::Unsupported)?;
        let (store, parts) = (Store::new(image.file().clone()), Parts::from(&description.header));
        let report = run(&self.ring(), move |io| async move { check(&io, store, parts).await });
        Ok(report.map_err(ImageCheckError::Ring)??)
    }

    /// A node over a file, which is listed nowhere.
    pub(super) fn look_at(&self, path: &Path, force_share: bool) -> Result<Arc<Node>, GraphError> {
        let fail = |source| GraphError::Open { path: path.display().to_string(), source };
        // Before it is opened: a device may do something when it is.
        let device = std::fs::metadata(path).map_err(fail)?.file_type().is_block_device();
        let file = FileOptions { filename: path.to_owned(), locking: Locking::Auto, device };
        let options =
            NodeOptions { read_only: true.into(), force_share, ..NodeOptions::new(DriverOptions::File(file)) };
        let _turn = self.turn();
        self.build(&options, false, &mut self.opening(&self.ring()))
    }

    /// What the first bytes of a file say: qcow2, or nothing that is known.
    pub(super) fn format_of(&self, file: &Arc<Node>) -> Result<ImageFormat, GraphError> {
        let store = Store::new(file.clone());
        let first = run(&self.ring(), move |io| async move { store.read(&io, 0, 512).await })?;
        let first = first.map_err(|error| {
            GraphError::Options(format!("Could not read image for determining its format: {error}"))
        })?;
        let fields = Fields(first.as_slice());
        let is_qcow2 = fields.u32(0) == MAGIC && fields.u32(4) >= OLDEST;
        Ok(if is_qcow2 { ImageFormat::Qcow2 } else { ImageFormat::Raw })
    }
}

/// The format that the header of `image` says the image below has.
fn format_named(image: &Path, backing: &header::Backing) -> Result<ImageFormat, GraphError> {
    let image = image.display();
    match backing.format.as_deref() {
        Some("raw") => Ok(ImageFormat::Raw),
        Some("qcow2") => Ok(ImageFormat::Qcow2),
        Some(other) => Err(GraphError::Options(format!("Unknown driver '{other}'"))),
        None => Err(GraphError::Options(format!(
            "The header of '{image}' does not say which format it has: say it with `tidemark rebase -u -b '{}' -F \
             FORMAT '{image}'`",
            backing.file
        ))),
    }
}

fn refusal(error: OpenError) -> GraphError {
    GraphError::Options(error.to_string())
}
