//! Driver `nbd`: a disk that a server of the Network Block Device protocol has.
//!
//! Requests go with memory of their own to the thread that has the connections (`client`, over `core`), one command or
//! several each, and come back. What is not whole blocks of the server is read, changed and written here.

mod client;
mod core;
mod dial;
mod job;
mod negotiate;
mod options;
mod replies;
mod requests;
mod session;
mod status;

pub use options::{NbdClientOptions, NbdServer};

use super::NodeOptions;
use crate::error::GraphError;
use crate::io::{FileTable, Workers};
use crate::nbd_wire::transmission::export_flags;
use crate::range_lock::RangeLock;
use client::Client;
use negotiate::Agreed;
use std::sync::Arc;

/// The longest name of an export, in bytes.
const NAME_MAX: usize = 4096;

/// A disk of a server.
pub struct Nbd {
    options: Arc<NbdClientOptions>,
    agreed: Agreed,
    read_only: bool,
    /// Writes that read the rest of their blocks.
    ranges: RangeLock,
    client: Client,
}

impl Nbd {
    /// Connects to the server; the disk and its length in bytes.
    ///
    /// # Errors
    /// With QEMU's texts: the server cannot be reached, or has no such export, or only for reading.
    pub fn open(
        node: &NodeOptions,
        options: &Arc<NbdClientOptions>,
        files: &Arc<FileTable>,
        workers: &Arc<Workers>,
    ) -> Result<(Self, u64), GraphError> {
        if options.export.len() > NAME_MAX {
            return Err(GraphError::Options("export name too long to send to server".into()));
        }
        if options.dirty_bitmap.as_ref().is_some_and(|name| name.len() > NAME_MAX) {
            return Err(GraphError::Options("x-dirty-bitmap query too long to send to server".into()));
        }
        if let (Some(id), None) = (&options.tls_creds, &options.tls) {
            return Err(GraphError::Options(format!("No TLS credentials with id '{id}'")));
        }
        let (client, agreed) = Client::start(options, !node.read_only.is_on(), files, workers)?;
        let read_only = agreed.can(export_flags::READ_ONLY);
        if read_only && !node.read_only.is_on() && !node.auto_read_only.is_on() {
            return Err(GraphError::Options("NBD export is read-only".into()));
        }
        let disk = Self { options: options.clone(), agreed, read_only, ranges: RangeLock::default(), client };
        Ok((disk, agreed.size.next_multiple_of(512)))
    }

    /// What it was opened with.
    pub fn options(&self) -> &NbdClientOptions {
        &self.options
    }

    /// Whether the server takes no writes.
    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    /// Bytes that the server writes in one go.
    pub(super) fn alignment(&self) -> u32 {
        self.agreed.minimum
    }

    /// Whether the server zeroes without writing.
    pub(super) fn zeroes_fast(&self) -> bool {
        self.agreed.can(export_flags::SEND_WRITE_ZEROES) && self.agreed.can(export_flags::SEND_FAST_ZERO)
    }
}

#[cfg(test)]
mod tests;
