//! The back-end dies in the middle of a backup: to the guest that is a pause, and nothing claims that the
//! half of a backup it left is one.

use std::time::Duration;

use crate::backend::{Disk, MIB, NODE};
use crate::crash::{RESUME, load, progress};
use crate::guest::on_guest;
use crate::restore::{BITMAP, Restore, Sync, assert_equal, track, transaction};

/// Size of the disk in bytes.
const LEN: u64 = 32 * MIB;

/// Bytes per second: the backup would take half a minute.
const SLOWLY: u64 = MIB;

#[test]
fn a_crash_in_the_middle_of_a_backup_leaves_the_guest_its_disk_and_no_backup() {
    on_guest(Disk::new(LEN), |guest, backend| {
        guest.spawn(&load(16));
        progress(guest, 50);
        let half = Restore::empty(&backend.place(""), "half", LEN);
        let mut qmp = backend.qmp();
        half.open(&mut qmp);
        transaction(&mut qmp, &[track(NODE), half.backup(NODE, Sync::Full, SLOWLY)], false);
        progress(guest, 50);
        let jobs = qmp.execute("query-jobs", "{}");
        assert!(jobs.contains("\"running\"") && jobs.contains("\"half\""), "no backup under way: {jobs}");

        backend.freeze();
        guest.until(RESUME, "read reads writes </sys/block/vda/inflight; [ $((reads + writes)) -gt 0 ]");
        backend.crash();
        assert!(half.bytes() != std::fs::read(backend.image()).unwrap(), "the backup was complete");
        backend.restart();
        progress(guest, 50);

        let mut qmp = backend.qmp();
        for query in ["query-jobs", "query-block-jobs"] {
            let jobs = qmp.execute(query, "{}");
            assert!(jobs.contains("[]"), "{query} after the crash: {jobs}");
        }
        // What had changed is not known any more: nothing may be built on the half.
        half.open(&mut qmp);
        let incremental = half.backup(NODE, Sync::Incremental, 0);
        let refusal = qmp.refuses("transaction", &format!(r#"{{"actions": [{incremental}]}}"#));
        assert!(refusal.contains(&format!("Bitmap '{BITMAP}' could not be found")), "{refusal}");

        // The same file takes a whole backup.
        transaction(&mut qmp, &[track(NODE), half.backup(NODE, Sync::Full, 0)], false);
        half.wait(&mut qmp);
        guest.run("touch /tmp/stop");
        guest.join(Duration::from_secs(60));
        guest.unplug();
        let last = half.copy("last");
        last.open(&mut qmp);
        transaction(&mut qmp, &[last.backup(NODE, Sync::Incremental, 0)], false);
        last.wait(&mut qmp);
        assert_equal(&last, &backend.image());
    });
}
