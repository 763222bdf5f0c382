//! A small file system that is there for programs which are started inside alone. Needs no privileges.

use super::process::{Place, Running, wait_until};
use std::fs;
use std::process::Command;

/// A line of a shell that starts a program where `small` is mounted: in the namespaces of the process whose number is in
/// `keeper`.
pub const INSIDE: &str = "exec nsenter -t $(cat keeper) --user --mount --preserve-credentials \
                          sh -ec 'cd \"$1\"; shift; exec \"$@\"' sh \"$PWD\" \"$@\"";

/// A process that has `small`, a file system of 4 MiB, mounted in its place.
pub fn mount(place: &Place) -> Running {
    let script = "mkdir small; mount -t tmpfs -o size=4m none small; touch small/mounted; exec sleep 1000";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", script]).current_dir(place.path());
    let keeper = Running::spawn(command);
    fs::write(place.file("keeper"), keeper.pid().to_string()).unwrap();
    wait_until("the file system", || inside(&keeper, place).join("mounted").exists());
    keeper
}

/// The small file system, as others see it.
pub fn inside(keeper: &Running, place: &Place) -> std::path::PathBuf {
    let root = format!("/proc/{}/root{}/small", keeper.pid(), place.path().display());
    root.into()
}
