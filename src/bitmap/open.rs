//! An image opened for its bitmaps alone: its guest's disk takes no part, and neither do the images below.
//!
//! Until other bitmaps are stored, all at once, the file has those that it had, and they are to be believed: whatever
//! fails or is killed on the way has changed nothing.

use crate::image::{Format, is_write_protected};
use crate::inspect;
use anyhow::{Context as _, anyhow, bail};
use qmp_lite::context::Context;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_backend::bitmaps::BitmapError;
use tidemark_backend::error::{GraphError, errno_text};
use tidemark_backend::graph::InspectError;
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::options::{
    Backing, ChildRef, DriverOptions, FileOptions, Locking, NullOptions, Qcow2Options,
};
use tidemark_backend::node::qcow2::header::bits;
use tidemark_backend::node::{Driver, Node, NodeOptions};
use tidemark_jobs::action::Action;
use tidemark_jobs::transaction::{TransactionError, transact};

/// Bytes of the largest cluster.
const CLUSTER_MAX: u64 = 2 << 20;

/// What an image says in its header while it has a change journal.
const CHANGE_JOURNAL: u64 = bits::AUTOCLEAR_CHANGES | bits::AUTOCLEAR_SHARED_CHANGES;

/// How an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To be changed.
    Change,
    /// To be read.
    Read,
    /// To be read, whoever writes to it meanwhile.
    Share,
}

/// Opens the image as node `name`; `None` if it is raw and has no bitmaps.
///
/// # Errors
/// It cannot be opened, or somebody else has it.
pub fn open(
    context: &Context,
    name: &str,
    path: &Path,
    format: Option<Format>,
    mode: Mode,
) -> anyhow::Result<Option<Arc<Node>>> {
    // Locks are taken when it is opened as a node.
    let looked = context.graph.inspect(path, format.map(Format::in_headers), true);
    let looked = looked.map_err(|error| inspect::refusal(&error))?;
    inspect::warn(&looked);
    let Some(description) = looked.description() else { return Ok(None) };
    let device = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
    if mode == Mode::Change && description.header.autoclear & CHANGE_JOURNAL != 0 {
        return Err(unclosed(context, path, device));
    }
    let data_file = description.header.data_file.as_ref();
    let data_file = data_file.map(|name| data_file_at(path, name, description.header.size)).transpose()?;
    drop(looked);
    if device && mode == Mode::Change && is_write_protected(path) {
        bail!("Could not open '{}': The device is not writable: Permission denied", path.display());
    }
    let file = FileOptions { filename: path.to_owned(), locking: Locking::Auto, device };
    let file = ChildRef::Inline(Box::new(NodeOptions::new(DriverOptions::File(file))));
    let qcow2 = Qcow2Options { backing: Backing::None, data_file, bitmaps_only: true, ..Qcow2Options::new(file) };
    let options = NodeOptions {
        node_name: Some(name.to_owned()),
        read_only: (mode != Mode::Change).into(),
        force_share: mode == Mode::Share,
        ..NodeOptions::new(DriverOptions::Qcow2(Box::new(qcow2)))
    };
    let node = context.graph.open(&options);
    node.map(Some).map_err(|source| refusal(path, source, mode))
}

/// The file with the guest's clusters, which is locked and neither read nor written: whether somebody has written to it
/// without the image is seen by its state. A device has no such state, and opening one may do something.
fn data_file_at(image: &Path, name: &str, size: u64) -> anyhow::Result<ChildRef> {
    let path = image.parent().map_or_else(|| PathBuf::from(name), |parent| parent.join(name));
    let kind = std::fs::metadata(&path).map_err(|error| {
        let (image, path) = (image.display(), path.display());
        anyhow!("Could not open '{image}': Could not open '{path}': {}", errno_text(&error))
    })?;
    let driver = match kind.is_file() {
        true => DriverOptions::File(FileOptions { filename: path, locking: Locking::Auto, device: false }),
        false => {
            let size = size.next_multiple_of(CLUSTER_MAX);
            DriverOptions::Null(NullOptions { size, read_zeroes: false, latency_ns: 0 })
        }
    };
    Ok(ChildRef::Inline(Box::new(NodeOptions::new(driver))))
}

/// Why an image with a change journal is not changed: somebody has it open, or nobody has closed it, and the journal
/// would be lost.
fn unclosed(context: &Context, path: &Path, device: bool) -> anyhow::Error {
    match lock(context, path, device) {
        Err(source) => refusal(path, source, Mode::Change),
        Ok(()) => anyhow!(
            "'{0}' was not closed, and what its bitmaps lack is in its change journal: `tidemark bitmap recover '{0}'` \
             first",
            path.display()
        ),
    }
}

/// Takes the locks of whoever writes to a file, for a moment.
fn lock(context: &Context, path: &Path, device: bool) -> Result<(), GraphError> {
    let file = FileOptions { filename: path.to_owned(), locking: Locking::Auto, device };
    let options = NodeOptions { node_name: Some("file".to_owned()), ..NodeOptions::new(DriverOptions::File(file)) };
    let node = context.graph.open(&options)?;
    let locked = node.acquire_for(Access::Write);
    if locked.is_ok() {
        node.release_for(Access::Write);
    }
    drop(node);
    context.graph.close("file")?;
    locked
}

fn refusal(path: &Path, source: GraphError, mode: Mode) -> anyhow::Error {
    let is_locked = matches!(source, GraphError::Locked(_));
    let error = inspect::refusal(&InspectError::Open { path: path.display().to_string(), source });
    match is_locked && mode == Mode::Change {
        true => anyhow!(
            "{error}\nA daemon that serves it changes its bitmaps itself: `tidemark ctl SOCKET block-dirty-bitmap-add` \
             and the like, or end that process first."
        ),
        false => error,
    }
}

/// Changes bitmaps in memory; a bitmap that is removed leaves the file at once.
///
/// # Errors
/// With QEMU's texts; nothing has changed then.
pub fn apply(context: &Context, path: &Path, action: Action) -> Result<(), TransactionError> {
    let done = transact(&context.jobs, &context.graph, vec![action], false);
    done.map_err(|error| match error {
        // Nobody knows the node by its name.
        TransactionError::Bitmap(BitmapError::NotStorable { name, reason, .. }) => {
            BitmapError::NotStorable { name, node: path.display().to_string(), reason }.into()
        }
        other => other,
    })
}

/// Stores the bitmaps of an image, all or none, stably.
///
/// # Errors
/// The file has those that it had.
pub fn store(context: &Context, node: &Arc<Node>) -> anyhow::Result<()> {
    let node = node.clone();
    let stored = context.jobs.ask_async(async move |registry| match node.driver() {
        Driver::Qcow2(image) => image.store_bitmaps(registry.io(), node.points()).await,
        _ => Ok(()),
    });
    stored?.context("Could not store the bitmaps; those of the image are what they were")
}

/// Closes an image. What it has of its bitmaps it has already.
///
/// # Errors
/// The node is in use.
pub fn close(context: &Context, node: Arc<Node>) -> anyhow::Result<()> {
    let name = node.name().to_owned();
    node.points().tracking().set_read_only(true);
    drop(node);
    Ok(context.graph.close(&name)?)
}
