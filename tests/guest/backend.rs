//! The back-end under test with one disk: its command line, its image in a directory of its own, its life
//! and sudden death. The only place that knows which program it is and how its options are spelled.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::qmp::{Qmp, one_line};

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;

/// The id of the export, which is also the disk's serial unless another is given.
pub const EXPORT: &str = "disk0";

/// The name of the node that is exported, whatever lies below it.
pub const NODE: &str = "d";

/// A program that has no work left ends within this time of SIGTERM.
const END: Duration = Duration::from_secs(10);

/// A disk to serve.
#[derive(Clone)]
pub struct Disk {
    /// Its size in bytes.
    pub len: u64,
    /// Number of queues offered.
    pub queues: u16,
    /// False for a disk the guest may only read.
    pub writable: bool,
    /// Bytes, 512 or more.
    pub logical_block_size: u32,
    /// A serial number, or the program's own default.
    pub serial: Option<&'static str>,
    /// How the storage behaves.
    pub storage: Storage,
}

impl Disk {
    /// A writable disk of `len` bytes with everything as it is by default.
    pub fn new(len: u64) -> Self {
        Self { len, queues: 1, writable: true, logical_block_size: 512, serial: None, storage: Storage::Plain }
    }
}

/// How the storage below a disk behaves.
#[derive(Clone, Copy)]
pub enum Storage {
    /// As the host's file system does.
    Plain,
    /// Each flush fails with EIO.
    FailingFlush,
    /// Each read takes this much longer, writes do not: requests end in another order than they began.
    SlowReads(Duration),
    /// The image is a qcow2 image.
    Qcow2,
}

/// Which program serves the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Tidemark,
    Qsd,
}

impl Peer {
    fn chosen() -> Self {
        match std::env::var("TIDEMARK_TEST_PEER").as_deref() {
            Err(_) | Ok("tidemark") => Self::Tidemark,
            Ok("qsd") => Self::Qsd,
            Ok(other) => panic!("TIDEMARK_TEST_PEER is tidemark or qsd, not {other}"),
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Tidemark => env!("CARGO_BIN_EXE_tidemark"),
            Self::Qsd => crate::image::program("qemu-storage-daemon"),
        }
    }
}

/// A running back-end. The image and the sockets go when it is dropped.
pub struct Backend {
    process: Process,
    peer: Peer,
    arguments: Vec<String>,
    directory: TempDir,
}

impl Backend {
    /// Serves an empty disk by options in the style of `qemu-storage-daemon`.
    pub fn start(disk: Disk) -> Self {
        Self::start_with(disk, |image, len| {
            let file = File::create(image).expect("an image can be created");
            file.set_len(len).expect("an image can have a size");
        })
    }

    /// As [`Self::start`], with a copy of `contents` as the image.
    pub fn start_on_copy(disk: Disk, contents: &Path) -> Self {
        Self::start_with(disk, |image, _| {
            fs::copy(contents, image).expect("an image can be copied");
        })
    }

    /// Serves an empty disk of `len` bytes as `tidemark serve` does, with 64 queues. The peer has no such
    /// command; it gets the same disk by options.
    pub fn serve(len: u64) -> Self {
        let disk = Disk { queues: 64, ..Disk::new(len) };
        let mut backend = Self::start(disk);
        if backend.peer == Peer::Tidemark {
            backend.process.terminate(END);
            let place = |path: PathBuf| path.display().to_string();
            backend.arguments = vec![
                "serve".to_owned(),
                place(backend.image()),
                "--socket".to_owned(),
                place(backend.socket()),
                "--qmp".to_owned(),
                place(backend.monitor()),
            ];
            backend.restart();
        }
        backend
    }

    /// As [`Self::start`], with an image that `create_image` makes at a path, with a length.
    pub fn start_with(disk: Disk, create_image: impl FnOnce(&Path, u64)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be created");
        let peer = Peer::chosen();
        create_image(&directory.path().join("image"), disk.len);
        let arguments = arguments(&disk, directory.path());
        let process = Process::spawn(peer.program(), &arguments);
        let mut backend = Self { process, peer, arguments, directory };
        backend.qmp();
        backend
    }

    /// The vhost-user socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("blk")
    }

    /// The image file.
    pub fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// The place of a file that goes with the image, such as a backup of it.
    pub fn place(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Serves one more empty disk, through the monitor: `name` is the name of its node, its export and its
    /// image. Returns its vhost-user socket. A restart does not bring it back.
    pub fn add_disk(&mut self, name: &str, len: u64) -> PathBuf {
        let (image, socket) = (self.place(name), self.place(&format!("{name}.socket")));
        File::create(&image).and_then(|file| file.set_len(len)).expect("an image can be created");
        let node = format!(r#"{{"driver": "file", "node-name": "{name}", "filename": "{}"}}"#, image.display());
        let export = format!(
            r#"{{"type": "vhost-user-blk", "id": "{name}", "node-name": "{name}", "writable": true,
                "addr": {{"type": "unix", "path": "{}"}}}}"#,
            socket.display()
        );
        let mut qmp = self.qmp();
        qmp.execute("blockdev-add", &node);
        qmp.execute("block-export-add", &one_line(&export));
        socket
    }

    fn monitor(&self) -> PathBuf {
        self.directory.path().join("qmp")
    }

    /// A monitor of the back-end.
    pub fn qmp(&mut self) -> Qmp {
        Qmp::connect(&self.monitor(), &mut self.process)
    }

    /// Bytes of the host's storage that the image occupies.
    pub fn occupied(&self) -> u64 {
        // st_blocks counts 512 bytes, whatever the file system's own blocks are (stat(2)).
        fs::metadata(self.image()).expect("the image can be looked at").blocks() * 512
    }

    /// What the image holds at `offset`, in bytes, as the host sees it.
    pub fn contents(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let image = File::open(self.image()).expect("the image can be opened");
        image.read_exact_at(&mut bytes, offset).expect("the image can be read");
        bytes
    }

    /// Lets it serve nothing any more, with what it is doing half done.
    pub fn freeze(&mut self) {
        self.process.freeze();
    }

    /// Ends it as a crash would.
    pub fn crash(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same command line, on the sockets the last one left behind.
    pub fn restart(&mut self) {
        self.process = Process::spawn(self.peer.program(), &self.arguments);
    }

    /// Ends it as an administrator would.
    ///
    /// # Panics
    ///
    /// If it had ended already, does not end, or reports a failure.
    pub fn stop(self) {
        drop(self.keep());
    }

    /// As [`Self::stop`]; its files stay as long as what is returned.
    ///
    /// # Panics
    ///
    /// As [`Self::stop`].
    pub fn keep(mut self) -> TempDir {
        let early = self.process.exit_status();
        assert!(early.is_none(), "the back-end ended during the test: {early:?}");
        let status = self.process.terminate(END);
        assert!(status.success(), "the back-end ended with {status}");
        self.directory
    }
}

fn arguments(disk: &Disk, directory: &Path) -> Vec<String> {
    let path = |name: &str| directory.join(name).display().to_string();
    let writable = if disk.writable { "on" } else { "off" };
    let serial = disk.serial.map_or_else(String::new, |serial| format!(",x-serial={serial}"));
    let export = format!(
        "type=vhost-user-blk,id={EXPORT},node-name={NODE},addr.type=unix,addr.path={},writable={writable},\
         num-queues={},logical-block-size={}{serial}",
        path("blk"),
        disk.queues,
        disk.logical_block_size
    );
    let monitor = format!("socket,id=q,path={},server=on,wait=off", path("qmp"));
    ["--blockdev", &node(disk, &path("image")), "--export", &export, "--chardev", &monitor, "--monitor", "chardev=q"]
        .map(str::to_owned)
        .to_vec()
}

fn node(disk: &Disk, image: &str) -> String {
    let read_only = if disk.writable { "off" } else { "on" };
    let file = |prefix: &str| {
        format!("{prefix}driver=file,{prefix}filename={image},{prefix}discard=unmap,{prefix}read-only={read_only}")
    };
    let debug = |what: String| format!("driver=blkdebug,node-name={NODE},discard=unmap,{what},{}", file("image."));
    match disk.storage {
        Storage::Plain => format!("node-name={NODE},{}", file("")),
        Storage::FailingFlush => {
            debug("inject-error.0.event=none,inject-error.0.iotype=flush,inject-error.0.errno=5".to_owned())
        }
        Storage::Qcow2 => format!("driver=qcow2,node-name={NODE},discard=unmap,{}", file("file.")),
        Storage::SlowReads(time) => debug(format!("x-delay-ns.read={}", time.as_nanos())),
    }
}
