//! An export to connect to, and a front-end with a driver in its guest.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::super::config::PROTOCOL_FEATURES;
use super::super::super::options::{Address, Polling, VhostOptions};
use super::super::super::ring::driver::{DATA, Driver, NEXT, WRITE};
use super::super::super::{ExportShared, Link};
use super::super::serve;
use crate::graph::Graph;
use crate::io::Workers;
use crate::node::NodeOptions;
use crate::node::options::{DriverOptions, NullOptions};

pub(super) const SIZE: u16 = 16;
pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const FLUSH: u64 = 1 << 9;
pub(super) const CONFIG_WCE: u64 = 1 << 11;
pub(super) const STATUS: u64 = DATA + 0x8000;
pub(super) const OK: u8 = 0;
pub(super) const UNANSWERED: u8 = 0xff;

/// An export of a `null-co` node.
pub(super) struct Export {
    pub(super) shared: Arc<ExportShared>,
    pub(super) link: Arc<Link>,
}

impl Export {
    pub(super) fn new(latency: Duration) -> Export {
        Export::with(latency, false)
    }

    pub(super) fn with(latency: Duration, writethrough: bool) -> Export {
        let graph = Graph::new();
        let latency_ns = latency.as_nanos().try_into().unwrap();
        let null = NullOptions { size: 1 << 30, read_zeroes: true, latency_ns };
        let node = NodeOptions { node_name: Some("disk".into()), ..NodeOptions::new(DriverOptions::Null(null)) };
        let options = VhostOptions {
            id: "export".into(),
            node: graph.open(&node).unwrap(),
            writable: true,
            writethrough,
            address: Address::Path { path: "unused".into(), mode: 0o600, group: None },
            logical_block_size: 512,
            num_queues: 2,
            serial: None,
            polling: Polling { max_ns: 0 },
            cpus: Vec::new(),
        };
        let shared = ExportShared::new(&options, graph, Workers::new(), Arc::new(|_| {})).unwrap();
        Export { shared: Arc::new(shared), link: Arc::default() }
    }

    /// A session, and a front-end that has negotiated.
    pub(super) fn connect(&self) -> Guest {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (export, link) = (self.shared.clone(), self.link.clone());
        let session = std::thread::spawn(move || serve(theirs, &export, &link));
        let mut frontend = Frontend::from_stream(ours.try_clone().unwrap(), 2);
        frontend.set_owner().unwrap();
        let features = frontend.get_features().unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(protocol).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(features & (PROTOCOL_FEATURES | VERSION_1 | FLUSH | CONFIG_WCE)).unwrap();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        Guest {
            frontend,
            socket: ours,
            session: Some(session),
            driver: Driver::new(SIZE),
            kick: event(),
            call: event(),
            err: event(),
            next: 0,
        }
    }
}

/// A front-end and the driver in its guest.
pub(super) struct Guest {
    pub(super) frontend: Frontend,
    socket: UnixStream,
    session: Option<JoinHandle<()>>,
    pub(super) driver: Driver,
    pub(super) kick: EventFd,
    pub(super) call: EventFd,
    pub(super) err: EventFd,
    pub(super) next: u16,
}

impl Guest {
    pub(super) fn region(&self, file: &impl AsRawFd) -> VhostUserMemoryRegionInfo {
        let spec = self.driver.region();
        VhostUserMemoryRegionInfo {
            guest_phys_addr: spec.guest_addr,
            memory_size: spec.len,
            userspace_addr: spec.user_addr,
            mmap_offset: spec.file_offset,
            mmap_handle: file.as_raw_fd(),
        }
    }

    pub(super) fn set_memory(&mut self) {
        let file = self.driver.clone_file();
        self.frontend.set_mem_table(&[self.region(&file)]).unwrap();
    }

    pub(super) fn addresses(&self) -> VringConfigData {
        let config = self.driver.config(0);
        VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: config.desc,
            used_ring_addr: config.used,
            avail_ring_addr: config.avail,
            log_addr: None,
        }
    }

    pub(super) fn set_ring(&mut self, base: u16) {
        self.frontend.set_vring_num(0, SIZE).unwrap();
        self.frontend.set_vring_base(0, base).unwrap();
        self.frontend.set_vring_addr(0, &self.addresses()).unwrap();
        self.frontend.set_vring_err(0, &self.err).unwrap();
        self.frontend.set_vring_call(0, &self.call).unwrap();
        self.frontend.set_vring_kick(0, &self.kick).unwrap();
        // Every (re)start rings once, in case the last back-end did not come to it.
        assert!(rang(&self.call, 1000));
    }

    /// Everything a driver needs, and the ring enabled.
    pub(super) fn set_up(&mut self) {
        self.set_memory();
        self.set_ring(0);
        self.frontend.set_vring_enable(0, true).unwrap();
    }

    /// Makes a read of one block available and kicks; returns where its status will be.
    pub(super) fn submit(&mut self) -> u64 {
        let head = self.next % SIZE / 4 * 4;
        self.next += 4;
        let status = STATUS + u64::from(head);
        self.driver.put(DATA, &[0; 16]);
        self.driver.put(status, &[UNANSWERED]);
        self.driver.put_desc(head, (DATA, 16, NEXT, head + 1));
        self.driver.put_desc(head + 1, (DATA + 0x1000, 512, NEXT | WRITE, head + 2));
        self.driver.put_desc(head + 2, (status, 1, WRITE, 0));
        self.driver.offer(head);
        self.kick.write(1).unwrap();
        status
    }

    pub(super) fn status(&self, at: u64) -> u8 {
        self.driver.get::<1>(at)[0]
    }

    /// Waits for the notification of one request.
    pub(super) fn answered(&mut self, at: u64) -> bool {
        rang(&self.call, 2000) && self.status(at) == OK
    }

    /// Closes the connection; returns when the session has ended.
    pub(super) fn leave(&mut self) {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        self.session_ended();
    }

    pub(super) fn session_ended(&mut self) {
        self.session.take().unwrap().join().unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(session) = self.session.take() {
            let _ = session.join();
        }
    }
}

/// Whether an eventfd was written, or is within `ms` milliseconds; it is reset then.
pub(super) fn rang(event: &EventFd, ms: u64) -> bool {
    let until = Instant::now() + Duration::from_millis(ms);
    loop {
        if event.read().is_ok() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(super) const SHORT: Duration = Duration::ZERO;
pub(super) const LONG: Duration = Duration::from_millis(400);
