//! What an image's journal says when the image is opened after a crash.

use super::{ChangesOptions, Wanted, locked};
use crate::node::changes::{ChangeJournal, Medium, Written};
use crate::node::qcow2::header::Header;
use crate::node::qcow2::journal::Place;
use crate::node::qcow2::journal::tie::{Changes as Where, Tie};
use crate::reactor::Handle;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tidemark_cbt::Bitmap;
use tidemark_cbt::journal::hash;

/// What a journal has, and what came of it.
#[derive(Clone)]
pub struct Recovered {
    /// The areas that may have been written to since the bitmaps were stored.
    pub(in crate::node::qcow2) areas: Arc<Bitmap>,
    /// Bitmaps that were lost before, by the hash of their names.
    pub(in crate::node::qcow2) lost: Vec<u64>,
    /// Where the journal is.
    pub(in crate::node::qcow2) medium: Medium,
    /// What the image names it by.
    pub(in crate::node::qcow2) number: u64,
    /// Bitmaps that were in use, with the bytes that each has more than it was stored with.
    pub(in crate::node::qcow2) bitmaps: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Recovered {
    /// Whether it says anything of a bitmap.
    pub(in crate::node::qcow2) fn has(&self, name: &str) -> bool {
        !self.lost.contains(&hash(name))
    }

    /// A bitmap goes on with `more` bytes than it was stored with.
    pub(in crate::node::qcow2) fn add(&self, name: &str, more: u64) {
        locked(&self.bitmaps).push((name.to_owned(), more));
    }

    /// Bitmaps that were in use and go on, each with the bytes that it may mark though nobody has changed them.
    pub fn bitmaps(&self) -> Vec<(String, u64)> {
        locked(&self.bitmaps).clone()
    }
}

/// Of bitmaps that a journal says nothing of.
pub(super) const BEFORE: &str = "they were so before, and have been since";

/// The journal of the image with this header, if it was in use and is to be believed.
///
/// # Errors
/// Why bitmaps that were in use are inconsistent.
pub(in crate::node::qcow2) async fn find(
    io: &Handle,
    header: &Header,
    image: &Path,
    options: &ChangesOptions,
    place: Option<&Place>,
) -> Result<Recovered, String> {
    let tie = header.tie();
    let medium = medium(tie, image, options, place)?;
    match ChangeJournal::written(io, &medium, tie.number, header.size).await {
        Ok(Some(Written { areas, lost })) => {
            Ok(Recovered { areas: Arc::new(areas), lost, medium, number: tie.number, bitmaps: Arc::default() })
        }
        Ok(None) => Err(format!("its change journal {medium} is of another image or time")),
        Err(error) => Err(format!("its change journal {medium} cannot be read: {error}")),
    }
}

/// Where the journal of an image is, or why there is none.
fn medium(tie: Tie, image: &Path, options: &ChangesOptions, place: Option<&Place>) -> Result<Medium, String> {
    let missing = |reason: String| format!("its change journal is not there ({reason})");
    match tie.changes {
        None => Err("it was not closed, and no change journal goes with it: none was kept, another program has \
                     written to it since, or they were so before"
            .to_owned()),
        Some(Where::File) => match (options.file)(Wanted::Found) {
            Ok(Some(node)) => Ok(Medium::File(node)),
            Ok(None) => Err(missing("no such file".to_owned())),
            Err(error) => Err(missing(error.to_string())),
        },
        Some(Where::Shared) => match place.map(|place| place.find(tie.number, image)) {
            Some(Ok(Some(journal))) => {
                journal.changes_medium().map(Medium::Shared).ok_or_else(|| missing("no room".into()))
            }
            Some(Err(error)) => Err(missing(error.to_string())),
            _ => Err(missing("the system was started anew, or has another /dev/shm".to_owned())),
        },
    }
}

/// Says of bitmaps that they are inconsistent, and why.
pub(in crate::node::qcow2) fn tell_disbelief(image: &Path, bitmaps: &[String], reason: &str) {
    if !bitmaps.is_empty() {
        let image = image.display();
        tracing::warn!(?bitmaps, "bitmaps of '{image}' are inconsistent: {reason}");
    }
}
