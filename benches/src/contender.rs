//! A daemon with one node, and a guest that loads it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::case::Case;
use crate::cpu::Machine;
use crate::daemon::{Daemon, Export};
use crate::load::Load;

/// How long a daemon is tried with each `aio=`.
const TRIAL: Duration = Duration::from_millis(300);

/// A daemon and its guest.
pub struct Contender {
    /// The daemon.
    pub daemon: Daemon,
    /// Its guest.
    pub load: Load,
}

impl Contender {
    /// Starts `program` with a node named `d` of `size` bytes, and connects a guest to it.
    ///
    /// # Errors
    /// As [`Daemon::start`] and [`Daemon::connect`].
    pub fn start(program: &Path, blockdev: String, case: &Case, size: u64, machine: &Machine) -> Result<Contender> {
        let export = Export { node: "d", queues: case.queues };
        let daemon = Daemon::start(program, &[blockdev], &[export], machine)?;
        let load = Load::new(case, size, daemon.connect(export)?)?;
        Ok(Contender { daemon, load })
    }
}

/// The `aio=` with which the daemon that `start` starts does most requests in this very case.
///
/// # Errors
/// What `start` returns; if a request fails.
pub fn best_aio(case: &Case, start: impl Fn(&'static str) -> Result<Contender>) -> Result<&'static str> {
    let mut best = ("", 0.0);
    let choices = case.storage.aio_choices();
    if let [only] = choices {
        return Ok(only);
    }
    for aio in choices {
        let iops = start(aio)?.load.measure(TRIAL)?.iops;
        if iops > best.1 {
            best = (aio, iops);
        }
    }
    Ok(best.0)
}
