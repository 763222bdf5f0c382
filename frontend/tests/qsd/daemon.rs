//! A `qemu-storage-daemon` with one raw file and one export, ended with its handle.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemark_frontend::{Device, DeviceOptions};

/// How long a request or message may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon, its directory and its disk.
pub struct Daemon {
    child: Child,
    dir: TempDir,
    node: &'static str,
}

impl Daemon {
    /// Serves a file of `len` bytes filled with `byte`.
    pub fn with_file(len: usize, byte: u8) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("disk"), vec![byte; len]).unwrap();
        let child = spawn(&dir, "driver=file,filename=disk,discard=unmap,node-name=d");
        Daemon { child, dir, node: "driver=file,filename=disk,discard=unmap,node-name=d" }
    }

    /// Connects with these options.
    pub fn connect(&self, options: DeviceOptions) -> Device {
        Device::connect(self.dir.path().join("socket"), options).unwrap()
    }

    /// The disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// Kills it as a crash would and starts its successor on the same socket.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_file(self.dir.path().join("socket")).unwrap();
        self.child = spawn(&self.dir, self.node);
    }

    /// Sends one QMP command and returns the answer's line.
    pub fn qmp(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.dir.path().join("qmp")).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        lines.next().unwrap().unwrap();
        writeln!(stream, "{{\"execute\":\"qmp_capabilities\"}}").unwrap();
        lines.next().unwrap().unwrap();
        writeln!(stream, "{command}").unwrap();
        lines.next().unwrap().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &TempDir, node: &str) -> Child {
    let export = "type=vhost-user-blk,id=e,node-name=d,writable=on,num-queues=4,addr.type=unix,addr.path=socket";
    let child = Command::new("qemu-storage-daemon")
        .current_dir(dir.path())
        .args(["--chardev", "socket,id=m,path=qmp,server=on,wait=off", "--monitor", "chardev=m"])
        .args(["--blockdev", node, "--export", export])
        .stdout(File::create(dir.path().join("log")).unwrap())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("qemu-storage-daemon is installed");
    let deadline = Instant::now() + PATIENCE;
    while !dir.path().join("socket").exists() {
        assert!(Instant::now() < deadline, "qemu-storage-daemon made no socket");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}
