//! `tidemark serve`: disks to virtual machines, with defaults that are right for most.
//!
//! One node, one export and one socket for each disk. Knows paths and what people say about them; the data plane is the
//! back end's, the control socket the monitor's.

mod control;
mod cpus;
mod disk;
mod options;

pub use options::ServeOptions;

use crate::{grown, image, lifetime, logging};
use anyhow::Context as _;
use disk::Disk;
use qmp_lite::context::Context;
use qmp_lite::dispatch::Dispatcher;
use std::path::Path;
use tidemark_backend::export::vhost::{Address, VhostOptions};

/// Serves until a signal, a `quit` or an error.
///
/// # Errors
/// Anything that keeps one of the disks from being served; none is served then.
pub fn run(options: &ServeOptions) -> anyhow::Result<()> {
    logging::start(options.log_level);
    let disks = options.disks()?;
    let dispatcher = Dispatcher::new(Context::new());
    let quit = dispatcher.context().quit.clone();
    lifetime::obey_signals(quit.clone())?;
    grown::watch(&dispatcher.context().graph);
    options.backing_dir.iter().for_each(|dir| dispatcher.context().graph.allow_backing_in(dir.clone()));
    let monitor = options.qmp.as_deref().map(|path| control::start(path, dispatcher.clone())).transpose()?;
    let served = disks.iter().try_for_each(|disk| add(dispatcher.context(), disk, options));
    if served.is_ok() {
        quit.wait();
    }
    dispatcher.close();
    if let Some(monitor) = monitor {
        monitor.stop();
    }
    served
}

fn add(context: &Context, disk: &Disk, options: &ServeOptions) -> anyhow::Result<()> {
    let node = disk.image.open(&context.graph, &disk.name)?;
    let (length, block_size) = (node.length(), image::logical_block_size(&node));
    let socket = std::path::absolute(&disk.socket).context("there is no current directory")?;
    let vhost = VhostOptions {
        id: disk.name.clone(),
        node,
        writable: !options.read_only,
        writethrough: false,
        address: Address::Path { path: socket.clone(), mode: options.socket_mode.0, group: options.group()? },
        logical_block_size: block_size,
        num_queues: options.num_queues,
        serial: disk.serial.clone(),
        polling: options.polling(),
        cpus: options.cpus.0.clone(),
    };
    context.exports.add_vhost(vhost).map_err(|error| disk.image.export_refusal(&error))?;
    announce(&disk.image.path, length, block_size, &socket, &disk.name);
    Ok(())
}

fn announce(path: &Path, length: u64, block_size: u32, socket: &Path, name: &str) {
    tracing::info!(
        "{name}: serving '{}' ({length} bytes in blocks of {block_size}) on '{}'",
        path.display(),
        socket.display()
    );
}
