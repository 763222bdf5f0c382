//! The back-end program of one vhost-user-blk device: a socket and a file, by the names QEMU's conventions give them.
//!
//! With a connected socket the program ends when its front-end leaves.

use super::Refusal;
use super::options::{Id, Option as Given};
use crate::image::{self, Cache, Changes, Image};
use anyhow::{Context as _, anyhow};
use qmp_lite::dispatch::Dispatcher;
use std::sync::Arc;
use tidemark_backend::export::vhost::{Address, Polling, QUEUES_MAX, VhostOptions};
use tidemark_backend::io::take_inherited;

/// What node and export are called.
const NAME: &str = "disk0";

/// The device's options.
#[derive(Debug, Default)]
pub struct Program {
    socket_path: Option<String>,
    fd: Option<i32>,
    blk_file: Option<String>,
    read_only: bool,
}

impl Program {
    /// Notes one of the device's options.
    pub fn take(&mut self, given: &Given) -> Result<(), Refusal> {
        match given.id {
            Some(Id::SocketPath) => self.socket_path = Some(given.value.clone()),
            Some(Id::Fd) => {
                let number = given.value.parse().ok().filter(|number| *number >= 0);
                self.fd = Some(number.ok_or("not the number of a file descriptor")?);
            }
            Some(Id::BlkFile) => self.blk_file = Some(given.value.clone()),
            Some(Id::ReadOnly) => self.read_only = true,
            _ => {}
        }
        Ok(())
    }

    /// Whether the options make a device, or none.
    pub fn check(&self) -> Result<(), Refusal> {
        let sockets = usize::from(self.socket_path.is_some()) + usize::from(self.fd.is_some());
        match (&self.blk_file, sockets) {
            (_, 2) => Err("--socket-path and --fd exclude each other".into()),
            (Some(_), 0) => Err("--blk-file needs --socket-path or --fd".into()),
            (None, 1) => Err("--socket-path and --fd need --blk-file".into()),
            (None, 0) if self.read_only => Err("--read-only needs --blk-file".into()),
            _ => Ok(()),
        }
    }

    /// Serves the device, if there is one.
    pub fn start(&self, dispatcher: &Arc<Dispatcher>) -> Result<(), Refusal> {
        let Some(path) = &self.blk_file else { return Ok(()) };
        let context = dispatcher.context();
        let image = Image {
            path: path.into(),
            format: None,
            read_only: self.read_only,
            cache: Cache::Auto,
            meta: None,
            changes: Changes::default(),
            snapshot: None,
        };
        let node = image.open(&context.graph, NAME)?;
        let options = VhostOptions {
            id: NAME.to_owned(),
            writable: !self.read_only,
            writethrough: false,
            address: self.address()?,
            logical_block_size: image::logical_block_size(&node),
            num_queues: QUEUES_MAX,
            serial: None,
            polling: Polling::default(),
            cpus: Vec::new(),
            node,
        };
        context.exports.add_vhost(options).map_err(|error| image.export_refusal(&error))?;
        if self.fd.is_some() {
            self.end_with_front_end(dispatcher)?;
        }
        Ok(())
    }

    fn address(&self) -> anyhow::Result<Address> {
        match (&self.socket_path, self.fd) {
            (_, Some(number)) => take_inherited(number)
                .map(Address::Fd)
                .map_err(|error| anyhow!("--fd {number}: {}", tidemark_backend::error::errno_text(&error.into()))),
            (Some(path), None) => {
                let path = std::path::absolute(path).context("there is no current directory")?;
                Ok(Address::Path { path, mode: 0o600, group: None })
            }
            (None, None) => Err(anyhow!("neither --socket-path nor --fd is given")),
        }
    }

    fn end_with_front_end(&self, dispatcher: &Arc<Dispatcher>) -> anyhow::Result<()> {
        let context = dispatcher.context().clone();
        let wait = move || {
            context.exports.wait_finished(NAME);
            context.quit.request();
        };
        std::thread::Builder::new().name("finish".into()).spawn(wait).context("cannot start a thread")?;
        Ok(())
    }
}
