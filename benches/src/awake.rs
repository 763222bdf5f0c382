//! Cores that do not halt. In a virtual machine a core that has nothing to do for some microseconds may take longer to wake
//! up than a request takes, which hides what it is measured for.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::cpu::Machine;

/// Keeps both cores of a run busy with what gives way to everything else, until it is dropped.
pub struct Awake(Vec<Child>);

impl Awake {
    /// Starts a shell on each core that does nothing, under `SCHED_IDLE`.
    ///
    /// # Errors
    /// There is no `chrt` or `taskset` (util-linux).
    pub fn keep(machine: &Machine) -> Result<Self> {
        let mut shells = Self(Vec::new());
        for core in [machine.guest_core, machine.peer_core] {
            let mut shell = Command::new("chrt");
            shell.args(["--idle", "0", "taskset", "--cpu-list", &core.to_string(), "sh", "-c", "while :; do :; done"]);
            shell.stdin(Stdio::null());
            shells.0.push(shell.spawn().context("cannot keep cores awake: is util-linux installed?")?);
        }
        Ok(shells)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for shell in &mut self.0 {
            // It does not end by itself.
            let _ = shell.kill();
            let _ = shell.wait();
        }
    }
}
