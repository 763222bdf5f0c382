//! A guest with one queue and requests one at a time. Knows the front-end, not the daemon's options.

use std::path::Path;

use tidemark_frontend::{Device, DeviceOptions, GuestBuf, Queue, Request, Segment, Status, feature, request_type};

use super::daemon::Daemon;
use crate::cli::process::TIMEOUT;

/// A connected guest whose queue 0 runs.
pub struct Guest {
    /// The device.
    pub device: Device,
    /// Its queue 0.
    pub queue: Queue,
    buf: GuestBuf,
}

impl Guest {
    /// Connects with everything a Linux guest would negotiate.
    pub fn new(daemon: &Daemon) -> Self {
        Self::with(daemon, DeviceOptions::default())
    }

    /// Connects and starts queue 0.
    pub fn with(daemon: &Daemon, options: DeviceOptions) -> Self {
        Self::at(&daemon.file("blk"), options)
    }

    /// Connects to a socket and starts queue 0.
    pub fn at(socket: &Path, options: DeviceOptions) -> Self {
        let mut device = Device::connect(socket, options).unwrap();
        let queue = device.create_queue(0).unwrap();
        device.start_queue(0).unwrap();
        let buf = device.arena().alloc(1 << 20, 4096).unwrap();
        Self { device, queue, buf }
    }

    /// Starts one more queue.
    pub fn another_queue(&mut self, index: u16) -> Queue {
        let queue = self.device.create_queue(index).unwrap();
        self.device.start_queue(index).unwrap();
        queue
    }

    /// Fresh guest memory.
    pub fn alloc(&mut self, len: u32) -> GuestBuf {
        self.device.arena().alloc(len, 4096).unwrap()
    }

    /// Runs one request to its end.
    pub fn run(&mut self, request: &Request<'_>) -> Status {
        self.queue.run(request, TIMEOUT).unwrap().status
    }

    /// Writes bytes from one buffer.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Status {
        let data = self.put(bytes);
        self.run(&Request::Write { offset, data: &[data] })
    }

    /// Reads bytes into one buffer; the read has to succeed.
    pub fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        let data = self.buf.part(0, len).unwrap();
        self.device.memory().fill(data, 0xee).unwrap();
        let done = self.queue.run(&Request::Read { offset, data: &[data] }, TIMEOUT).unwrap();
        // Virtio 1.2, 2.7.8: what the device wrote, here data and status.
        assert_eq!((done.status, done.written_len), (Status::Ok, len + 1), "read of {len} bytes at {offset}");
        self.device.memory().to_vec(data).unwrap()
    }

    /// Runs a request of any kind with `bytes` for the device to read.
    pub fn raw(&mut self, kind: u32, sector: u64, bytes: &[u8]) -> Status {
        let buf = self.put(bytes);
        let segment = Segment { buf, device_writes: false };
        let segments = if bytes.is_empty() { &[][..] } else { &[segment][..] };
        self.run(&Request::Raw { kind, sector, segments })
    }

    /// Runs a request of any kind with `len` bytes for the device to write.
    pub fn raw_in(&mut self, kind: u32, sector: u64, len: u32) -> Status {
        let segment = Segment { buf: self.buf.part(0, len).unwrap(), device_writes: true };
        let segments = if len == 0 { &[][..] } else { &[segment][..] };
        self.run(&Request::Raw { kind, sector, segments })
    }

    /// Whether data written through a queue comes back through it.
    pub fn check(&mut self, queue: &mut Queue, seed: u8) {
        let data = self.buf.part(0, 4096).unwrap();
        let offset = u64::from(seed) << 12;
        self.device.memory().fill(data, seed).unwrap();
        let wrote = queue.run(&Request::Write { offset, data: &[data] }, TIMEOUT).unwrap();
        self.device.memory().fill(data, !seed).unwrap();
        let read = queue.run(&Request::Read { offset, data: &[data] }, TIMEOUT).unwrap();
        assert_eq!((wrote.status, read.status), (Status::Ok, Status::Ok));
        assert_eq!(self.device.memory().to_vec(data).unwrap(), [seed; 4096]);
    }

    fn put(&mut self, bytes: &[u8]) -> GuestBuf {
        self.device.memory().write(self.buf.addr, bytes).unwrap();
        self.buf.part(0, u32::try_from(bytes.len()).unwrap()).unwrap()
    }
}

/// The parameters of a discard or write-zeroes (virtio 1.2, 5.2.6: `virtio_blk_discard_write_zeroes`).
pub fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// Options without a feature.
pub fn without(mask: u64) -> DeviceOptions {
    DeviceOptions::default().with_feature(mask, false)
}

/// A read's header for the first sector.
pub fn read_header() -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&request_type::IN.to_le_bytes());
    header
}

/// Features of a device that lets its driver decide on the write cache.
pub const CACHE: u64 = feature::FLUSH | feature::CONFIG_WCE;
