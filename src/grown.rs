//! Notices that a block device has grown, so that its guest sees the new size without being told by hand.
//!
//! The kernel says so in a uevent, of which there are few; where it gives none (no such socket in this sandbox), the
//! devices are looked at every few seconds as long as there are any. Only looks; what follows is the graph's business.

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::{Driver, Node};

/// The multicast group in which the kernel itself speaks; in the other one udev does (lib/kobject_uevent.c).
const KERNEL: u32 = 1;
/// Bytes of the longest uevent, `UEVENT_BUFFER_SIZE` and a header.
const EVENT_BYTES: usize = 4096;
/// Between two looks where there are no uevents.
const INTERVAL: Duration = Duration::from_secs(5);

/// Watches the block devices below the nodes of `graph` as long as it exists.
pub fn watch(graph: &Arc<Graph>) {
    let graph = Arc::downgrade(graph);
    let run = move || match subscribe() {
        Ok(socket) => listen(&socket, &graph),
        Err(error) => {
            tracing::debug!("no uevents here ({error}): looking at block devices every {INTERVAL:?}");
            while look(&graph) {
                std::thread::sleep(INTERVAL);
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("grown".into()).spawn(run) {
        tracing::warn!("grown block devices will not be noticed: {error}");
    }
}

fn subscribe() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
    Ok(socket)
}

fn listen(socket: &OwnedFd, graph: &Weak<Graph>) {
    let mut buffer = [0; EVENT_BYTES];
    loop {
        let relevant = match rustix::net::recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((len, _)) => is_block_change(buffer.get(..len).unwrap_or_default()),
            Err(Errno::INTR) => false,
            // Events were lost; one of them may have been ours.
            Err(Errno::NOBUFS) => true,
            Err(error) => return tracing::warn!("grown block devices will not be noticed any more: {error}"),
        };
        if relevant && !look(graph) {
            return;
        }
    }
}

/// A uevent is a header and `KEY=value` pairs, each ended by a zero.
fn is_block_change(event: &[u8]) -> bool {
    let has = |pair: &[u8]| event.split(|byte| *byte == 0).any(|part| part == pair);
    has(b"ACTION=change") && has(b"SUBSYSTEM=block")
}

/// Looks at all block devices; false once the graph is gone.
fn look(graph: &Weak<Graph>) -> bool {
    let Some(graph) = graph.upgrade() else { return false };
    for node in graph.nodes().iter().filter(|node| is_on_device(node)) {
        let before = node.length();
        graph.refresh_length(node);
        if node.length() != before {
            tracing::info!("node '{}' has grown from {before} to {} bytes", node.name(), node.length());
        }
    }
    true
}

fn is_on_device(node: &Node) -> bool {
    match node.driver() {
        Driver::File(file) => file.fd().is_ok_and(|fd| {
            rustix::fs::fstat(fd).is_ok_and(|stat| {
                rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::BlockDevice
            })
        }),
        _ => node.child().is_some_and(|child| is_on_device(&child)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_of_block_devices_matter() {
        let event = b"change@/devices/virtual/block/loop0\0ACTION=change\0SUBSYSTEM=block\0RESIZE=1\0";
        assert!(is_block_change(event));
        assert!(!is_block_change(b"add@/x\0ACTION=add\0SUBSYSTEM=block\0"));
        assert!(!is_block_change(b"change@/x\0ACTION=change\0SUBSYSTEM=net\0"));
        assert!(!is_block_change(b""));
    }
}
