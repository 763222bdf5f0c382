//! Scripts of bitmaps, jobs, backups and transactions, run on `qemu-storage-daemon` and on our daemon: the same replies,
//! the same events, the same contents of files afterwards.
//!
//! The scripts are text beside this file; how they read stands in `scripts/script.rs`. What is expected is what QEMU does
//! in the same run. A script that uses a command which our daemon does not have runs on two `qemu-storage-daemon`s
//! instead, which proves that the script itself is repeatable; each test prints which programs it compared. With
//! `SCRIPT_PEER=qemu-storage-daemon` in the environment all scripts do. `SCRIPT_ONLY` runs those whose name contains its
//! value, and `SCRIPT_SHOW=1` prints what they showed. What ours does otherwise on purpose is in `scripts/ours.txt`: those
//! run on ours alone and say themselves what is expected.

mod chain;
mod content;
mod peer;
mod request;
mod script;
mod transcript;

use std::collections::BTreeSet;
use std::env;
use std::thread;

use super::daemon::{Daemon, QEMU, TIDEMARK};
use super::schema::list;
use peer::Peer;
use script::Script;
use transcript::Transcript;

/// Runs a script on a daemon of its own.
fn play(program: &str, script: &Script) -> Transcript {
    let mut peer = Peer::start(program);
    script.steps.iter().for_each(|step| peer.step(step));
    peer.end()
}

/// The commands and block drivers that our daemon has; none if it is not to be compared.
fn our_abilities() -> BTreeSet<String> {
    if env::var("SCRIPT_PEER").is_ok_and(|peer| peer == QEMU) {
        return BTreeSet::new();
    }
    let mut daemon = Daemon::start(TIDEMARK, &[]);
    let mut client = daemon.negotiate();
    let commands = client.succeed("{'execute': 'query-commands'}");
    let schema = client.succeed("{'execute': 'query-qmp-schema'}");
    let names = list(&commands).iter().map(|entry| &entry["name"]);
    let cases = list(&schema).iter().flat_map(|entry| list(&entry["variants"])).map(|variant| &variant["case"]);
    names.chain(cases).filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// The scripts of a file that are asked for.
fn scripts(file: &str) -> Vec<Script> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/qmp/scripts/");
    let text = std::fs::read_to_string(format!("{dir}{file}.txt")).expect("scripts");
    let only = env::var("SCRIPT_ONLY").unwrap_or_default();
    script::parse(&text).into_iter().filter(|script| script.name.contains(&only)).collect()
}

/// Runs the scripts of a file on QEMU's daemon and on ours.
fn compare(file: &str) {
    let ours = our_abilities();
    let mut different = Vec::new();
    for script in &scripts(file) {
        let missing: Vec<_> = script.commands().into_iter().filter(|name| !ours.contains(name)).collect();
        let other = if missing.is_empty() { TIDEMARK } else { QEMU };
        let beside =
            if missing.is_empty() { "tidemark".to_owned() } else { format!("itself, for want of {missing:?}") };
        println!("qemu-storage-daemon beside {beside}: {}", script.name);
        let both = thread::scope(|scope| {
            let peers = [QEMU, other].map(|program| scope.spawn(|| play(program, script)));
            peers.map(|peer| peer.join().ok())
        });
        let [expected, found] = both;
        // On a busy machine it hangs or hangs up at times, whatever it is asked.
        let again = || thread::scope(|scope| scope.spawn(|| play(QEMU, script)).join().ok());
        let (Some(expected), Some(found)) = (expected.or_else(again).or_else(again), found) else {
            different.push(format!("{}\n  one of them did not get through; see above", script.name));
            continue;
        };
        if env::var("SCRIPT_SHOW").is_ok() {
            println!("{expected}");
        }
        different.extend(expected.difference(&found).map(|text| format!("{}\n{text}", script.name)));
        different.extend(expected.mistakes().iter().map(|text| format!("{}: QEMU: {text}", script.name)));
    }
    assert!(different.is_empty(), "\n{}", different.join("\n\n"));
}

#[test]
fn named_bitmaps_are_those_of_qemu_storage_daemon() {
    compare("bitmaps");
}

#[test]
fn internal_snapshots_are_those_of_qemu_storage_daemon() {
    compare("internals");
}

#[test]
fn backups_and_their_targets_are_those_of_qemu_storage_daemon() {
    compare("backups");
}

#[test]
fn backups_with_bitmaps_leave_the_bitmaps_that_qemu_storage_daemon_leaves() {
    compare("incremental");
}

#[test]
fn transactions_do_all_or_nothing_as_in_qemu_storage_daemon() {
    compare("transactions");
}

#[test]
fn jobs_obey_their_verbs_as_in_qemu_storage_daemon() {
    compare("jobs");
}

#[test]
fn errors_of_source_and_target_are_handled_as_in_qemu_storage_daemon() {
    compare("policies");
}

#[test]
fn daemons_end_with_jobs_running_as_qemu_storage_daemon_does() {
    compare("endings");
}

#[test]
fn nodes_are_reopened_as_by_qemu_storage_daemon() {
    compare("reopens");
}

#[test]
fn files_and_images_are_made_as_by_qemu_storage_daemon() {
    compare("creations");
}

#[test]
fn external_snapshots_are_those_of_qemu_storage_daemon() {
    compare("snapshots");
}

#[test]
fn mirrors_and_their_pivots_are_those_of_qemu_storage_daemon() {
    compare("mirrors");
}

#[test]
fn backups_to_files_are_those_of_qemu_storage_daemon() {
    compare("drives");
}

#[test]
fn throttled_disks_and_filters_that_come_and_go_are_those_of_qemu_storage_daemon() {
    compare("throttles");
}

#[test]
fn filters_that_copy_before_writes_are_those_of_qemu_storage_daemon() {
    compare("filters");
}

#[test]
fn chains_are_streamed_and_committed_as_by_qemu_storage_daemon() {
    compare("chains");
}

#[test]
fn who_comes_through_what_stands_for_a_job_goes_where_qemu_storage_daemon_leads_him() {
    compare("filtered");
}

#[test]
fn jobs_and_exports_keep_each_other_from_nodes_as_in_qemu_storage_daemon() {
    compare("permissions");
}

#[test]
fn where_we_differ_from_qemu_storage_daemon_we_do_as_was_decided() {
    for script in scripts("ours") {
        println!("tidemark: {}", script.name);
        assert!(script.steps.iter().any(|step| step.verb == "differs"), "'{}' does not say from what", script.name);
        let transcript = play(TIDEMARK, &script);
        assert!(transcript.mistakes().is_empty(), "{}\n{}", script.name, transcript.mistakes().join("\n"));
    }
}
