//! A daemon under test: started with the same options whichever it is, stopped with its handle.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tidemark_frontend::{Device, DeviceOptions, Queue};

use crate::cpu::Machine;
use crate::monitor::Monitor;

/// Guest memory: rings and 4 queues of 128 requests of 4 KiB, or 8 of 1 MiB.
const MEMORY_LEN: u64 = 64 << 20;
/// Descriptors per queue, Linux's default under QEMU being 128 or 256.
const QUEUE_SIZE: u16 = 256;
/// Time for a daemon to open its sockets.
const START: Duration = Duration::from_secs(5);
/// Time for a daemon to end.
const END: Duration = Duration::from_secs(10);

/// A node that guests may connect to.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// The node, and the export's id.
    pub node: &'a str,
    /// How many queues it offers.
    pub queues: u16,
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    dir: TempDir,
    described: String,
}

/// A guest's device and its queues, started.
pub struct Guest {
    /// The device.
    pub device: Device,
    /// Its queues.
    pub queues: Vec<Queue>,
    /// The daemon's process id.
    pub pid: u32,
}

impl Daemon {
    /// Starts `program` on the peers' core with nodes, exports to guests and a control socket.
    ///
    /// # Errors
    /// As [`Daemon::start_with`].
    pub fn start(program: &Path, blockdevs: &[String], exports: &[Export<'_>], machine: &Machine) -> Result<Daemon> {
        let export = |dir: &Path, Export { node, queues }: &Export<'_>| {
            let socket = dir.join(node);
            format!(
                "--export=type=vhost-user-blk,id={node}-export,node-name={node},writable=on,num-queues={queues},\
                 addr.type=unix,addr.path={}",
                socket.display()
            )
        };
        Self::start_with(program, blockdevs, machine, |dir| exports.iter().map(|each| export(dir, each)).collect())
    }

    /// The same with any further options, which are told its directory. What it logs of points in time is kept: see
    /// [`Daemon::log`].
    ///
    /// # Errors
    /// If there is no such program.
    pub fn start_with(
        program: &Path,
        blockdevs: &[String],
        machine: &Machine,
        options: impl FnOnce(&Path) -> Vec<String>,
    ) -> Result<Daemon> {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new("taskset");
        command.args(["-c", &machine.peer_core.to_string()]).arg(program);
        let monitor = format!("socket,id=m,server=on,wait=off,path={}", dir.path().join("monitor").display());
        command.args(["--chardev", &monitor, "--monitor", "chardev=m"]);
        for blockdev in blockdevs {
            command.args(["--blockdev", blockdev]);
        }
        let child = command
            .args(options(dir.path()))
            .env("TIDEMARK_LOG", "info,hold=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log"))?)
            .spawn()
            .context("cannot run taskset")?;
        let described = format!("{} --blockdev {}", program.display(), blockdevs.join(" --blockdev "));
        Ok(Daemon { child, dir, described })
    }

    /// Connects a guest to the export of a node and starts all its queues.
    ///
    /// # Errors
    /// If the daemon has ended or refuses; its log is part of the error.
    pub fn connect(&self, export: Export<'_>) -> Result<Guest> {
        let options = DeviceOptions { connect_timeout: START, ..DeviceOptions::default() }
            .with_queues(export.queues, QUEUE_SIZE)
            .with_memory(MEMORY_LEN);
        let connected = Device::connect(self.dir.path().join(export.node), options).and_then(|mut device| {
            let queues = device.start()?;
            Ok(Guest { device, queues, pid: self.pid() })
        });
        connected.with_context(|| self.described())
    }

    /// Connects to the control socket.
    ///
    /// # Errors
    /// If the daemon has ended; its log is part of the error.
    pub fn monitor(&self) -> Result<Monitor> {
        Monitor::connect(&self.socket("monitor")?).with_context(|| self.described())
    }

    /// The path of a socket in its directory, once it is there.
    ///
    /// # Errors
    /// If it does not come; the daemon's log is part of the error.
    pub fn socket(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        let until = Instant::now() + START;
        while !path.exists() {
            anyhow::ensure!(Instant::now() < until, "there is no socket {name}: {}", self.described());
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(path)
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Its process id; `taskset` replaces itself by the daemon.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn terminate(&self) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // If it fails the daemon has ended.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    fn described(&self) -> String {
        format!("{}\n{}", self.described, self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing is left to lose, but what a daemon keeps beside its images goes only if it ends in order.
        self.terminate();
        let until = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
