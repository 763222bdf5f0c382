//! An image that somebody has written to who keeps reference counts in memory until he closes it, and who never did:
//! the *dirty* bit says so. Its counts are made anew from its tables before the first write, as QEMU does.
//!
//! The bit goes last, when everything else is stable: a crash before that leaves an image that is repaired again.

use super::entry::{Entry, Geometry};
use super::header::{Header, bits};
use super::image::Image;
use super::open::OpenError;
use super::refcount::Refcounts;
use super::refcount::check::{Contested, Counted, Parts, count};
use super::store::Store;
use crate::error::IoError;
use crate::node::points::Points;
use crate::reactor::Handle;

/// Bit 63 of entries: the reference count is one.
const COPIED: u64 = 1 << 63;

impl Image {
    /// Makes the counts right and says so. Nobody may be using the image yet. `counted` are its references, if they are
    /// known.
    ///
    /// # Errors
    /// [`OpenError::Repair`]; then the image says as before that it is to be repaired.
    pub(super) async fn repair(&self, io: &Handle, counted: Option<Counted>) -> Result<(), OpenError> {
        let below = self.store.node();
        let file = below.name();
        tracing::warn!(file, "image was not closed in order: its reference counts are being repaired");
        let counted = match counted {
            Some(counted) => counted,
            None => self.count_uncontested(io).await?,
        };
        if let Some(wrong) = &counted.wrong {
            tracing::warn!(file, "something else is wrong with the image, and stays as it is: {wrong}");
        }
        let repaired = self.refcounts.correct(io, &counted, true).await.map_err(failed)?;
        let flags = self.correct_flags(io, &counted).await.map_err(failed)?;
        self.flush(io, &Points::default()).await.map_err(failed)?;
        self.change_header(io, |header| header.incompatible &= !bits::INCOMPATIBLE_DIRTY).await?;
        let (raised, lowered) = (repaired.raised, repaired.lowered);
        tracing::info!(file, raised, leaked = lowered, flags, "the reference counts of the image are repaired");
        Ok(())
    }

    /// Frees what nothing leads to, and leaves all else as it is. Nobody may be using the image yet.
    ///
    /// # Errors
    /// [`OpenError::Repair`].
    pub(crate) async fn repair_leaks(&self, io: &Handle) -> Result<(), OpenError> {
        let counted = self.count_uncontested(io).await?;
        self.refcounts.correct(io, &counted, false).await.map_err(failed)?;
        self.flush(io, &Points::default()).await.map_err(failed)
    }

    /// Counts all references of an image whose blocks are known already: none of them can be made elsewhere.
    async fn count_uncontested(&self, io: &Handle) -> Result<Counted, OpenError> {
        let counted = count(io, self.store.clone(), Parts::from(&*self.header())).await;
        let counted = counted.map_err(|error| OpenError::Repair(error.to_string()))?;
        if counted.contested == Contested::default() { Ok(counted) } else { Err(refused(&counted.contested)) }
    }

    /// Says, stably, that the image must not be written to.
    ///
    /// # Errors
    /// The header cannot be written.
    pub(crate) async fn mark_corrupt(&self, io: &Handle) -> Result<(), OpenError> {
        Ok(self.change_header(io, |header| header.incompatible |= bits::INCOMPATIBLE_CORRUPT).await?)
    }

    /// Makes entries say rightly which tables and clusters may be written in place; how many did not.
    async fn correct_flags(&self, io: &Handle, counted: &Counted) -> Result<u64, IoError> {
        let mut corrected = 0;
        for index in 0..self.tables.l1_entries() {
            let Ok(Some((host, copied))) = self.tables.table(index) else { continue };
            let Some(alone) = counted.is_alone(self.geometry, host) else { continue };
            if copied != alone {
                let word = self.tables.l1(index);
                self.tables.set_l1(index, if alone { word | COPIED } else { word & !COPIED });
                self.correct_l1(io, index).await?;
                corrected += 1;
            }
            corrected += self.correct_table(io, index, counted).await?;
        }
        Ok(corrected)
    }

    async fn correct_table(&self, io: &Handle, index: usize, counted: &Counted) -> Result<u64, IoError> {
        if self.geometry.external_data {
            return Ok(0);
        }
        let mut corrected = 0;
        let table = loop {
            if let Some(table) = self.tables.load(io, index).await? {
                break table;
            }
            self.flush(io, &Points::default()).await?;
        };
        for entry in (0..self.geometry.l2_words()).step_by(self.geometry.entry_words()) {
            let word = table.word(entry);
            let Some((host, copied)) = own(self.geometry, word) else { continue };
            let Some(alone) = counted.is_alone(self.geometry, host) else { continue };
            if copied != alone {
                table.set(entry, if alone { word | COPIED } else { word & !COPIED });
                corrected += 1;
            }
        }
        Ok(corrected)
    }
}

/// Where an entry leads that says whether that is its own.
fn own(geometry: Geometry, word: u64) -> Option<(u64, bool)> {
    match geometry.decode(word) {
        Entry::Data { host, copied } | Entry::Zero { host: Some(host), copied } => Some((host, copied)),
        _ => None,
    }
}

/// Counts all references of an image that is to be repaired, before anything else is known of it; of `refcounts` it
/// leaves the blocks that nothing else has a claim on.
///
/// # Errors
/// [`OpenError::Repair`], also where a repair would write to what something else has a claim on.
pub(super) async fn count_first(
    io: &Handle,
    store: &Store,
    header: &Header,
    refcounts: &Refcounts,
) -> Result<Counted, OpenError> {
    let counted = count(io, store.clone(), Parts::from(header)).await;
    let counted = counted.map_err(|error| OpenError::Repair(error.to_string()))?;
    if counted.contested.table.is_some() {
        return Err(refused(&counted.contested));
    }
    refcounts.forget(&counted.contested);
    Ok(counted)
}

fn refused(contested: &Contested) -> OpenError {
    OpenError::Repair(contested.to_string())
}

fn failed(error: IoError) -> OpenError {
    OpenError::Repair(error.to_string())
}
