//! What the entry of a new snapshot says, and the bytes of a table.

use super::{EXTRA_V3, Snapshot};
use crate::node::qcow2::header::Writer;
use std::ops::Range;
use std::time::Duration;

/// Bytes of a name at most, as in QEMU.
const NAME_MOST: usize = 255;
/// Extra data of a new entry: as version 3 asks for, and the number of instructions.
const EXTRA: u32 = EXTRA_V3 + 8;
/// "Nobody counted instructions."
const NO_ICOUNT: u64 = u64::MAX;

/// What is to be said of a new snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name; of a longer one its first 255 bytes, as in QEMU.
    pub name: String,
    /// When it is taken, since 1970.
    pub date: Duration,
}

impl Snapshot {
    /// One of a disk of `disk_bytes` bytes without a guest's state, whose L1 table is there.
    pub(super) fn new(id: u64, description: &Description, l1: &Range<u64>, disk_bytes: u64) -> Self {
        let id = id.to_string();
        let mut name = description.name.as_bytes().to_vec();
        name.truncate(NAME_MOST);
        let l1_entries = u32::try_from((l1.end - l1.start) / 8).unwrap_or(u32::MAX);
        let date_sec = u32::try_from(description.date.as_secs()).unwrap_or(u32::MAX);
        let date_nsec = description.date.subsec_nanos();
        let lengths = [id.len(), name.len()].map(|len| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        let mut writer = Writer::default();
        writer.u64(l1.start).u32(l1_entries).bytes(&lengths.concat()).u32(date_sec).u32(date_nsec);
        // How long the guest has run is for the guest's program to know.
        writer.u64(0).u32(0).u32(EXTRA).u64(0).u64(disk_bytes).u64(NO_ICOUNT).bytes(id.as_bytes()).bytes(&name);
        Self {
            l1_offset: l1.start,
            l1_entries,
            id,
            name: super::text(&name),
            date_sec,
            date_nsec,
            vm_clock_nsec: 0,
            disk_bytes: Some(disk_bytes),
            vm_state_bytes: 0,
            icount: None,
            extra_bytes: EXTRA,
            entry: writer.0,
        }
    }
}

/// The id of a new snapshot: one more than the largest number that one has for its id.
pub(super) fn next_id(snapshots: &[Snapshot]) -> u64 {
    let number = |snapshot: &Snapshot| {
        let digits = snapshot.id.find(|c: char| !c.is_ascii_digit()).unwrap_or(snapshot.id.len());
        snapshot.id.get(..digits).and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(0)
    };
    snapshots.iter().map(number).max().unwrap_or(0).saturating_add(1)
}

/// The bytes of a table; the last entry is not padded.
pub(super) fn table(snapshots: &[Snapshot]) -> Vec<u8> {
    let mut writer = Writer::default();
    for snapshot in snapshots {
        writer.pad().bytes(&snapshot.entry);
    }
    writer.0
}
