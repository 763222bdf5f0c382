//! Compressed clusters: read, inflated and kept for a moment, because readers come back for the next bytes of one; and
//! written, packed.
//!
//! The image says how much to read and a broken one says anything: nothing here takes more memory than a few clusters,
//! and what does not inflate to a whole cluster is an error.

mod deflate;
mod inflate;
pub mod pack;
mod write;

use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::{Kind, Node, Request};
use crate::range_lock::RangeLock;
use crate::reactor::Handle;
use std::sync::{Arc, Mutex, PoisonError};

/// How clusters of an image are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// Clusters that are inflated at a time, and kept.
const SEATS: usize = 4;

/// An inflated cluster, and where its compressed data begins.
type Kept = Option<(u64, Arc<[u8]>)>;

/// Inflates the clusters of one image.
pub struct Inflater {
    method: Method,
    /// Seats in use: as many clusters at most are in memory half-read.
    turns: RangeLock,
    kept: [Mutex<Kept>; SEATS],
}

impl Inflater {
    /// For clusters compressed like this.
    pub fn new(method: Method) -> Self {
        Self { method, turns: RangeLock::default(), kept: Default::default() }
    }

    /// How they are compressed.
    pub(super) fn method(&self) -> Method {
        self.method
    }

    /// Something else is written to `host`, which nobody is reading.
    pub(super) fn forget(&self, host: u64) {
        for kept in &self.kept {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.as_ref().is_some_and(|(at, _)| *at == host) {
                *kept = None;
            }
        }
    }

    /// The `cluster` bytes whose compressed form is at `host` of `file` and takes at most `len` bytes.
    ///
    /// # Errors
    /// The storage's; [`IoError::Io`] for what does not inflate to a whole cluster.
    pub async fn cluster(
        &self,
        io: &Handle,
        file: &Node,
        host: u64,
        len: u64,
        cluster: u64,
    ) -> Result<Arc<[u8]>, IoError> {
        let seat = (host / cluster) % SEATS as u64;
        let _turn = self.turns.lock(seat..seat + 1).await;
        let kept = self.kept.get(byte_count(seat)).ok_or(IoError::Io)?;
        let last = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, bytes)) = last.filter(|(at, _)| *at == host) {
            return Ok(bytes);
        }
        let compressed = read(io, file, host, len).await?;
        let (method, skip, len) = (self.method, byte_count(host % SECTOR), byte_count(cluster));
        // It takes as long as some hundred requests do.
        let inflated =
            io.aside(move || inflate(method, compressed.as_slice().get(skip..).unwrap_or_default(), len)).await;
        let bytes = inflated.unwrap_or(Err(IoError::Io))?;
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((host, bytes.clone()));
        Ok(bytes)
    }
}

fn inflate(method: Method, input: &[u8], len: usize) -> Result<Arc<[u8]>, IoError> {
    let mut bytes = vec![0; len];
    match method {
        Method::Zlib => inflate::zlib(input, &mut bytes),
        Method::Zstd => inflate::zstd(input, &mut bytes),
    }?;
    Ok(bytes.into())
}

/// Compressed data ends with a sector at the latest.
const SECTOR: u64 = 512;

/// The sectors that hold these bytes, as far as the file reaches.
async fn read(io: &Handle, file: &Node, host: u64, len: u64) -> Result<Buf, IoError> {
    let offset = host - host % SECTOR;
    let end = host.checked_add(len).ok_or(IoError::Io)?.min(file.length());
    let len = end.checked_sub(offset).filter(|len| *len > 0).ok_or(IoError::Io)?;
    let memory = Memory::from(Buf::new(byte_count(len)));
    let (memory, result) = file.handle(io, Request { kind: Kind::Read, fua: false, offset, len, memory }).await;
    result?;
    memory.into_buf().ok_or(IoError::Io)
}
