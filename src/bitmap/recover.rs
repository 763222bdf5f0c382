//! `tidemark bitmap recover`: the bitmaps of an image whose daemon has crashed, made whole from its change journal, so
//! that every program may use the image and its bitmaps again.
//!
//! The image is opened as the daemon would and closed again, its disk untouched. The images below take no part.

use super::open::{close, store};
use crate::inspect::{self, Output, printable};
use crate::logging::{self, Level};
use anyhow::bail;
use qmp_lite::block::image::{BitmapRecovery, recoveries_to_json};
use qmp_lite::context::Context;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_backend::graph::InspectError;
use tidemark_backend::node::options::{Backing, ChildRef, DriverOptions, FileOptions, Locking, Qcow2Options};
use tidemark_backend::node::{Driver, Node, NodeOptions};

/// Options of `tidemark bitmap recover`.
#[derive(clap::Args, Debug)]
pub struct RecoverOptions {
    /// Image file or block device. The image of a raw disk finds it by the name in its header.
    image: PathBuf,
    /// The file of the change journal, if it is not beside the image.
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// Who is told.
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
}

/// Recovers the bitmaps of an image.
///
/// # Errors
/// It cannot be opened, or what was recovered cannot be stored; then the journal is there for the next try.
pub fn run(options: &RecoverOptions) -> anyhow::Result<()> {
    logging::start(Some(Level::Error));
    let context = Context::new();
    let node = open_whole(&context, options)?;
    let found = found(&node);
    let stored = store(&context, &node);
    close(&context, node)?;
    stored?;
    inspect::print(&match options.output {
        Output::Json => recoveries_to_json(found),
        Output::Human if found.is_empty() => "The image has no bitmaps.\n".to_owned(),
        Output::Human => found.iter().map(line).collect(),
    })
}

/// Opens an image with all of its own files, as a daemon would that goes on with it.
fn open_whole(context: &Context, options: &RecoverOptions) -> anyhow::Result<Arc<Node>> {
    let path = &options.image;
    let shown = path.display();
    let looked = context.graph.inspect(path, None, true).map_err(|error| inspect::refusal(&error))?;
    let Some(description) = looked.description() else {
        bail!("'{shown}' is a raw disk: its bitmaps are in the image that `tidemark track` has made for it");
    };
    let is_device = fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
    let beside = || Ok(format!("{}.journal", fs::canonicalize(path)?.display()).into());
    let journal: PathBuf = options.journal.clone().map_or_else(beside, Ok::<_, std::io::Error>)?;
    // To open it without would be to lose what it has.
    if description.header.has_change_journal_file() && !(is_device && options.journal.is_none()) && !journal.exists() {
        bail!(
            "'{shown}' needs its change journal, and '{}' is not there: say with --journal where it is",
            journal.display()
        );
    }
    drop(looked);
    let file = FileOptions { filename: path.clone(), locking: Locking::Auto, device: is_device };
    let file = ChildRef::Inline(Box::new(NodeOptions::new(DriverOptions::File(file))));
    let change_journal = options.journal.clone();
    let qcow2 = Qcow2Options { backing: Backing::None, change_journal, ..Qcow2Options::new(file) };
    let qcow2 = DriverOptions::Qcow2(Box::new(qcow2));
    let node = context.graph.open(&NodeOptions { node_name: Some("image".to_owned()), ..NodeOptions::new(qcow2) });
    node.map_err(|source| inspect::refusal(&InspectError::Open { path: shown.to_string(), source }))
}

/// What has come of each bitmap, the oldest first.
fn found(node: &Node) -> Vec<BitmapRecovery> {
    let Driver::Qcow2(image) = node.driver() else { return Vec::new() };
    let recovered = image.changes().recovered().map(|recovered| recovered.bitmaps()).unwrap_or_default();
    let mut bitmaps = node.points().tracking().list();
    bitmaps.reverse();
    let of = |name: &str| recovered.iter().find(|(other, _)| other == name).map(|(_, more)| *more);
    bitmaps
        .into_iter()
        .map(|bitmap| BitmapRecovery {
            more: of(&bitmap.name),
            reason: bitmap.inconsistent.then(|| image.changes().disbelief().to_owned()),
            recording: bitmap.recording,
            inconsistent: bitmap.inconsistent,
            name: bitmap.name,
        })
        .collect()
}

fn line(bitmap: &BitmapRecovery) -> String {
    let name = printable(&bitmap.name);
    match (&bitmap.reason, bitmap.more) {
        (Some(reason), _) => format!("{name}: inconsistent: {}\n", printable(reason)),
        (None, Some(more)) => format!("{name}: recovered, marks at most {more} bytes too many\n"),
        (None, None) => format!("{name}: was stored in order\n"),
    }
}
