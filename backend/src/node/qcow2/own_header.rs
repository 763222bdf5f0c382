//! What an open image says of itself, and changes of it.
//!
//! One change at a time; whoever moves the refcount table names it in the same place and waits meanwhile. The fields at
//! the beginning are in one sector and change together or not at all. Where extensions change there are several steps.

mod backing;
mod steps;

use super::header::{Header, HeaderError};
use super::image::Image;
use crate::error::IoError;
use crate::io::Buf;
use crate::reactor::Handle;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where the fields begin that come after those that say where the name of the backing file is.
const FIELDS: usize = 20;
/// Where the fields end that may change.
const FIELDS_END: [usize; 2] = [72, 104];

/// The header as the file has it, but for where the refcount table is.
pub struct OwnHeader {
    header: Mutex<Arc<Header>>,
    /// The last change has failed on its way: the file may have it or not.
    unsure: AtomicBool,
}

/// Why a header was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It cannot be written as it would be.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The storage's; the file has the old one or the new one.
    #[error("Could not write the header: {0}")]
    Io(#[from] IoError),
}

impl OwnHeader {
    /// As it was read.
    pub fn new(header: Header) -> Self {
        Self { header: Mutex::new(Arc::new(header)), unsure: AtomicBool::new(false) }
    }

    /// The file may not have it.
    pub(super) fn doubt(&self) {
        self.unsure.store(true, Ordering::Release);
    }

    fn get(&self) -> Arc<Header> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Image {
    /// What the image says of itself, but for where the refcount table is.
    pub fn header(&self) -> Arc<Header> {
        self.header.get()
    }

    /// Changes what the image says of itself; stable when this returns.
    ///
    /// # Errors
    /// See [`ChangeError`]; then what [`Image::header`] says is unchanged.
    pub(super) async fn change_header(&self, io: &Handle, change: impl FnOnce(&mut Header)) -> Result<(), ChangeError> {
        let table = self.refcounts.keep_table().await;
        let mut header = Header::clone(&self.header());
        change(&mut header);
        header.reftable_offset = table.offset;
        header.reftable_clusters = u32::try_from(table.clusters).map_err(|_| IoError::Io)?;
        let bytes = header.to_bytes()?;
        // After a change that has failed the extensions may be others than it is known of them.
        let unsure = self.header.unsure.swap(true, Ordering::AcqRel);
        match !unsure && header.has_extensions_of(&self.header()) {
            true => {
                let fields = FIELDS..FIELDS_END[usize::from(header.version > 2)];
                let mut buf = Buf::new(fields.len());
                buf.as_mut_slice().copy_from_slice(bytes.get(fields).unwrap_or_default());
                self.store.write(io, FIELDS as u64, buf).await?;
                self.store.flush(io).await?;
            }
            false => self.write_header(io, &header).await?,
        }
        *self.header.header.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(header);
        self.header.unsure.store(false, Ordering::Release);
        Ok(())
    }

    /// Writes the header once more if it cannot be known which one the file has: nothing that is written elsewhere
    /// would count.
    ///
    /// # Errors
    /// The storage's.
    pub(super) async fn settle_header(&self, io: &Handle) -> Result<(), IoError> {
        if !self.header.unsure.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.change_header(io, |_| ()).await {
            Err(ChangeError::Io(error)) => Err(error),
            other => other.map_err(|_| IoError::Io),
        }
    }
}
