//! The program and the daemon are killed at any moment: a rerun ends in a good backup, and no point is ever lost.

use super::vm::{MAKE, QCOW2, RAW, SERVERS, Vm};
use crate::cli::process::{QEMU, TIDEMARK};
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

/// Points that are made.
const POINTS: usize = 10;
/// Points that stay.
const KEPT: usize = 6;

/// How often the program is killed.
fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// Of `total` in `parts`, those of the part with this index.
fn share(total: usize, parts: usize, index: usize) -> usize {
    total * (index + 1) / parts - total * index / parts
}

/// A life of a directory in which the program is killed so many times.
struct Life {
    vm: Vm,
    /// How long the last run took that came to its end.
    took: Duration,
    killed: usize,
    /// How often it is still to be killed: a run that ends before its moment has not been.
    owed: usize,
}

impl Life {
    fn moment(&mut self) -> Duration {
        let most = u64::try_from(self.took.as_micros()).unwrap().max(1000);
        Duration::from_micros(self.vm.rng.u64(..most))
    }

    /// Makes a point; the program is killed `kills` more times, as far as it lasts.
    fn point(&mut self, kills: usize) {
        self.owed += kills;
        loop {
            self.vm.work();
            let moment = (self.owed > 0).then(|| self.moment());
            let started = Instant::now();
            let ended = self.vm.attempt(moment);
            match ended.output {
                Some(output) => {
                    assert!(output.status.success(), "{output:?}");
                    self.took = started.elapsed();
                    self.vm.check_clean();
                    assert!(ended.point.is_some());
                    return;
                }
                None => {
                    self.count_kill();
                    // It may have been killed when the point was there.
                    if ended.point.is_some() {
                        return;
                    }
                }
            }
        }
    }

    fn count_kill(&mut self) {
        self.killed += 1;
        self.owed -= 1;
    }

    /// Runs a command that leaves the daemon alone, to be killed at some moment; whether it was.
    fn offline(&mut self, words: &[&str]) -> bool {
        let moment = self.moment();
        let mut command = self.vm.program(TIDEMARK);
        let child = command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap();
        thread::sleep(moment);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(status.code().is_none_or(|code| code == 0), "{words:?}: {status}");
        if status.code().is_none() {
            self.count_kill();
        }
        status.code().is_none()
    }

    /// How long a command takes that is not killed.
    fn time(&mut self, words: &[&str]) {
        let started = Instant::now();
        self.vm.succeed(words);
        self.took = started.elapsed();
    }

    /// Prunes; the program is killed as often as it is owed, as far as it lasts.
    fn prune(&mut self) {
        let keep = KEPT.to_string();
        self.vm.shell("cp -r backups copy");
        self.time(&["backup", "prune", "copy", "--keep", &keep]);
        let words = ["backup", "prune", "backups", "--keep", &keep];
        while self.owed > 0 && self.offline(&words) {
            self.vm.check_points();
        }
        self.vm.succeed(&words);
    }

    /// Restores the newest point again and again, until the program was killed as often as it is owed.
    fn restore(&mut self) {
        let words = ["backup", "restore", "backups", "--to", "killed"];
        self.time(&words);
        loop {
            self.vm.shell("rm -f killed");
            if self.owed == 0 {
                break;
            }
            // It is there when it is complete.
            if self.offline(&words) && self.vm.daemon.file("killed").exists() {
                let (_, newest) = self.vm.records.last_key_value().unwrap();
                assert!(fs::read(self.vm.daemon.file("killed")).unwrap() == *newest);
            }
        }
    }
}

#[test]
fn a_directory_is_good_whenever_the_program_is_killed() {
    let total = rounds();
    let parts = POINTS + 3;
    for (index, server) in SERVERS.into_iter().enumerate() {
        let rounds = share(total, SERVERS.len(), index);
        let vm = Vm::start(server, 11 + index as u64);
        let mut life = Life { vm, took: Duration::from_millis(300), killed: 0, owed: 0 };
        for point in 0..POINTS {
            life.point(share(rounds, parts, point));
        }
        assert_eq!(life.vm.points().len(), POINTS);
        // A prune has as many moments as the backups of all it merges.
        life.owed += share(rounds, parts, POINTS) + share(rounds, parts, POINTS + 1);
        life.prune();
        assert_eq!(life.vm.points().len(), KEPT);
        life.vm.check_points();
        life.owed += share(rounds, parts, POINTS + 2);
        life.restore();
        // Leaves nothing behind of what was killed.
        life.point(0);
        assert!(!life.vm.newest()["parent"].is_null(), "{server:?}: the chain goes on");
        life.vm.check_points();
        assert_eq!(life.killed, rounds);
        println!("{} {}: killed {rounds} times; {} points are good", server.0, server.1, life.vm.points().len());
    }
}

#[test]
fn a_program_that_is_asked_to_end_leaves_nothing_behind() {
    use rustix::process::{Pid, Signal, kill_process};
    let mut vm = Vm::start((TIDEMARK, QCOW2, MAKE), 5);
    vm.backup();
    let mut command = vm.program(TIDEMARK);
    command.args(["backup", "qmp", "--to", "backups"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_millis(30));
    // It may have ended already; then there is a point, which nobody has kept a copy of.
    let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    child.wait().unwrap();
    vm.check_clean();
    vm.work();
    let said = vm.backup();
    assert!(said.contains(", incremental\n"), "{said}");
}

/// What the guest has is stable before the daemon is killed, so that the model stays what it was.
fn kill_daemon(vm: &mut Vm) {
    vm.load.flush();
    vm.daemon.kill();
    vm.daemon.restart();
    vm.daemon.wait_ready();
    vm.device.reconnect().unwrap();
}

#[test]
fn a_daemon_that_is_killed_between_two_backups_costs_a_full_one_at_most() {
    let cases = [
        (TIDEMARK, QCOW2, MAKE, ", incremental\n"),
        (TIDEMARK, RAW, "true", "full, because the disk does not have bitmap"),
        (QEMU, RAW, "true", "full, because the disk does not have bitmap"),
        (QEMU, QCOW2, MAKE, "full, because "),
    ];
    for (program, node, make, words) in cases {
        let mut vm = Vm::start((program, node, make), 23);
        vm.backup();
        vm.work();
        kill_daemon(&mut vm);
        vm.work();
        let said = vm.backup();
        assert!(said.contains(words), "{program} {node}: {said}");
        vm.work();
        let said = vm.backup();
        assert!(said.contains(", incremental\n"), "{program} {node}: {said}");
        vm.check_points();
    }
}

#[test]
fn a_daemon_that_is_killed_during_a_backup_costs_that_backup() {
    for (index, (program, node, make)) in SERVERS.into_iter().enumerate() {
        // As slow as it takes to be killed in the middle.
        let mut vm = Vm::start((program, node, make), 31 + index as u64);
        vm.backup();
        vm.work();
        vm.load.flush();
        let mut command = vm.program(TIDEMARK);
        command.args(["backup", "qmp", "--to", "backups"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_millis(vm.rng.u64(..60)));
        let record = vm.load.expected(crate::vhost::daemon::DISK);
        kill_daemon(&mut vm);
        let output = child.wait_with_output().unwrap();
        let now: Vec<u64> = vm.points().iter().map(|point| point["number"].as_u64().unwrap()).collect();
        // The point may have been complete; then it is good.
        for number in now {
            vm.records.entry(number).or_insert_with(|| record.clone());
        }
        assert!(output.status.code().is_some(), "{output:?}");
        vm.work();
        vm.backup();
        vm.check_points();
    }
}
