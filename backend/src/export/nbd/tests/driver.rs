//! The driver `nbd` as a client of this server: requests as filters and images make them, also such as no guest can.

use super::served::{Served, export};
use crate::graph::Graph;
use crate::io::{Buf, Memory, Uring, Wait, Workers};
use crate::node::nbd::{NbdClientOptions, NbdServer};
use crate::node::options::{Discard, DriverOptions};
use crate::node::{Kind, Node, NodeOptions, Request};
use crate::reactor::Reactor;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const LEN: usize = 1 << 20;

/// A server's disk as a node, and a thread's reactor to use it from.
struct Far {
    node: Arc<Node>,
    reactor: Reactor,
    served: Served,
}

impl Far {
    fn new() -> Self {
        let served = Served::new();
        served.add_file("disk", &[7; LEN]);
        served.exports.add_nbd(export("disk")).unwrap();
        let options = NbdClientOptions {
            server: NbdServer::Unix(served.path("nbd.sock")),
            export: "disk".into(),
            tls_creds: None,
            tls: None,
            tls_hostname: None,
            dirty_bitmap: None,
            reconnect_delay: Duration::ZERO,
            open_timeout: Duration::ZERO,
            connections: 4,
        };
        let options = NodeOptions {
            node_name: Some("far".into()),
            discard: Discard::Unmap,
            ..NodeOptions::new(DriverOptions::Nbd(Arc::new(options)))
        };
        let graph = Graph::new();
        let node = graph.open(&options).unwrap();
        let ring = Uring::new(graph.files().clone(), Workers::new()).unwrap();
        Self { node, reactor: Reactor::new(Box::new(ring)).unwrap(), served }
    }

    fn run(&mut self, kind: Kind, offset: u64, len: u64, bytes: Option<Vec<u8>>) -> Vec<u8> {
        let memory = bytes.map_or(Memory::empty(), |bytes| Buf::copy_of(&bytes).into());
        let request = Request { kind, fua: false, offset, len, memory };
        let (node, io, slot) = (self.node.clone(), self.reactor.handle().clone(), Rc::new(RefCell::new(None)));
        let ended = slot.clone();
        self.reactor.handle().spawn(async move {
            let (memory, result) = node.handle(&io, request).await;
            *ended.borrow_mut() = Some((memory, result));
        });
        while slot.borrow().is_none() {
            self.reactor.turn(Wait::Forever, || false, |_| ());
        }
        let (memory, result) = slot.take().unwrap();
        assert_eq!(result, Ok(()), "{kind:?} of {len} bytes at {offset}");
        memory.into_buf().map_or(Vec::new(), |buf| buf.as_slice().to_vec())
    }
}

#[test]
fn what_is_empty_changes_nothing_and_the_connection_goes_on() {
    let mut far = Far::new();
    for offset in [0, 1000, 4096, LEN as u64] {
        far.run(Kind::Write, offset, 0, None);
        far.run(Kind::Zero { unmap: false }, offset, 0, None);
        far.run(Kind::Discard, offset, 0, None);
        far.run(Kind::Read, offset, 0, None);
    }
    // Neither end of this is a part of a block: nothing is left to be written around it.
    far.run(Kind::Zero { unmap: true }, 4096, 8192, None);
    far.run(Kind::Flush, 0, 0, None);
    let read = far.run(Kind::Read, 0, 16384, Some(vec![1; 16384]));
    assert!(read == [&[7; 4096][..], &[0; 8192], &[7; 4096]].concat());
    let there = std::fs::read(far.served.path("disk")).unwrap();
    assert!(there[..16384] == read && there[16384..] == [7; LEN - 16384]);
}
