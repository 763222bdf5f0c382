//! A broken image on the simulated kernel, and what is told of it.

use crate::error::IoError;
use crate::io::{Buf, FileId, Memory};
use crate::node::qcow2::corruption::Corruption;
use crate::node::qcow2::open::{OpenError, Options};
use crate::node::qcow2::tests::machine::Machine;
use crate::node::{Driver, Kind, Request};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

pub const CLUSTER: usize = 65536;
/// Where QEMU puts what, in clusters of 64 KiB.
pub const REFTABLE: usize = CLUSTER;
pub const REFBLOCK: usize = 2 * CLUSTER;
pub const L1: usize = 3 * CLUSTER;
pub const L2: usize = 4 * CLUSTER;
/// "May be written in place".
pub const COPIED: u64 = 1 << 63;

/// Runs one of QEMU's programs.
pub fn qemu(line: &[&str]) {
    let output = Command::new(line[0]).args(&line[1..]).output().unwrap();
    assert!(output.status.success(), "{line:?}: {output:?}");
}

/// An image of 2 GiB with data in its guest's first four clusters, which are those from 5 on, and a compressed fifth.
pub fn image(options: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let path = path.to_str().unwrap();
    qemu(&["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "2G"]);
    qemu(&["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 256k", "-c", "write -c -P 8 256k 64k", path]);
    std::fs::read(path).unwrap()
}

/// Changes a 64-bit number.
pub fn put(content: &mut [u8], offset: usize, value: u64) {
    content[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
}

/// Changes the reference count of a cluster, of 16 bits.
pub fn count(content: &mut [u8], cluster: usize, value: u16) {
    content[REFBLOCK + 2 * cluster..][..2].copy_from_slice(&value.to_be_bytes());
}

pub fn options() -> Options {
    Options {
        read_only: false,
        l2_cache_bytes: 0,
        refcount_cache_bytes: 0,
        pass_discard: true,
        journal: None,
        changes: None,
    }
}

/// The image, open.
pub struct Broken {
    pub machine: Machine,
    told: Arc<Mutex<Vec<Corruption>>>,
}

impl Broken {
    pub fn open(content: Vec<u8>) -> Self {
        Self::try_open(content, options()).unwrap()
    }

    pub fn try_open(content: Vec<u8>, options: Options) -> Result<Self, OpenError> {
        let mut machine = Machine::new(1, &[content], 1);
        machine.open(options)?;
        Ok(Self::of(machine))
    }

    /// With an external data file.
    pub fn over(content: Vec<u8>, data: Vec<u8>) -> Self {
        let mut machine = Machine::new(1, &[content, data], 1);
        let data = machine.file(1);
        machine.open_over(Some(data), None, options()).unwrap();
        Self::of(machine)
    }

    fn of(machine: Machine) -> Self {
        let told: Arc<Mutex<Vec<Corruption>>> = Arc::default();
        let (listener, list) = (Arc::new(OnceLock::new()), told.clone());
        let tell = move |_: &str, corruption: &Corruption| list.lock().unwrap().push(corruption.clone());
        assert!(listener.set(Box::new(tell) as Box<_>).is_ok());
        if let Some(Driver::Qcow2(image)) = machine.node.as_ref().map(|node| node.driver()) {
            image.tell_corruption("image", listener);
        }
        Self { machine, told }
    }

    /// Runs a request of one cluster; what was read.
    pub fn run(&mut self, kind: Kind, offset: usize, byte: u8) -> Result<Vec<u8>, IoError> {
        self.run_part(kind, offset, CLUSTER, byte)
    }

    pub fn run_part(&mut self, kind: Kind, offset: usize, len: usize, byte: u8) -> Result<Vec<u8>, IoError> {
        let (memory, offset, len) = match kind {
            Kind::Read | Kind::Write => {
                let mut buf = Buf::new(len);
                buf.as_mut_slice().fill(byte);
                (Memory::from(buf), offset as u64, len as u64)
            }
            Kind::Flush => (Memory::empty(), 0, 0),
            _ => (Memory::empty(), offset as u64, len as u64),
        };
        let slot = self.machine.begin(0, Request { kind, fua: false, offset, len, memory });
        while slot.borrow().is_none() {
            assert!(self.machine.step() || slot.borrow().is_some(), "a hang");
        }
        let (memory, result) = slot.take().unwrap();
        result.map(|()| memory.into_buf().map(|buf| buf.as_slice().to_vec()).unwrap_or_default())
    }

    pub fn read(&mut self, offset: usize) -> Result<u8, IoError> {
        let bytes = self.run(Kind::Read, offset, 0xee)?;
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "one byte");
        Ok(bytes[0])
    }

    /// What was told so far, and is not told again.
    pub fn told(&self) -> Vec<Corruption> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }

    /// What would be there after a power failure.
    pub fn durable(&self) -> Vec<u8> {
        self.machine.world.stable_content(FileId(0))
    }

    /// The file as programs see it.
    pub fn content(&self) -> Vec<u8> {
        self.machine.contents().remove(0)
    }
}

/// What was told, in short: `!` before what is fatal, bytes after it.
pub fn short(told: &[Corruption]) -> Vec<String> {
    let short = |Corruption { text, bytes, fatal }: &Corruption| {
        let bytes = bytes.as_ref().map(|bytes| format!(" {}+{}", bytes.start, bytes.end - bytes.start));
        format!("{}{text}{}", if *fatal { "!" } else { "" }, bytes.unwrap_or_default())
    };
    told.iter().map(short).collect()
}
