//! Internal snapshots, as images list them.

use tidemark_backend::node::qcow2::snapshot::Snapshot;

use super::inspected::lines;
use crate::schema::{Qapi, qapi_struct};

const NANOSECONDS: u64 = 1_000_000_000;

/// Snapshots as JSON, in lines.
pub fn snapshots_to_json(snapshots: &[SnapshotInfo]) -> String {
    lines(&snapshots.iter().map(Qapi::encode).collect())
}

qapi_struct! {
    /// An internal snapshot.
    pub struct SnapshotInfo "SnapshotInfo" {
        /// Its unique id.
        "id" id: String,
        /// Its name.
        "name" name: String,
        /// Bytes of the guest's state.
        "vm-state-size" vm_state_size: i64,
        /// When it was taken, in seconds since 1970.
        "date-sec" date_sec: i64,
        /// And nanoseconds.
        "date-nsec" date_nsec: i64,
        /// For how long the guest had run, in seconds.
        "vm-clock-sec" vm_clock_sec: i64,
        /// And nanoseconds.
        "vm-clock-nsec" vm_clock_nsec: i64,
        /// How many instructions the guest had done, if somebody counted.
        "icount" icount: Option<i64>,
    }
}

impl SnapshotInfo {
    /// Those of an image; nothing if it has none.
    pub(super) fn list(snapshots: &[Snapshot]) -> Option<Vec<Self>> {
        Some(snapshots.iter().map(Into::into).collect()).filter(|_| !snapshots.is_empty())
    }
}

impl From<&Snapshot> for SnapshotInfo {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            id: snapshot.id.clone(),
            name: snapshot.name.clone(),
            // QEMU's numbers are signed, whatever an image says.
            vm_state_size: snapshot.vm_state_bytes.cast_signed(),
            date_sec: snapshot.date_sec.into(),
            date_nsec: snapshot.date_nsec.into(),
            vm_clock_sec: (snapshot.vm_clock_nsec / NANOSECONDS).cast_signed(),
            vm_clock_nsec: (snapshot.vm_clock_nsec % NANOSECONDS).cast_signed(),
            icount: snapshot.icount.map(u64::cast_signed),
        }
    }
}
