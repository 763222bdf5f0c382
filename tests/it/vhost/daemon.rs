//! The daemon with one disk: how it is started, watched, killed and started again. Knows nothing of what the guest does.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tidemark_frontend::{Device, DeviceOptions};

use crate::cli::process::{Place, TIDEMARK, wait_until};
use crate::qmp::daemon::Client;

/// Size of the disk in bytes.
pub const DISK: u64 = 32 << 20;

/// A plain file as the only node, `n`.
pub const FILE: &str = "driver=file,node-name=n,filename=disk,discard=unmap";

/// A running daemon on `disk` with a socket `blk` and a monitor `qmp`, all in a directory of its own.
pub struct Daemon {
    place: Place,
    program: &'static str,
    arguments: Vec<String>,
    process: Child,
}

impl Daemon {
    /// `tidemark serve` with more options.
    pub fn serve(more: &[&str]) -> Self {
        let arguments = [&["serve", "disk:blk", "--qmp", "qmp"], more].concat();
        Self::launch(TIDEMARK, arguments.into_iter().map(str::to_owned).collect(), |_| ())
    }

    /// `tidemark serve` of a qcow2 image, made by `prepare`, with more options.
    pub fn serve_image(more: &[&str], prepare: impl FnOnce(&Place)) -> Self {
        let arguments = [&["serve", "disk:blk", "--format", "qcow2", "--qmp", "qmp"], more].concat();
        Self::launch(TIDEMARK, arguments.into_iter().map(str::to_owned).collect(), prepare)
    }

    /// Our program with options in the style of `qemu-storage-daemon`: the top node `n`, and more of its export.
    pub fn with_node(node: &str, export: &str) -> Self {
        Self::of(TIDEMARK, node, export)
    }

    /// As [`Daemon::with_node`], over files made by `prepare`.
    pub fn with_image(node: &str, prepare: impl FnOnce(&Place)) -> Self {
        Self::launch(TIDEMARK, options(node, ""), prepare)
    }

    /// Either program, with the same options, over files made by `prepare`.
    pub fn of_image(program: &'static str, node: &str, prepare: impl FnOnce(&Place)) -> Self {
        Self::launch(program, options(node, ""), prepare)
    }

    /// As [`Daemon::with_image`], started by a line of a shell, which has the program and its options as "$@".
    pub fn started_by(line: &str, node: &str, prepare: impl FnOnce(&Place)) -> Self {
        let mut arguments = ["-ec", line, "sh", TIDEMARK].map(str::to_owned).to_vec();
        arguments.extend(options(node, ""));
        Self::launch("sh", arguments, prepare)
    }

    /// Either program, with the same options.
    pub fn of(program: &'static str, node: &str, export: &str) -> Self {
        Self::launch(program, options(node, export), |_| ())
    }

    fn launch(program: &'static str, arguments: Vec<String>, prepare: impl FnOnce(&Place)) -> Self {
        let place = Place::new();
        File::options().write(true).open(place.file("disk")).unwrap().set_len(DISK).unwrap();
        prepare(&place);
        let process = spawn(program, &place, &arguments);
        let daemon = Self { place, program, arguments, process };
        daemon.wait_ready();
        daemon
    }

    /// Waits until it takes commands.
    pub fn wait_ready(&self) {
        wait_until("the monitor", || self.file("qmp").exists() && UnixStream::connect(self.file("qmp")).is_ok());
    }

    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.place.file(name)
    }

    /// The whole image.
    pub fn image(&self) -> Vec<u8> {
        fs::read(self.file("disk")).unwrap()
    }

    /// A front-end.
    pub fn connect(&self, options: DeviceOptions) -> Device {
        Device::connect(self.file("blk"), options).unwrap()
    }

    /// A monitor, ready for commands.
    pub fn qmp(&self) -> Client {
        self.monitor("qmp")
    }

    /// The second monitor of a daemon started by options.
    pub fn second_qmp(&self) -> Client {
        self.monitor("qmp2")
    }

    fn monitor(&self, name: &str) -> Client {
        let mut client = Client::new(UnixStream::connect(self.file(name)).unwrap(), self.place.path());
        client.ask("{'execute': 'qmp_capabilities'}");
        client
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    /// Waits until as many lines of the log contain `text`; more are a mistake.
    pub fn wait_logged(&self, text: &str, count: usize) {
        let lines = || self.log().lines().filter(|line| line.contains(text)).count();
        wait_until(text, || lines() >= count);
        assert_eq!(lines(), count, "lines with '{text}' in {}", self.log());
    }

    /// How many files it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// Names of its threads that serve queues.
    pub fn queue_threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        // A thread may end while we look.
        let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
        let mut names: Vec<String> =
            names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("queue-")).collect();
        names.sort();
        names
    }

    /// Clock ticks of CPU it has used in all its threads, in user and kernel mode (proc(5), `utime` and `stime`).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        // The second field is in parentheses and may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again with the same command line, on the sockets the last one left behind.
    pub fn restart(&mut self) {
        self.process = spawn(self.program, &self.place, &self.arguments);
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Ends it as an administrator would, which has to be a success.
    pub fn terminate(&mut self) {
        assert!(self.is_running(), "it ended by itself: {}", self.log());
        kill_process(self.pid(), Signal::TERM).unwrap();
        let mut status = None;
        wait_until("the end of the daemon", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", self.log());
    }

    /// As [`Daemon::terminate`]; returns the log.
    pub fn stop(mut self) -> String {
        self.terminate();
        self.log()
    }
}

/// Options in the style of `qemu-storage-daemon`.
fn options(node: &str, export: &str) -> Vec<String> {
    let export =
        format!("vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=blk,writable=on,num-queues=4{export}");
    let mut arguments = ["--blockdev", node, "--export", &export].map(str::to_owned).to_vec();
    // Each of them has one client at a time.
    for monitor in ["qmp", "qmp2"] {
        let chardev = format!("socket,id={monitor},path={monitor},server=on,wait=off");
        arguments.extend(["--chardev".into(), chardev, "--monitor".into(), format!("chardev={monitor}")]);
    }
    arguments
}

fn spawn(program: &str, place: &Place, arguments: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(place.file("log")).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(place.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("log of the daemon:\n{}", fs::read_to_string(self.file("log")).unwrap_or_default());
        }
    }
}

/// Long enough for what must not happen to have happened.
pub fn a_moment() {
    thread::sleep(Duration::from_millis(200));
}
