//! A backup whose storage fails or hangs: who suffers, the guest or the backup (`x-on-cbw-error`, `x-cbw-timeout`).

use super::daemon::{Daemon, FILE};
use super::guest::Guest;
use crate::cli::process::wait_until;
use crate::qmp::daemon::Client;
use tidemark_frontend::Status;

/// A disk under a guest with a backup onto this node, called `t`, that copies nothing but what guests overwrite.
fn backup(target: &str, more: &str) -> (Daemon, Guest, Client) {
    let daemon = Daemon::with_node(FILE, "");
    let guest = Guest::new(&daemon);
    let mut monitor = daemon.qmp();
    monitor.succeed(&format!("{{'execute': 'blockdev-add', 'arguments': {{'node-name': 't', {target}}}}}"));
    let job = format!("'job-id': 'j', 'device': 'n', 'target': 't', 'sync': 'none', 'auto-dismiss': false {more}");
    monitor.succeed(&format!("{{'execute': 'blockdev-backup', 'arguments': {{{job}}}}}"));
    (daemon, guest, monitor)
}

/// Storage of which every write fails for want of space.
const FULL: &str = "'driver': 'blkdebug', 'image': {'driver': 'null-co', 'size': 33554432, 'read-zeroes': true},
                    'inject-error': [{'event': 'none', 'iotype': 'write', 'errno': 28}]";
/// Storage that takes longer than a guest wants to wait.
const SLOW: &str = "'driver': 'null-co', 'size': 33554432, 'latency-ns': 3000000000";

#[test]
fn a_guest_fails_with_the_storage_of_a_backup_unless_the_backup_is_to() {
    let (_daemon, mut guest, mut monitor) = backup(FULL, "");
    assert_eq!(guest.write(0, &[1; 4096]), Status::IoError);
    assert_eq!(monitor.succeed("{'execute': 'query-jobs'}")[0]["status"], "running");
}

#[test]
fn a_backup_that_spares_guests_fails_and_says_what_it_failed_with() {
    for (target, more, reason) in
        [(FULL, "", "No space left on device"), (SLOW, ", 'x-cbw-timeout': 1", "Input/output error")]
    {
        let more = format!(", 'x-on-cbw-error': 'break-snapshot' {more}");
        let (_daemon, mut guest, mut monitor) = backup(target, &more);
        assert_eq!(guest.write(0, &[1; 4096]), Status::Ok, "{reason}");
        assert_eq!(guest.read(0, 4096), [1; 4096], "{reason}");
        let mut job = monitor.succeed("{'execute': 'query-jobs'}")[0].clone();
        wait_until("the end of the backup", || {
            job = monitor.succeed("{'execute': 'query-jobs'}")[0].clone();
            job["status"] == "concluded"
        });
        let error = job["error"].as_str().unwrap();
        assert!(error.starts_with("The point in time is lost") && error.ends_with(reason), "{error}");
        // Nothing is waited for any more.
        assert_eq!(guest.write(1 << 20, &[2; 4096]), Status::Ok, "{reason}");
    }
}
