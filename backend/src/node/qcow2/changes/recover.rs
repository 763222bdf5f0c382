//! What an image's journal says when the image is opened after a crash.

use super::{ChangesOptions, locked};
use crate::node::changes::{ChangeJournal, Medium, Written};
use crate::node::qcow2::header::Header;
use crate::node::qcow2::journal::tie::{Changes as Where, Tie};
use crate::node::qcow2::journal::{Journal, Place};
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

/// The journal of the image with this header, if it was in use and is to be believed. What speaks against it goes to
/// the log: then the bitmaps are inconsistent.
pub(in crate::node::qcow2) async fn find(
    io: &Handle,
    header: &Header,
    image: &Path,
    options: &ChangesOptions,
    place: Option<&Place>,
) -> Option<Recovered> {
    let tie = header.tie();
    let shown = image.display();
    let medium = match medium(tie, image, options, place)? {
        Ok(medium) => medium,
        Err(reason) => {
            tracing::warn!("bitmaps of '{shown}' are inconsistent: its change journal is not there ({reason})");
            return None;
        }
    };
    match ChangeJournal::written(io, &medium, tie.number, header.size).await {
        Ok(Some(Written { areas, lost })) => {
            Some(Recovered { areas: Arc::new(areas), lost, medium, number: tie.number, bitmaps: Arc::default() })
        }
        Ok(None) => {
            tracing::warn!("bitmaps of '{shown}' are inconsistent: its change journal is of another image or time");
            None
        }
        Err(error) => {
            tracing::warn!("bitmaps of '{shown}' are inconsistent: its change journal cannot be read: {error}");
            None
        }
    }
}

/// Where the journal of an image is; `None` if there was none, or why it is not there.
fn medium(tie: Tie, image: &Path, options: &ChangesOptions, place: Option<&Place>) -> Option<Result<Medium, String>> {
    Some(match tie.changes? {
        Where::File => match (options.file)(false) {
            Ok(Some(node)) => Ok(Medium::File(node)),
            Ok(None) => Err("no such file".to_owned()),
            Err(error) => Err(error.to_string()),
        },
        Where::Shared => {
            let journal = place.map(|place| place.find(tie.number, image));
            match journal {
                Some(Ok(Some(journal))) => shared(&journal),
                Some(Err(error)) => Err(error.to_string()),
                _ => Err("the system was started anew, or has another /dev/shm".to_owned()),
            }
        }
    })
}

fn shared(journal: &Journal) -> Result<Medium, String> {
    journal.changes_medium().map(Medium::Shared).ok_or_else(|| "it has no room".to_owned())
}
