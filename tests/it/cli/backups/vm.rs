//! A disk under load, its backup directory, and what the guest had at each point in it.

use crate::cli::process::{QEMU, Running, TIDEMARK};
use crate::cli::small;
use crate::qmp::daemon::Client;
use crate::vhost::daemon::{DISK, Daemon};
use crate::vhost::load::{BLOCKS, Load};
use fastrand::Rng;
use qmp_lite::wire::{Value, parse};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tidemark_frontend::{Device, DeviceOptions};

/// A raw disk, which keeps no bitmaps.
pub const RAW: &str = "driver=file,node-name=n,filename=disk,discard=unmap";
/// A qcow2 image, which does.
pub const QCOW2: &str = "driver=qcow2,node-name=n,discard=unmap,file.driver=file,file.filename=disk,file.discard=unmap";
/// What that image is made with.
pub const MAKE: &str = "qemu-img create -q -f qcow2 disk 32M";
/// Blocks that the guest writes to between two points.
const WINDOW: usize = 96;

/// All servers that a backup is made of.
pub const SERVERS: [(&str, &str, &str); 4] =
    [(TIDEMARK, RAW, "true"), (TIDEMARK, QCOW2, MAKE), (QEMU, RAW, "true"), (QEMU, QCOW2, MAKE)];

/// What a run of the program came to.
pub struct Ended {
    /// The point that there is now and was not there before.
    pub point: Option<u64>,
    /// Status and words; nothing if it was killed.
    pub output: Option<Output>,
}

/// A daemon with a guest.
pub struct Vm {
    /// The daemon.
    pub daemon: Daemon,
    /// The guest's device.
    pub device: Device,
    /// What the guest does.
    pub load: Load,
    /// What the guest had at each point that is in the directory.
    pub records: BTreeMap<u64, Vec<u8>>,
    /// Choices.
    pub rng: Rng,
    /// Words before those of a program that runs where the daemon does.
    place: &'static [&'static str],
}

impl Vm {
    /// A guest on a disk, with some written to it.
    pub fn start((program, node, make): (&'static str, &str, &str), seed: u64) -> Self {
        let daemon = Daemon::of_image(program, node, |place| {
            let status = Command::new("bash").args(["-ec", make]).current_dir(place.path()).status().unwrap();
            assert!(status.success(), "{make}");
        });
        Self::with(daemon, seed, &[])
    }

    /// As [`Vm::start`], of a raw disk, where `backups` is on a file system of 4 MiB that others do not see; with the
    /// process that keeps it.
    pub fn in_little_room(seed: u64) -> (Self, Running) {
        let mut keeper = None;
        let daemon = Daemon::started_by(small::INSIDE, RAW, |place| {
            let kept = small::mount(place);
            fs::create_dir(small::inside(&kept, place).join("backups")).unwrap();
            std::os::unix::fs::symlink("small/backups", place.file("backups")).unwrap();
            keeper = Some(kept);
        });
        (Self::with(daemon, seed, &["sh", "-ec", small::INSIDE, "sh"]), keeper.unwrap())
    }

    fn with(daemon: Daemon, seed: u64, place: &'static [&'static str]) -> Self {
        let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
        let load = Load::new(&mut device, 2, seed).with_stride(DISK / BLOCKS as u64);
        let mut vm = Self { daemon, device, load, records: BTreeMap::new(), rng: Rng::with_seed(seed), place };
        vm.work();
        vm
    }

    /// The guest reads and writes somewhere on its disk.
    pub fn work(&mut self) {
        let first = self.rng.usize(..BLOCKS - WINDOW);
        self.load.within(first..first + WINDOW);
        self.load.steps(200);
    }

    /// A program, in the daemon's directory and with its view of file systems.
    pub fn program(&self, program: &str) -> Command {
        let mut words = self.place.iter().copied().chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).current_dir(self.directory()).stdin(Stdio::null());
        command
    }

    /// Runs our program in the daemon's directory.
    pub fn tidemark(&self, words: &[&str]) -> Output {
        self.program(TIDEMARK).args(words).output().unwrap()
    }

    /// As [`Vm::tidemark`], which has to succeed; returns what it says.
    pub fn succeed(&self, words: &[&str]) -> String {
        let output = self.tidemark(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// As [`Vm::tidemark`], which has to fail with one message; returns that.
    pub fn refusal(&self, words: &[&str]) -> String {
        let output = self.tidemark(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs a line of a shell there.
    pub fn shell(&self, script: &str) -> String {
        let output = self.program("bash").args(["-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn directory(&self) -> std::path::PathBuf {
        self.daemon.file("disk").parent().unwrap().to_owned()
    }

    /// The points that the directory has.
    pub fn points(&self) -> Vec<Value> {
        let output = self.tidemark(&["backup", "list", "backups", "--output", "json"]);
        if !output.status.success() {
            let message = String::from_utf8(output.stderr).unwrap();
            assert!(["No such file", "has no manifest.json"].iter().any(|text| message.contains(text)), "{message}");
            return Vec::new();
        }
        parse(&String::from_utf8(output.stdout).unwrap()).unwrap().as_array().unwrap().clone()
    }

    fn numbers(&self) -> BTreeSet<u64> {
        self.points().iter().map(|point| point["number"].as_u64().unwrap()).collect()
    }

    /// The disk `n` in the newest point.
    pub fn newest(&self) -> Value {
        self.points().last().unwrap()["disks"][0].clone()
    }

    /// The bitmaps that backups have added to the disk.
    pub fn bitmaps(&self, monitor: &mut Client) -> BTreeSet<String> {
        let nodes = monitor.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
        let nodes = nodes.as_array().unwrap();
        let bitmaps = nodes.iter().filter_map(|node| node.get("dirty-bitmaps")?.as_array()).flatten();
        let names =
            bitmaps.filter_map(|bitmap| bitmap["name"].as_str()).filter(|name| name.starts_with("tidemark-backup-"));
        names.map(str::to_owned).collect()
    }

    /// Starts a backup while the guest pauses, lets the guest go on as soon as there is the point, and kills the program
    /// after some time if it is told to.
    pub fn attempt(&mut self, kill_after: Option<Duration>) -> Ended {
        self.load.drain();
        let (record, before) = (self.load.expected(DISK), self.numbers());
        let mut monitor = self.daemon.second_qmp();
        let known = self.bitmaps(&mut monitor);
        let [out, err] = ["out", "err"].map(|name| File::create(self.daemon.file(name)).unwrap());
        let mut command = self.program(TIDEMARK);
        command.args(["backup", "qmp", "--to", "backups"]);
        let (mut child, started) = (command.stdout(out).stderr(err).spawn().unwrap(), Instant::now());
        let (mut taken, mut killed) = (false, false);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if !killed && kill_after.is_some_and(|after| started.elapsed() >= after) {
                child.kill().unwrap();
                killed = true;
            }
            taken = taken || !self.bitmaps(&mut monitor).is_subset(&known);
            if taken {
                self.load.fill();
                self.load.poll();
            }
            thread::sleep(Duration::from_micros(200));
        };
        self.load.drain();
        let new: Vec<u64> = self.numbers().difference(&before).copied().collect();
        assert!(new.len() <= 1, "{new:?}");
        let [stdout, stderr] = ["out", "err"].map(|name| fs::read(self.daemon.file(name)).unwrap());
        new.first().map(|number| self.records.insert(*number, record));
        let output = status.code().is_some().then_some(Output { status, stdout, stderr });
        Ended { point: new.first().copied(), output }
    }

    /// Makes a backup under load, which has to succeed; returns what it says.
    pub fn backup(&mut self) -> String {
        let output = self.attempt(None).output.unwrap();
        assert!(output.status.success(), "{output:?}");
        let words = String::from_utf8(output.stdout).unwrap();
        self.check_clean();
        words
    }

    /// Nothing of a backup is left but one bitmap, no job, no node, no file.
    pub fn check_clean(&self) {
        let mut monitor = self.daemon.second_qmp();
        assert_eq!(self.bitmaps(&mut monitor).len(), 1);
        assert_eq!(monitor.succeed("{'execute': 'query-jobs'}"), Value::Array(Vec::new()));
        let nodes = monitor.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}").to_string();
        assert!(!nodes.contains("\"node-name\":\"tidemark-"), "{nodes}");
        let mut known: BTreeSet<String> = ["lock", "manifest.json"].map(str::to_owned).into();
        for point in self.points() {
            for disk in point["disks"].as_array().unwrap() {
                known.extend([&disk["file"], &disk["checksums"]["file"]].map(|name| name.as_str().unwrap().to_owned()));
            }
        }
        let files: BTreeSet<String> = self.shell("ls -A backups/").lines().map(str::to_owned).collect();
        assert_eq!(files, known);
    }

    /// Every point can be restored to what the guest had then, by us and by QEMU, and all of it is verified.
    pub fn check_points(&self) {
        let numbers = self.numbers();
        assert!(numbers.iter().all(|number| self.records.contains_key(number)), "{numbers:?}");
        for number in numbers {
            self.check_point(number);
        }
        let said = self.succeed(&["backup", "verify", "backups"]);
        assert!(said.contains("all data is what was backed up"), "{said}");
    }

    fn check_point(&self, number: u64) {
        let text = number.to_string();
        self.succeed(&["backup", "restore", "backups", "--point", &text, "--to", "restored"]);
        let (restored, record) = (fs::read(self.daemon.file("restored")).unwrap(), &self.records[&number]);
        let differs = (0..).zip(restored.chunks(4096).zip(record.chunks(4096))).find(|(_, (one, other))| one != other);
        assert_eq!(differs.map(|(block, _): (u64, _)| block), None, "point {number}: a block that is not the guest's");
        assert_eq!(restored.len(), record.len());
        self.shell(&format!(
            "qemu-img compare -q -f raw -F qcow2 restored backups/n-{number}.qcow2; \
             qemu-img check -q backups/n-{number}.qcow2 || test $? -eq 3; rm restored"
        ));
    }
}
