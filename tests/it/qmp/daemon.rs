//! A daemon under test, ours or QEMU's, and a monitor connection to it.
//!
//! Knows processes and sockets, not what is asked. Every daemon has a directory of its own, whose path
//! is `DIR` in requests and in what is compared.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use qmp_lite::wire::{self, Value};
use tempfile::TempDir;

/// Nothing here takes anywhere near as long.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Our program.
pub const TIDEMARK: &str = env!("CARGO_BIN_EXE_tidemark");

/// The program it is compared with.
pub const QEMU: &str = "qemu-storage-daemon";

/// Excepts something from being as in QEMU, for which `docs/qmp.md` has to have a reason: a row of its table of
/// differences, as `SUBJECT: CASE`.
pub fn differs(row: &str) {
    assert!(qmp_lite::differences::find(row).is_some(), "docs/qmp.md does not list the difference '{row}'");
}

/// A running daemon with one monitor, `DIR/qmp.sock`.
pub struct Daemon {
    dir: TempDir,
    process: Child,
}

impl Daemon {
    /// Starts `program` with a monitor, an image `DIR/disk.img` of 1 MiB, empty qcow2 images `DIR/image`,
    /// `DIR/over` and `DIR/top` of as much above each other, `blkdebug` rules in `DIR/rules`, and `options`.
    pub fn start(program: &str, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("disk.img")).unwrap().set_len(1 << 20).unwrap();
        for (name, content) in images() {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        std::fs::write(dir.path().join("rules"), "[inject-error]\nevent = \"none\"\niotype = \"flush\"\n").unwrap();
        let chardev = format!("socket,id=m,path={},server=on,wait=off", dir.path().join("qmp.sock").display());
        let monitor = ["--chardev", &chardev, "--monitor", "chardev=m"];
        let mut command = Command::new(program);
        command.args(monitor).args(options.iter().map(|option| place(option, dir.path())));
        let process = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        Self { dir, process }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A connection to its monitor, greeted but not negotiated.
    pub fn connect(&mut self) -> Client {
        let path = self.dir.path().join("qmp.sock");
        let deadline = Instant::now() + TIMEOUT;
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "no monitor: {error}"),
            }
            let end = self.process.try_wait().unwrap();
            assert!(end.is_none(), "it ended with {end:?} instead of opening its monitor");
            thread::sleep(Duration::from_millis(10));
        };
        Client::new(stream, self.dir())
    }

    /// A connection that is ready for commands.
    pub fn negotiate(&mut self) -> Client {
        let mut client = self.connect();
        client.ask("{'execute': 'qmp_capabilities'}");
        client
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Three images of 1 MiB, each above the one before.
fn images() -> &'static [(&'static str, Vec<u8>)] {
    static IMAGES: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let below: [(_, &[&str]); 3] =
            [("image", &[]), ("over", &["-b", "image", "-F", "qcow2"]), ("top", &["-b", "over", "-F", "qcow2"])];
        let made = below.map(|(name, below)| {
            let options = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", name, "1M"];
            let status = Command::new("qemu-img").args(options).args(below).current_dir(dir.path()).status().unwrap();
            assert!(status.success());
            (name, std::fs::read(dir.path().join(name)).unwrap())
        });
        made.into()
    })
}

/// A connection to a monitor.
pub struct Client {
    stream: BufReader<UnixStream>,
    dir: String,
    asked: u32,
    events: Vec<Value>,
}

impl Client {
    /// A connection to the monitor of a daemon in `dir`, greeted but not negotiated.
    pub fn new(stream: UnixStream, dir: &Path) -> Self {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let dir = dir.display().to_string();
        let mut client = Self { stream: BufReader::new(stream), dir, asked: 0, events: Vec::new() };
        client.greeting();
        client
    }

    /// Everything the daemon answers to `text`, in order, without events. A last request, which this
    /// adds, tells when that is all.
    pub fn ask(&mut self, text: &str) -> Vec<Value> {
        self.asked += 1;
        let last = format!("asked {}", self.asked);
        let text = place(text, Path::new(&self.dir));
        let text = format!("{text}\n{{'execute': 'query-version', 'id': '{last}'}}\n");
        self.stream.get_mut().write_all(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut replies = Vec::new();
        loop {
            let reply = self.read().unwrap_or_else(|| panic!("the daemon hung up on {text}"));
            match reply.get("id").and_then(Value::as_str) {
                Some(id) if id == last => return replies,
                _ if reply.get("event").is_some() => self.events.push(reply),
                _ => replies.push(reply),
            }
        }
    }

    /// The result of a command that has to succeed.
    pub fn succeed(&mut self, text: &str) -> Value {
        let replies = self.ask(text);
        let [reply] = replies.as_slice() else { panic!("{text}: {replies:?}") };
        reply.get("return").unwrap_or_else(|| panic!("{text}: {reply}")).clone()
    }

    /// The events so far.
    pub fn events(&self) -> &[Value] {
        &self.events
    }

    /// Sends a text and reads everything up to the end of the connection.
    pub fn ask_last(mut self, text: &str) -> Vec<Value> {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
        std::iter::from_fn(|| self.read()).collect()
    }

    fn greeting(&mut self) {
        let greeting = self.read().expect("a greeting");
        assert!(greeting.get("QMP").is_some(), "{greeting}");
    }

    fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            // So ends a daemon that did not read the last line feed.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            result => result.expect("a line in time"),
        };
        if line.is_empty() {
            return None;
        }
        assert!(line.is_ascii() && line.ends_with("\r\n"), "{line:?}");
        Some(wire::parse(&line).unwrap_or_else(|error| panic!("{line}: {error}")))
    }
}

/// Puts the directory's path in the place of `DIR`.
fn place(text: impl AsRef<OsStr>, dir: &Path) -> String {
    text.as_ref().to_string_lossy().replace("DIR", &dir.display().to_string())
}

/// Puts `DIR` back in the place of the path.
pub fn displace(text: &str, dir: &Path) -> String {
    text.replace(&dir.display().to_string(), "DIR")
}
