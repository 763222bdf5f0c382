//! A booted Linux guest with the disk as `/dev/vda`, as the tests use it. Guests are kept between tests
//! and get each test's disk by hot-plug, which takes a tenth of a second where a boot takes two.
//!
//! Invariant: a guest goes back to the others only after a test that succeeded, without a disk, and with
//! nothing to complain of in its kernel log.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Disk};
use crate::machine::{Boot, Device, Machine};

/// Time for anything that is not known to take long.
const PATIENCE: Duration = Duration::from_secs(60);

/// KERN_WARNING of the kernel's message levels; lower is worse.
const WARNING: u32 = 4;

/// Warnings about the emulated clock on a busy host; they say nothing about the disk.
const CLOCK: [&str; 4] = ["clocksource", "tsc:", "hrtimer", "perf: interrupt took too long"];

/// While it boots, the kernel warns of the emulated hardware. Then only these words are of concern.
const STORAGE: [&str; 7] = ["vda", "virtio", "blk", "I/O", "EXT4", "JBD2", "blocked for"];

/// Guests nobody uses at the moment, each with one virtual CPU and no disk.
static IDLE: Mutex<Vec<Guest>> = Mutex::new(Vec::new());

/// A guest that answers.
pub struct Guest {
    machine: Machine,
    plugged: Vec<String>,
    forgiven: Vec<&'static str>,
}

/// Runs a test in a guest that has `disk` as `/dev/vda`.
///
/// # Panics
///
/// If `body` does, if the guest's kernel complains, or if the back-end does not end properly.
pub fn on_guest(disk: Disk, body: impl FnOnce(&mut Guest, &mut Backend)) {
    on_guest_with(disk, Device::default(), body);
}

/// As [`on_guest`], with a device that is not the default one.
pub fn on_guest_with(disk: Disk, device: Device, body: impl FnOnce(&mut Guest, &mut Backend)) {
    let mut backend = Backend::start(disk);
    let mut guest = Guest::idle_or_booted();
    guest.plug(&backend, device);
    body(&mut guest, &mut backend);
    guest.unplug();
    guest.assert_no_complaints();
    backend.stop();
    guest.forgiven.clear();
    IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(guest);
}

impl Guest {
    fn idle_or_booted() -> Self {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| Self::new(Machine::boot(1, Boot::Kernel, None)))
    }

    /// Powers on a machine with the disk of `backend` in it.
    pub fn boot(vcpus: u8, boot: Boot, backend: &Backend, device: Device) -> Self {
        let mut guest = Self::new(Machine::boot(vcpus, boot, Some((backend, device))));
        guest.wait_for_disk();
        guest
    }

    fn new(machine: Machine) -> Self {
        let mut guest = Self { machine, plugged: Vec::new(), forgiven: Vec::new() };
        let about_storage = |line: &&str| STORAGE.iter().any(|word| line.contains(word));
        let log = guest.complaints();
        let complaints: Vec<_> = log.lines().filter(about_storage).collect();
        assert!(complaints.is_empty(), "the kernel complained while it booted: {complaints:#?}");
        guest.run("dmesg -c >/dev/null");
        guest
    }

    /// Executes a line of shell that has to succeed. Returns what it printed.
    pub fn run(&mut self, command: &str) -> String {
        let answer = self.machine.console.execute(command, PATIENCE);
        assert_eq!(answer.status, 0, "in the guest: {command}\n{}", answer.text);
        answer.text
    }

    /// Executes a line of shell that has to fail. Returns what it printed.
    pub fn fails(&mut self, command: &str) -> String {
        let answer = self.machine.console.execute(command, PATIENCE);
        assert_ne!(answer.status, 0, "in the guest, without a failure: {command}\n{}", answer.text);
        answer.text
    }

    /// Waits until a line of shell succeeds.
    pub fn until(&mut self, timeout: Duration, command: &str) {
        let deadline = Instant::now() + timeout;
        while self.machine.console.execute(command, PATIENCE).status != 0 {
            assert!(Instant::now() < deadline, "in the guest, not within {timeout:?}: {command}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts a line of shell in the background; there can be one.
    pub fn spawn(&mut self, command: &str) {
        self.run(&format!(
            "rm -f /tmp/status; ( ( {command} ) >/tmp/output 2>&1; echo $? >/tmp/status ) >/dev/null 2>&1 &"
        ));
    }

    /// Waits for what [`Self::spawn`] started; it has to succeed.
    pub fn join(&mut self, timeout: Duration) {
        self.until(timeout, "[ -s /tmp/status ]");
        let status = self.run("cat /tmp/status");
        assert_eq!(status.trim(), "0", "in the guest's background:\n{}", self.run("cat /tmp/output"));
    }

    /// The number a line of shell prints.
    pub fn number(&mut self, command: &str) -> u64 {
        let text = self.run(command);
        let number = text.trim().parse();
        number.unwrap_or_else(|_| panic!("in the guest, not a number: {command}\n{text}"))
    }

    /// Adds the disk to the running machine and waits for the guest to see it.
    pub fn plug(&mut self, backend: &Backend, device: Device) {
        self.plugged.push(self.machine.plug(&backend.socket(), device));
        self.wait_for_disk();
    }

    /// Adds the disk behind a vhost-user socket as `/dev/vdb`.
    pub fn plug_second(&mut self, socket: &Path) {
        self.plugged.push(self.machine.plug(socket, Device::default()));
        self.until(PATIENCE, "[ -b /dev/vdb ] && [ -e /sys/block/vdb/serial ]");
    }

    /// Takes the disks out of the running machine.
    pub fn unplug(&mut self) {
        for id in self.plugged.drain(..) {
            self.machine.unplug(&id);
        }
        self.until(PATIENCE, "[ ! -e /sys/block/vda ] && [ ! -e /sys/block/vdb ]");
    }

    fn wait_for_disk(&mut self) {
        self.until(PATIENCE, "[ -b /dev/vda ] && [ -e /sys/block/vda/serial ]");
    }

    /// Makes kernel messages with these words no complaint for the rest of the test, which provokes them.
    pub fn forgive(&mut self, words: &'static str) {
        self.forgiven.push(words);
    }

    /// What came out of the first serial port so far.
    pub fn output(&self) -> String {
        self.machine.output()
    }

    /// Asserts that the kernel has nothing to say about the disk, then powers the machine off.
    pub fn power_off(mut self) {
        self.assert_no_complaints();
        self.machine.power_off();
    }

    fn assert_no_complaints(&mut self) {
        let forgiven = self.forgiven.clone();
        let log = self.complaints();
        let complaints: Vec<_> =
            log.lines().filter(|line| !forgiven.iter().any(|words| line.contains(words))).collect();
        assert!(complaints.is_empty(), "the guest's kernel complains: {complaints:#?}");
        self.run("dmesg -c >/dev/null");
    }

    /// Lines of the kernel's log that are a warning or worse, `<LEVEL>[TIME] TEXT`.
    fn complaints(&mut self) -> String {
        let grave = |line: &&str| {
            let priority = line.strip_prefix('<').and_then(|rest| rest.split('>').next()?.parse::<u32>().ok());
            // The three low bits are the level, the others the facility (syslog(2)).
            priority.is_some_and(|priority| priority & 7 <= WARNING) && !CLOCK.iter().any(|word| line.contains(word))
        };
        let log = self.run("dmesg -r");
        log.lines().filter(grave).map(|line| format!("{line}\n")).collect()
    }
}
