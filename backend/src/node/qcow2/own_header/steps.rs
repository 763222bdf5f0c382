//! Changing the extensions of a header, in steps of which each leaves a header that leads to all there is.
//!
//! Only a sector is written as a whole or not at all, and what extensions change moves what comes after them: other
//! extensions, and the name of the backing file. So the name is written to where nothing was, then the first sector says
//! all that counts and nothing of the others, then these are written, and at last the first sector again.

use super::ChangeError;
use crate::error::IoError;
use crate::io::Buf;
use crate::node::qcow2::header::{Header, HeaderError, Used};
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;

/// Bytes that are written as a whole or not at all.
const SECTOR: usize = 512;

impl Image {
    /// Writes a header whose extensions are others than those of the file; stable when this returns.
    ///
    /// # Errors
    /// It cannot be written as it would be; the storage's: then the file has the one or the other.
    pub(super) async fn write_header(&self, io: &Handle, header: &Header) -> Result<(), ChangeError> {
        let before = self.store.read(io, 0, self.geometry.cluster()).await?;
        let before = before.as_slice();
        let used = Used::by(before);
        let (bytes, brief) = match header.to_bytes_beside(&used) {
            Ok(bytes) => (bytes.clone(), header.first_sector(&bytes)),
            // Where there is no room for steps it is better than nothing.
            Err(HeaderError::DoesNotFit(_)) => (header.to_bytes()?, None),
            Err(error) => return Err(error.into()),
        };
        let (first, rest) = bytes.split_at_checked(SECTOR).unwrap_or((&bytes, &[]));
        match brief {
            _ if before.get(SECTOR..) == Some(rest) => {}
            Some(brief) => {
                let mut named = before.to_vec();
                let name = Used::by(&bytes).name;
                if let Some((to, from)) = named.get_mut(name.clone()).zip(bytes.get(name.clone())) {
                    to.copy_from_slice(from);
                }
                self.write_bytes(io, 0, &named).await?;
                self.write_bytes(io, 0, &brief).await?;
                self.write_bytes(io, SECTOR, rest).await?;
            }
            None => self.write_bytes(io, SECTOR, rest).await?,
        }
        Ok(self.write_bytes(io, 0, first).await?)
    }

    async fn write_bytes(&self, io: &Handle, at: usize, bytes: &[u8]) -> Result<(), IoError> {
        let mut buf = Buf::new(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        self.store.write(io, at as u64, buf).await?;
        self.store.flush(io).await
    }
}
