//! Options of the command line that make no sense, beside `qemu-storage-daemon`: the same message, the
//! same exit status.
//!
//! Knows the table of command lines beside this file, in which spaces separate arguments and `DIR` is
//! a directory with an image `disk.img`. What is expected is what QEMU says in the same run.

use std::process::{Command, Stdio};

use super::daemon::{QEMU, TIDEMARK, displace};

const OPTIONS: &str = include_str!("options.txt");

/// What a program says about a command line, without its name, and its exit status.
fn complaint(program: &str, line: &str) -> (String, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join("disk.img")).unwrap().set_len(1 << 20).unwrap();
    let arguments = line.split(' ').map(|word| word.replace("DIR", &dir.path().display().to_string()));
    // The monitor's device is the only one here that could wait for somebody.
    let output = Command::new("timeout").arg("20").arg(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = displace(&String::from_utf8_lossy(&output.stderr), dir.path());
    let name = program.rsplit('/').next().unwrap_or(program);
    (text.replace(&format!("{name}: "), ""), output.status.code())
}

#[test]
fn senseless_options_are_refused_as_qemu_storage_daemon_refuses_them() {
    let lines = OPTIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut equal = 0;
    let mut different = Vec::new();
    for line in lines {
        let (expected, found) = (complaint(QEMU, line), complaint(TIDEMARK, line));
        assert_eq!(expected.1, Some(1), "QEMU accepts {line}");
        match expected == found {
            true => equal += 1,
            false => different.push(format!("{line}\n  QEMU: {expected:?}\n  ours: {found:?}")),
        }
    }
    println!("command lines compared with qemu-storage-daemon: {equal}");
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(equal > 50, "the table lost its lines");
}
