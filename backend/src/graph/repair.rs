//! Making the reference counts of an image right that nobody uses.

use super::Graph;
use super::errand::run;
use crate::error::GraphError;
use crate::node::options::{DriverOptions, FileOptions, Locking};
use crate::node::points::Points;
use crate::node::qcow2::header::bits;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::journal::Place;
use crate::node::qcow2::open::{Files, OpenError, Options, read_header};
use crate::node::qcow2::refcount::check::{CheckError, CheckReport, Contested, Parts, check};
use crate::node::qcow2::store::Store;
use crate::node::{Hold, Node, NodeOptions};
use crate::reactor::Handle;
use std::path::Path;
use std::sync::Arc;

/// What is made right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Clusters that are counted more often than something leads to them.
    Leaks,
    /// Those that are counted less often, too, and what entries say of their counts.
    All,
}

/// What an image was like, and what it is like now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Before.
    pub before: CheckReport,
    /// After.
    pub after: CheckReport,
}

/// Why an image was not repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// It cannot be opened, or somebody uses it.
    #[error("{0}")]
    Graph(#[from] GraphError),
    /// It is no image, or one whose tables cannot be read.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// Its references cannot be counted.
    #[error("Check failed: {0}")]
    Check(#[from] CheckError),
    /// What is to be written to is something else's, too.
    #[error("Cannot repair the image: {0}")]
    Contested(Contested),
    /// Bitmaps would be lost.
    #[error(
        "The image was not closed, and what its bitmaps lack is in its change journal: `tidemark bitmap recover` first"
    )]
    Unclosed,
}

/// Bits of an image that has a change journal.
const CHANGE_JOURNAL: u64 = bits::AUTOCLEAR_CHANGES | bits::AUTOCLEAR_SHARED_CHANGES;

/// The node's name meanwhile.
const NAME: &str = "repaired";

impl Graph {
    /// Repairs the qcow2 image at a path. One that is marked as corrupt is so no longer if nothing is found then. A sound
    /// one is not written to.
    ///
    /// # Errors
    /// See [`RepairError`].
    pub fn repair(&self, path: &Path, device: bool, what: Repair) -> Result<Repaired, RepairError> {
        let file = FileOptions { filename: path.to_owned(), locking: Locking::Auto, device };
        let options = NodeOptions::new(DriverOptions::File(file));
        let file = self.open(&NodeOptions { node_name: Some(NAME.to_owned()), ..options })?;
        let hold = Hold::of_format(&file, "image", "file", true);
        let repaired = hold.map_err(RepairError::from).and_then(|hold| {
            let of = file.clone();
            let repaired = run(&self.ring(), move |io| async move { Box::pin(repair(&io, &of, what)).await });
            drop(hold);
            repaired?
        });
        drop(file);
        self.close(NAME)?;
        repaired
    }
}

async fn repair(io: &Handle, file: &Arc<Node>, what: Repair) -> Result<Repaired, RepairError> {
    let found = read_header(io, file).await?;
    if found.autoclear & CHANGE_JOURNAL != 0 {
        return Err(RepairError::Unclosed);
    }
    let before = check(io, Store::new(file.clone()), Parts::from(&found)).await?;
    let marks = bits::INCOMPATIBLE_CORRUPT | bits::INCOMPATIBLE_DIRTY;
    if (before.corruptions, before.leaks, found.incompatible & marks) == (0, 0, 0) {
        return Ok(Repaired { after: before.clone(), before });
    }
    let contested = &before.contested;
    if contested.table.is_some() || (what == Repair::Leaks && !contested.blocks.is_empty()) {
        return Err(RepairError::Contested(contested.clone()));
    }
    let mut header = found.clone();
    header.incompatible &= !bits::INCOMPATIBLE_CORRUPT;
    if what == Repair::All {
        // Whoever opens it makes all right, and says so last.
        header.incompatible |= bits::INCOMPATIBLE_DIRTY;
    }
    let options = Options {
        read_only: false,
        l2_cache_bytes: 0,
        refcount_cache_bytes: 0,
        pass_discard: false,
        journal: Some(Place::default()),
        changes: None,
    };
    // Nothing is read or written of a guest's clusters, wherever they are.
    let files = Files { file: file.clone(), data: None, backing: None };
    let image = Image::open_as_is(io, &header, files, &options).await?;
    if what == Repair::Leaks {
        image.repair_leaks(io).await?;
    }
    let after = check(io, Store::new(file.clone()), Parts::from(&*image.header())).await?;
    let was_corrupt = found.incompatible & bits::INCOMPATIBLE_CORRUPT != 0;
    if was_corrupt && after.corruptions > 0 {
        image.mark_corrupt(io).await?;
    }
    let closed = image.close(io, &Points::default()).await;
    closed.map_err(|error| OpenError::Repair(error.to_string()))?;
    Ok(Repaired { before, after })
}
