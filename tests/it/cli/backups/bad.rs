//! What is no directory, no daemon or no room is refused in one message that says what to do, and changes nothing.

use super::vm::{RAW, Vm};
use crate::cli::process::TIDEMARK;
use crate::vhost::daemon::Daemon;
use rustix::fs::{FlockOperation, flock};
use std::fs;
use std::process::{Command, Stdio};

#[test]
fn a_manifest_that_is_foreign_newer_or_damaged_is_refused_and_left_alone() {
    let mut vm = Vm::start((TIDEMARK, RAW, "true"), 91);
    vm.backup();
    let file = vm.daemon.file("backups/manifest.json");
    let good = fs::read_to_string(&file).unwrap();
    let cases = [
        ("", "no manifest"),
        ("{}", "not the manifest of a backup directory"),
        ("[1, 2", "no manifest"),
        (&good[..good.len() / 2], "no manifest"),
        (&good.replace("\"version\": 1", "\"version\": 2"), "has version 2, and this program knows version 1"),
        (&good.replace("n-1.qcow2", "../disk"), "no name of a file"),
        (&good.replace("\"garbage\": [", "\"garbage\": [\"../disk\""), "no name of a file"),
        (&good.replace("\"next\": 2", "\"next\": 1"), "out of order"),
    ];
    for (text, words) in cases {
        fs::write(&file, text).unwrap();
        for command in [
            &["backup", "list", "backups"][..],
            &["backup", "verify", "backups"],
            &["backup", "prune", "backups", "--keep", "1"],
            &["backup", "restore", "backups", "--to", "x"],
            &["backup", "qmp", "--to", "backups"],
        ] {
            let message = vm.refusal(command);
            assert!(message.contains(words) && message.contains("manifest.json"), "{command:?}: {message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        assert!(vm.daemon.file("disk").exists() && !vm.daemon.file("x").exists());
    }
    fs::write(&file, good).unwrap();
    vm.backup();
    vm.check_points();
}

#[test]
fn what_cannot_be_used_is_refused_with_its_name() {
    let vm = Vm::start((TIDEMARK, RAW, "true"), 93);
    vm.shell("mkdir letters empty; echo dear > letters/mother; touch file");
    let cases: [(&[&str], &str); 11] = [
        (&["backup", "qmp", "--to", "letters"], "letters' is not empty and has no manifest.json"),
        (&["backup", "qmp", "--to", "file"], "file"),
        (&["backup", "qmp", "--to", "no/where"], "cannot make the directory 'no/where'"),
        (&["backup", "nobody", "--to", "new"], "nobody"),
        (&["backup", "qmp", "--to", "new", "--node", "m"], "there is no disk 'm'; the daemon exports: e"),
        (&["backup", "list", "empty"], "empty' is no backup directory"),
        (&["backup", "verify", "missing"], "missing"),
        (&["backup", "prune", "empty", "--keep", "1"], "no backup directory"),
        (&["backup", "prune", "empty", "--keep", "0"], "0"),
        (&["backup", "prune", "empty", "--before", "someday"], "someday"),
        (&["backup", "qmp"], "--to"),
    ];
    for (words, part) in cases {
        let message = vm.refusal(words);
        assert!(message.contains(part), "{words:?}: {message}");
    }
    assert_eq!(vm.shell("ls letters empty"), "empty:\n\nletters:\nmother\n");
}

#[test]
fn a_directory_that_somebody_is_at_work_in_is_not_touched() {
    let mut vm = Vm::start((TIDEMARK, RAW, "true"), 97);
    vm.backup();
    let directory = vm.daemon.file("backups");
    let holder = fs::File::open(directory.join("lock")).unwrap();
    flock(&holder, FlockOperation::LockExclusive).unwrap();
    for words in [&["backup", "qmp", "--to", "backups"][..], &["backup", "verify", "backups"]] {
        let message = vm.refusal(words);
        assert!(message.contains("in use by another tidemark backup"), "{message}");
    }
    drop(holder);
    vm.check_points();
}

#[test]
fn a_backup_for_which_there_is_no_room_fails_and_leaves_nothing_behind() {
    // The daemon may write no file of more than 2 MiB, as if that were all there is.
    let node = "driver=file,node-name=n,filename=disk,discard=unmap";
    let daemon = Daemon::started_by("trap '' XFSZ; ulimit -f 2048; exec \"$@\"", node, |place| {
        fs::write(place.file("disk"), vec![5; 8 << 20]).unwrap();
    });
    let run = |words: &[&str]| {
        let directory = daemon.file("disk").parent().unwrap().to_owned();
        Command::new(TIDEMARK).args(words).current_dir(directory).stdin(Stdio::null()).output().unwrap()
    };
    let output = run(&["backup", "qmp", "--to", "backups"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("the copy failed") && message.contains("has the points that it had"), "{message}");
    let mut files: Vec<_> =
        fs::read_dir(daemon.file("backups")).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["lock", "manifest.json"]);
    let nodes = daemon.second_qmp().succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
    assert!(!nodes.to_string().contains("tidemark-backup"), "{nodes}");
}
