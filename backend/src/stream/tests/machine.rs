//! Two ends of a simulated connection on one reactor, and messages whose content says whether they are whole.

use crate::error::IoError;
use crate::io::sim::{PortId, World};
use crate::io::{Buf, FileId, Memory, Wait, byte_count};
use crate::reactor::Reactor;
use crate::stream::{Reader, Stream};
use crate::tls::tests::authority::{Authority, Identity, directory};
use crate::tls::{Client, Server, X509};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

static CREDENTIALS: LazyLock<(Server, Client)> = LazyLock::new(|| {
    let authority = Authority::new("ours");
    let server = directory(&authority, Identity::server("disk.example"));
    let client = directory(&authority, Identity::client("vm"));
    let anybody = X509::default();
    (Server::open(server.path(), anybody).unwrap(), Client::open(client.path(), anybody).unwrap())
});

pub fn server() -> &'static Server {
    &CREDENTIALS.0
}

/// Ends of a connection: whether it is the near one, and what came of its handshake.
type Ends = Vec<(bool, Option<Stream>)>;

pub struct Machine {
    world: World,
    port: PortId,
    reactor: Reactor,
    near: FileId,
}

impl Machine {
    pub fn plain(seed: u64) -> (Self, Stream, Stream) {
        let world = World::new(seed);
        let io = world.io(64);
        let port = io.port();
        let reactor = Reactor::new(Box::new(io)).unwrap();
        let (near, far) = world.socket_pair();
        let machine = Self { world, port, near: near.id(), reactor };
        let stream = |socket| Stream::plain(machine.reactor.handle(), Arc::new(socket));
        let (near, far) = (stream(near), stream(far));
        (machine, near, far)
    }

    /// After a handshake; `None` if the connection, cut after so many bytes, did not last until then.
    pub fn secure(seed: u64, cut: Option<u64>) -> Option<(Self, Stream, Stream)> {
        let (mut machine, near, far) = Self::plain(seed);
        cut.iter().for_each(|bytes| machine.cut_near_after(*bytes));
        let ends: Rc<RefCell<Ends>> = Rc::default();
        let put = |near, stream: Result<_, _>, ends: &RefCell<Vec<_>>| ends.borrow_mut().push((near, stream.ok()));
        let (client, server) = (CREDENTIALS.1.session(None).unwrap(), CREDENTIALS.0.session().unwrap());
        let slot = ends.clone();
        machine.spawn(async move { put(true, near.secure(client).await, &slot) });
        let slot = ends.clone();
        machine.spawn(async move { put(false, far.secure(server).await, &slot) });
        machine.run(|| ends.borrow().len() == 2);
        let mut ends = ends.take();
        ends.sort_by_key(|(near, _)| !near);
        let mut ends = ends.into_iter().map(|(_, stream)| stream);
        let (near, far) = (ends.next()??, ends.next()??);
        Some((machine, near, far))
    }

    pub fn cut_near_after(&self, bytes: u64) {
        self.world.cut_after(self.near, bytes);
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.reactor.handle().spawn(task);
    }

    /// Until `done`; a machine in which nothing happens any more is a test that has failed.
    pub fn run(&mut self, done: impl Fn() -> bool) {
        while !done() {
            self.reactor.turn(Wait::Forever, || false, |_| ());
            if !self.world.is_awake(self.port) && !self.reactor.has_ready_tasks() && !done() {
                assert!(self.world.advance(), "everybody waits for somebody else");
            }
        }
    }
}

fn content(writer: u64, number: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(writer << 32 | number);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

fn length(writer: u64, number: u64) -> usize {
    [0, 1, 511, 4096, 20_000, 70_000][byte_count((writer * 3 + number) % 6)]
}

pub fn message(writer: u64, number: u64) -> ([u8; 16], Memory) {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&writer.to_be_bytes());
    head[8..].copy_from_slice(&number.to_be_bytes());
    let payload = content(writer, number, length(writer, number));
    (head, if payload.is_empty() { Memory::empty() } else { Buf::copy_of(&payload).into() })
}

pub async fn read_message(reader: &mut Reader) -> Result<(u64, u64), IoError> {
    let mut head = [0; 16];
    reader.read_exact(&mut head).await?;
    let writer = u64::from_be_bytes(*head.first_chunk().unwrap());
    let number = u64::from_be_bytes(*head.last_chunk().unwrap());
    let len = length(writer, number);
    let mut bytes = vec![0; len];
    if len > 0 {
        let (memory, read) = reader.read_memory(Buf::new(len).into()).await;
        read?;
        memory.copy_to(0, &mut bytes);
    }
    assert!(bytes == content(writer, number, len), "message {number} of {writer}");
    Ok((writer, number))
}
