//! The daemon driven by `qemu.qmp`, the Python project's QMP client, which nobody here wrote.

use std::path::Path;
use std::process::Command;

use super::daemon::{Daemon, TIDEMARK};

/// The Python that has `qemu.qmp`; `make venv` makes it.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");

/// What it runs.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/qmp/client.py");

#[test]
fn the_qmp_client_of_qemu_drives_the_daemon() {
    assert!(Path::new(PYTHON).exists(), "no {PYTHON}: run `make venv`");
    let mut daemon = Daemon::start(TIDEMARK, &["--object", "iothread,id=io0"]);
    daemon.connect();
    let output = Command::new(PYTHON).arg(SCRIPT).arg(daemon.dir()).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.ends_with("done\n"), "{text}{errors}");
    assert!(daemon.wait().success(), "the daemon's exit after quit");
    print!("{text}");
}
