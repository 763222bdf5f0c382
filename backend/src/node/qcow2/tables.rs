//! L2 tables to be changed: there, in memory, and nobody else's.

use super::image::Image;
use super::l2::Pin;
use super::l2::metadata::Structure;
use super::refcount::Run;
use crate::error::IoError;
use crate::node::points::Points;
use crate::reactor::Handle;

impl Image {
    /// The L2 table of this number, with a reference count of one, in memory until the pin is dropped. Makes one where
    /// there is none, and a copy of one that a snapshot shares.
    ///
    /// # Errors
    /// The storage's; [`IoError::Io`] where the image is corrupt.
    pub(super) async fn table_for_change(
        &self,
        io: &Handle,
        index: usize,
        points: &Points,
    ) -> Result<Pin<'_>, IoError> {
        loop {
            if let Some(pin) = self.own_table(io, index).await? {
                return Ok(pin);
            }
            // Every table in memory has changed: the file has to take some.
            self.flush(io, points).await?;
        }
    }

    async fn own_table(&self, io: &Handle, index: usize) -> Result<Option<Pin<'_>>, IoError> {
        let at = index as u64;
        let _turn = self.table_turns.lock(at..at + 1).await;
        let shared = match self.tables.table(index).map_err(|_| IoError::Io)? {
            Some((_, true)) => return self.tables.load(io, index).await,
            Some((host, false)) => Some(host),
            None => None,
        };
        let words = match shared {
            Some(_) => match self.tables.load(io, index).await? {
                Some(pin) => pin.copy(),
                None => return Ok(None),
            },
            None => vec![0; self.geometry.l2_words()],
        };
        let host = self.new_table(io).await?;
        let pin = self.tables.put_new(index, &words, self.geometry.l1_entry(host));
        match (&pin, shared) {
            (None, _) => self.drop_table(io, host).await?,
            (Some(_), Some(host)) => self.let_go_of_table(io, host).await,
            (Some(_), None) => {}
        }
        Ok(pin)
    }

    /// A cluster for a table, which the file reaches.
    async fn new_table(&self, io: &Handle) -> Result<u64, IoError> {
        let Run { host, fresh, .. } = self.refcounts.allocate_contiguous(io, 1).await?;
        let range = host..host + self.geometry.cluster();
        let made = self.tables.metadata().make(Structure::ActiveL2, range.clone(), fresh);
        self.tables.forbid_new_metadata();
        let result = match made {
            true => self.store.grow(io, range.end).await,
            // The counts of a corrupt image call a table free.
            false => Err(IoError::Io),
        };
        if let Err(error) = result {
            self.drop_table(io, host).await?;
            return Err(error);
        }
        Ok(host)
    }

    /// Gives back a table's cluster that nothing ever led to.
    pub(super) async fn drop_table(&self, io: &Handle, host: u64) -> Result<(), IoError> {
        self.tables.metadata().remove(host..host + self.geometry.cluster());
        self.refcounts.release(io, host, 1).await.map(drop)
    }
}
