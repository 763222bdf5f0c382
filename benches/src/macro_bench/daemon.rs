//! A daemon under test: started with the same options whichever it is, stopped with its handle.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tidemark_frontend::{Device, DeviceOptions, Queue};

use crate::cpu::Machine;

/// Guest memory: rings and 4 queues of 128 requests of 4 KiB, or 8 of 1 MiB.
const MEMORY_LEN: u64 = 64 << 20;
/// Descriptors per queue, Linux's default under QEMU being 128 or 256.
const QUEUE_SIZE: u16 = 256;

/// A running daemon with a guest connected.
pub struct Daemon {
    child: Child,
    _dir: TempDir,
    /// The guest's device.
    pub device: Device,
    /// Its queues, started.
    pub queues: Vec<Queue>,
}

impl Daemon {
    /// Starts `program` on the peers' core with one export of node `d` and connects to it.
    pub fn start(program: &Path, blockdev: &str, queues: u16, machine: &Machine) -> Result<Daemon> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("socket");
        let export = format!(
            "type=vhost-user-blk,id=e,node-name=d,writable=on,num-queues={queues},addr.type=unix,addr.path={}",
            socket.display()
        );
        let mut child = Command::new("taskset")
            .args(["-c", &machine.peer_core.to_string()])
            .arg(program)
            .args(["--blockdev", blockdev, "--export", &export])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log"))?)
            .spawn()
            .context("cannot run taskset")?;
        let options = DeviceOptions { connect_timeout: Duration::from_secs(5), ..DeviceOptions::default() }
            .with_queues(queues, QUEUE_SIZE)
            .with_memory(MEMORY_LEN);
        let connected = Device::connect(&socket, options).and_then(|mut device| {
            let queues = device.start()?;
            Ok((device, queues))
        });
        match connected {
            Ok((device, queues)) => Ok(Daemon { child, _dir: dir, device, queues }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
                Err(error).with_context(|| format!("{} --blockdev {blockdev}\n{log}", program.display()))
            }
        }
    }

    /// Its process id; `taskset` replaces itself by the daemon.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing is left to lose: the guest is idle and the files are temporary.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
