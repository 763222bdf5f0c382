//! Programs under test: started in a directory of their own, watched, ended. Knows nothing of what they serve.

use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Our program.
pub const TIDEMARK: &str = env!("CARGO_BIN_EXE_tidemark");
/// The program it stands in for.
pub const QEMU: &str = "qemu-storage-daemon";
/// Nothing here takes anywhere near as long.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at something that has no event.
const POLL: Duration = Duration::from_millis(10);

/// A directory with a raw disk `disk` of 1 MiB, where programs are started.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// A new one.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("disk")).unwrap().set_len(1 << 20).unwrap();
        Self { dir }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Runs a program to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut limited = Command::new("timeout");
        let seconds = TIMEOUT.as_secs().to_string();
        limited.args(["-k", "1", &seconds, program]).args(arguments).current_dir(self.path()).stdin(Stdio::null());
        let output = limited.output().unwrap();
        assert_ne!(output.status.code(), Some(124), "{program} {arguments:?} does not end: {output:?}");
        output
    }

    /// Runs our program, which has to fail with status 1, nothing on standard output and one message on standard error.
    pub fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(TIDEMARK, arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
        message
    }

    /// Starts a program.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        Running::spawn(command)
    }

    /// Waits until there is a socket of this name in the directory. QEMU's daemon may abort if somebody comes and goes.
    pub fn wait_for_socket(&self, name: &str) {
        wait_until(name, || self.file(name).exists());
    }

    /// Waits until something accepts connections on a socket in the directory.
    pub fn wait_for_listener(&self, name: &str) {
        wait_until(name, || UnixStream::connect(self.file(name)).is_ok());
    }
}

/// A running program; killed when dropped.
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts a command; what it says on standard error is collected.
    pub fn spawn(mut command: Command) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub fn wait(mut self) -> (ExitStatus, String) {
        wait_until("the end of the program", || self.child.try_wait().unwrap().is_some());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }

    /// Ends it with a signal, which has to be a success.
    pub fn end(self, signal: Signal) -> String {
        self.signal(signal);
        let (status, said) = self.wait();
        assert!(status.success(), "{status}: {said}");
        said
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(POLL);
    }
}
