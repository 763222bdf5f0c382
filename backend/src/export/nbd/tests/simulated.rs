//! A server on the simulated kernel: connections in pieces of any size that are cut at any byte, and a disk of which it is
//! known what would be left of it.

use crate::export::nbd::clients::Clients;
use crate::export::nbd::connection::{self, Arrival};
use crate::export::nbd::server::ServerShared;
use crate::export::nbd::{NbdAddress, NbdExport, NbdServerOptions};
use crate::graph::Graph;
use crate::io::sim::{PortId, World};
use crate::io::{Buf, FileId, Memory, Wait};
use crate::nbd_wire::handshake::{encode_info_request, option as number};
use crate::nbd_wire::transmission::{Command, Headers, Request};
use crate::node::options::{DriverOptions, FileOptions, Locking};
use crate::node::{Node, NodeOptions};
use crate::reactor::Reactor;
use crate::stream::Stream;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tempfile::NamedTempFile;

const LEN: usize = 64 << 10;
/// What clients write at a time.
const BLOCK: usize = 2048;

struct Machine {
    world: World,
    port: PortId,
    reactor: Reactor,
    server: Arc<ServerShared>,
    export: Arc<NbdExport>,
    _image: NamedTempFile,
}

impl Machine {
    fn new(seed: u64) -> Self {
        Self::with(seed, LEN)
    }

    /// With a disk of so many bytes.
    fn with(seed: u64, len: usize) -> Self {
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(len as u64).unwrap();
        let world = World::new(seed);
        world.add_disk(FileId(0), vec![0; len], 1);
        let io = world.io(64);
        let port = io.port();
        let reactor = Reactor::new(Box::new(io)).unwrap();
        let graph = Graph::new();
        let node = open(&graph, &image);
        let options = NbdServerOptions {
            address: NbdAddress::Unix("".into()),
            tls: None,
            max_connections: 0,
            handshake_max: None,
        };
        let server = ServerShared::new(&options, graph.clone());
        let export = NbdExport::new(super::served::export("disk"), node, server.clone(), &graph).unwrap();
        Self { world, port, reactor, server, export, _image: image }
    }

    /// A client's end of a connection that is served; it is cut after so many bytes from one of its ends.
    fn connect(&mut self, cut: Option<(bool, u64)>) -> Stream {
        let (near, far) = self.world.socket_pair();
        if let Some((is_near, bytes)) = cut {
            self.world.cut_after(if is_near { near.id() } else { far.id() }, bytes);
        }
        let io = self.reactor.handle().clone();
        let socket = Arc::new(far);
        let client = self.server.clients().enter(&socket, None).unwrap();
        let arrival = Arrival { socket, client, server: self.server.clone() };
        let (bell, handle) = (self.reactor.bell(), io.clone());
        io.spawn(async move { connection::serve(&handle, &bell, arrival, 0).await });
        Stream::plain(&io, Arc::new(near))
    }

    fn run(&mut self, done: impl Fn() -> bool) {
        while !done() {
            self.reactor.turn(Wait::Forever, || false, |_| ());
            if !self.world.is_awake(self.port) && !self.reactor.has_ready_tasks() && !done() {
                assert!(self.world.advance(), "everybody waits for somebody else");
            }
        }
    }
}

fn open(graph: &Graph, image: &NamedTempFile) -> Arc<Node> {
    let file = FileOptions { filename: image.path().into(), locking: Locking::Off, device: false };
    let options = NodeOptions { node_name: Some("disk".into()), ..NodeOptions::new(DriverOptions::File(file)) };
    graph.open(&options).unwrap()
}

/// Chooses the export; false if the connection ends.
async fn choose(stream: &mut Stream) -> bool {
    let go = super::wire::option(number::GO, &encode_info_request("disk", &[]));
    let hello = [&3u32.to_be_bytes()[..], &go].concat();
    // The greeting, sizes, the export, and that this is all.
    let mut answers = [0; 18 + 20 + 14 + 20 + 12 + 20];
    let sent = stream.writer.write(&hello, Memory::empty()).await.1.is_ok();
    sent && stream.reader.read_exact(&mut answers).await.is_ok()
}

/// Asks for something and waits for the answer; whether it was done.
async fn ask(stream: &mut Stream, command: Command, offset: u64, len: u64, payload: &[u8]) -> bool {
    let header = Request { flags: 0, command, cookie: 1, offset, len }.encode(Headers::Simple);
    let payload = if payload.is_empty() { Memory::empty() } else { Buf::copy_of(payload).into() };
    let mut answer = [0; 16];
    let sent = stream.writer.write(&header, payload).await.1.is_ok();
    sent && stream.reader.read_exact(&mut answer).await.is_ok() && answer[4..8] == [0; 4]
}

#[test]
fn a_connection_cut_at_any_byte_leaves_what_was_acknowledged_and_nobody_waiting() {
    let mut random = fastrand::Rng::with_seed(7);
    for seed in 0..300 {
        let mut machine = Machine::new(seed);
        let cut = (random.bool(), random.u64(0..20_000));
        let acknowledged = Rc::new(RefCell::new(Vec::new()));
        let ended = Rc::new(Cell::new(false));
        let mut stream = machine.connect(Some(cut));
        let (done, end, world) = (acknowledged.clone(), ended.clone(), machine.world.clone());
        machine.reactor.handle().spawn(async move {
            let mut goes_on = choose(&mut stream).await;
            for block in 0..8u8 {
                let at = u64::from(block) * BLOCK as u64;
                goes_on = goes_on && ask(&mut stream, Command::Write, at, BLOCK as u64, &[block + 1; BLOCK]).await;
                if goes_on {
                    let (content, at) = (world.content(FileId(0)), usize::from(block) * BLOCK);
                    assert!(content[at..at + BLOCK] == [block + 1; BLOCK], "seed {seed}: block {block} too early");
                    done.borrow_mut().push(block);
                }
            }
            drop(stream);
            end.set(true);
        });
        let server = machine.server.clone();
        machine.run(|| ended.get() && server.clients().count() == 0);
        assert_eq!(machine.export.clients.count(), 0, "seed {seed}");
        let content = machine.world.content(FileId(0));
        for block in acknowledged.take() {
            let at = usize::from(block) * BLOCK;
            assert!(content[at..at + BLOCK] == [block + 1; BLOCK], "seed {seed}: block {block}");
        }
        assert!(machine.export.stop(), "seed {seed}");
    }
}

#[test]
fn a_flush_of_one_connection_is_of_what_was_acknowledged_on_all() {
    for seed in 0..200 {
        let mut machine = Machine::new(seed);
        let (written, flushed) = (Rc::new(Cell::new(0u32)), Rc::new(Cell::new(false)));
        for writer in 0..3u8 {
            let (mut stream, written) = (machine.connect(None), written.clone());
            machine.reactor.handle().spawn(async move {
                assert!(choose(&mut stream).await);
                let at = u64::from(writer) * BLOCK as u64;
                assert!(ask(&mut stream, Command::Write, at, BLOCK as u64, &[9; BLOCK]).await);
                written.set(written.get() + 1);
            });
        }
        let mut flusher = machine.connect(None);
        machine.run(|| written.get() == 3);
        let end = flushed.clone();
        machine.reactor.handle().spawn(async move {
            assert!(choose(&mut flusher).await);
            assert!(ask(&mut flusher, Command::Flush, 0, 0, &[]).await);
            end.set(true);
        });
        machine.run(|| flushed.get());
        let stable = machine.world.stable_content(FileId(0));
        assert!(stable[..3 * BLOCK] == [9; 3 * BLOCK], "seed {seed}");
    }
}

#[test]
fn whatever_is_sent_instead_of_requests_ends_and_the_disk_is_as_long_as_before() {
    let mut random = fastrand::Rng::with_seed(11);
    for seed in 0..300 {
        let mut machine = Machine::new(seed);
        let mut stream = machine.connect(None);
        // Requests of which some bytes are others, as many as there is time for.
        let mut bytes = Vec::new();
        for _ in 0..random.usize(1..20) {
            let command = [Command::Read, Command::Write, Command::Trim, Command::Flush, Command::BlockStatus];
            let (command, offset, len) = (command[random.usize(0..5)], random.u64(0..70_000), random.u64(0..3000));
            bytes.extend(Request { flags: random.u16(0..4), command, cookie: 1, offset, len }.encode(Headers::Simple));
            if command == Command::Write {
                bytes.resize(bytes.len() + usize::try_from(len).unwrap(), 3);
            }
            if random.u32(0..8) == 0 {
                let at = random.usize(0..bytes.len());
                bytes[at] = random.u8(..);
            }
        }
        machine.reactor.handle().spawn(async move {
            if choose(&mut stream).await {
                let _ = stream.writer.write(&bytes, Memory::empty()).await;
                // Some of the answers, then no more.
                let _ = stream.reader.read_exact(&mut [0; 16]).await;
            }
            stream.writer.shutdown();
        });
        let server = machine.server.clone();
        machine.run(|| server.clients().count() == 0);
        assert_eq!(machine.world.content(FileId(0)).len(), LEN, "seed {seed}");
    }
}

#[test]
fn of_a_client_that_asks_for_more_no_more_is_under_way_than_is_promised() {
    // Requests of one length, and how many of them may be read at the same time.
    for (len, most) in [(BLOCK as u64, 16), (20 << 20, 3), (32 << 20, 2)] {
        let mut machine = Machine::with(len, 32 << 20);
        let (count, ended) = (40, Rc::new(Cell::new(false)));
        let (mut stream, end) = (machine.connect(None), ended.clone());
        machine.reactor.handle().spawn(async move {
            assert!(choose(&mut stream).await);
            let read = Request { flags: 0, command: Command::Read, cookie: 1, offset: 0, len };
            let sent = stream.writer.write(&read.encode(Headers::Simple).repeat(count), Memory::empty());
            for _ in 0..count {
                stream.reader.read_exact(&mut [0; 16]).await.unwrap();
                stream.reader.skip(len).await.unwrap();
            }
            sent.await.1.unwrap();
            end.set(true);
        });
        let (world, seen) = (machine.world.clone(), Cell::new(0));
        machine.run(|| {
            seen.set(seen.get().max(world.under_way(FileId(0))));
            ended.get()
        });
        assert_eq!(seen.get(), most, "reads of {len} bytes at the same time");
    }
}

#[test]
fn nobody_enters_what_is_closed() {
    let world = World::new(1);
    let (near, far) = world.socket_pair();
    let (near, far) = (Arc::new(near), Arc::new(far));
    let clients = Arc::new(Clients::default());
    let first = clients.enter(&near, Some(1));
    assert!(first.is_some() && clients.enter(&far, Some(1)).is_none(), "there is room for one");
    drop(first);
    assert!(clients.close() && clients.enter(&near, None).is_none());
    assert!(!clients.close(), "once");
}
