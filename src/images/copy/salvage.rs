//! What is left of a source that cannot be read everywhere: each sector by itself, zeroes for those that are lost.

use super::Shared;
use anyhow::Result;
use tidemark_backend::io::{Buf, Memory, byte_count};
use tidemark_backend::node::{Kind, Request};

/// Bytes that are lost at a time, at least.
const SECTOR: u64 = 512;

impl Shared {
    /// Reads what can be read of `len` bytes from `at` on into `buf`, and says what cannot.
    ///
    /// # Errors
    /// There is no memory to read to.
    pub(super) async fn salvage(&self, at: u64, len: u64, buf: &mut Buf) -> Result<()> {
        let bytes = buf.as_mut_slice().get_mut(..byte_count(len)).unwrap_or_default();
        for (offset, sector) in (at..).step_by(byte_count(SECTOR)).zip(bytes.chunks_mut(byte_count(SECTOR))) {
            let (len, memory) = (sector.len() as u64, Memory::from(Buf::new(sector.len())));
            let read = Request { kind: Kind::Read, fua: false, offset, len, memory };
            let (memory, result) = self.copying.source.handle(&self.io, read).await;
            match (memory.into_buf(), result) {
                (Some(read), Ok(())) => sector.copy_from_slice(read.as_slice().get(..sector.len()).unwrap_or_default()),
                (_, result) => {
                    let why = result.err().unwrap_or(tidemark_backend::error::IoError::Io);
                    let place = self.copying.shift + offset;
                    eprintln!("tidemark: warning: error while reading offset {place}: {why}");
                    sector.fill(0);
                }
            }
        }
        Ok(())
    }
}
