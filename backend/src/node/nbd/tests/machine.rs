//! A client and its server on one reactor of the simulated machine.

use super::super::dial::Dial;
use super::super::job::{Done, Job};
use super::super::negotiate::Agreed;
use super::super::options::{NbdClientOptions, NbdServer};
use super::Core;
use super::server::{Server, SimDial};
use crate::io::sim::{PortId, World};
use crate::io::{Buf, Wait};
use crate::nbd_wire::transmission::{Command, Headers};
use crate::reactor::{Promise, Reactor, promise};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub struct Machine {
    world: World,
    port: PortId,
    reactor: Reactor,
    pub server: Rc<Server>,
    core: Rc<Core>,
}

impl Machine {
    pub fn new(seed: u64, headers: Headers, reconnect_delay: Duration) -> Self {
        Self::with(seed, headers, |options| options.reconnect_delay = reconnect_delay)
    }

    pub fn with(seed: u64, headers: Headers, change: impl FnOnce(&mut NbdClientOptions)) -> Self {
        let world = World::new(seed);
        let io = world.io(1024);
        let port = io.port();
        let reactor = Reactor::new(Box::new(io)).unwrap();
        let server = Server::new(&world, reactor.handle(), headers);
        let mut options = NbdClientOptions {
            server: NbdServer::Unix("there".into()),
            export: String::new(),
            tls_creds: None,
            tls: None,
            tls_hostname: None,
            dirty_bitmap: None,
            reconnect_delay: Duration::ZERO,
            open_timeout: Duration::ZERO,
            connections: 4,
        };
        change(&mut options);
        let dial: Box<dyn Dial> = Box::new(SimDial(server.clone()));
        let core = Core::new(reactor.handle(), Arc::new(options), dial, true);
        Self { world, port, reactor, server, core }
    }

    pub fn open(&mut self) -> Result<Agreed, String> {
        let (core, slot) = (self.core.clone(), Rc::new(RefCell::new(None)));
        let opened = slot.clone();
        self.reactor.handle().spawn(async move {
            let agreed = core.open().await;
            *opened.borrow_mut() = Some(agreed);
        });
        self.run(|| slot.borrow().is_some());
        slot.take().unwrap()
    }

    pub fn begin(&self, command: Command, offset: u64, bytes: Option<Vec<u8>>) -> Promise<Done> {
        let buf = bytes.map(|bytes| Buf::copy_of(&bytes));
        let len = buf.as_ref().map_or(0, |buf| buf.as_slice().len() as u64);
        self.send(command, offset, len, buf)
    }

    pub fn begin_bare(&self, command: Command, offset: u64, len: u64) -> Promise<Done> {
        self.send(command, offset, len, None)
    }

    fn send(&self, command: Command, offset: u64, len: u64, buf: Option<Buf>) -> Promise<Done> {
        let (ticket, done) = promise();
        let job = Job { command, flags: 0, offset, len, buf, ticket };
        self.reactor.handle().spawn(self.core.clone().run(job));
        done
    }

    pub fn wait(&mut self, promise: Promise<Done>) -> Done {
        let slot = Rc::new(RefCell::new(None));
        let ended = slot.clone();
        self.reactor.handle().spawn(async move {
            let done = promise.await;
            *ended.borrow_mut() = Some(done);
        });
        self.run(|| slot.borrow().is_some());
        slot.take().unwrap().expect("a command that was begun ends")
    }

    /// Cuts what connections there are.
    pub fn cut_now(&mut self) {
        self.server
            .sockets
            .take()
            .iter()
            .for_each(|socket| socket.upgrade().iter().for_each(|socket| socket.shutdown()));
    }

    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.world.now())
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        let (io, done) = (self.reactor.handle().clone(), Rc::new(Cell::new(false)));
        let end = done.clone();
        let until = io.read_clock() + u64::try_from(time.as_nanos()).unwrap();
        self.reactor.handle().spawn(async move {
            io.sleep_until(until).await;
            end.set(true);
        });
        self.run(|| done.get());
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
