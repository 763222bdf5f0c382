//! Full or incremental: what the directory has of a disk, beside what the daemon says of it.
//!
//! Pure. An incremental backup is planned only if the bitmap that was added with the newest point is there as it was
//! made: its name was drawn at random for that point, so whatever disk has it has been that disk since.

use super::manifest::Entry;

/// A disk as the daemon has it.
#[derive(Clone, Debug)]
pub struct DiskState {
    /// Its node.
    pub node: String,
    /// Its bytes.
    pub size: u64,
    /// Bytes that its image takes, if the daemon knows.
    pub allocated: Option<u64>,
    /// Whether its image can keep bitmaps.
    pub keeps_bitmaps: bool,
    /// Its bitmaps.
    pub bitmaps: Vec<BitmapState>,
}

/// A bitmap as the daemon has it.
#[derive(Clone, Debug)]
pub struct BitmapState {
    /// Its name.
    pub name: String,
    /// Bytes of a bit.
    pub granularity: u64,
    /// Bytes that it marks.
    pub count: u64,
    /// Whether writes are marked.
    pub recording: bool,
    /// Whether a job or an export uses it.
    pub busy: bool,
    /// Whether it was not closed in order.
    pub inconsistent: bool,
    /// Since when it records, in the daemon's words.
    pub change_id: Option<String>,
}

/// How a disk is backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// All of it.
    Full {
        /// Why.
        because: String,
    },
    /// What has changed.
    Incremental {
        /// The image that it goes above.
        parent: String,
        /// What says what has changed.
        bitmap: String,
        /// Bytes that it marks.
        bytes: u64,
    },
}

impl DiskState {
    /// A bitmap of it.
    pub fn bitmap(&self, name: &str) -> Option<&BitmapState> {
        self.bitmaps.iter().find(|bitmap| bitmap.name == name)
    }
}

impl Plan {
    /// Bytes that the backup takes about, at most.
    pub fn bytes(&self, disk: &DiskState) -> u64 {
        match self {
            Self::Full { .. } => disk.allocated.unwrap_or(disk.size).min(disk.size),
            Self::Incremental { bytes, .. } => *bytes,
        }
    }
}

/// Plans the backup of a disk whose newest point is `last`; `chain` says what is wrong with its images, if something is.
pub fn plan(last: Option<&Entry>, chain: Result<(), String>, disk: &DiskState, full: bool) -> Plan {
    match incremental(last, chain, disk, full) {
        Ok(plan) => plan,
        Err(because) => Plan::Full { because },
    }
}

fn incremental(last: Option<&Entry>, chain: Result<(), String>, disk: &DiskState, full: bool) -> Result<Plan, String> {
    let last = last.ok_or("it is the disk's first in this directory")?;
    if full {
        return Err("--full says so".to_owned());
    }
    if last.size != disk.size {
        return Err(format!("the disk has {} bytes, and had {} at the point before", disk.size, last.size));
    }
    let made = last.bitmap.as_ref().ok_or("the point before has no bitmap of its own")?;
    let name = &made.name;
    let Some(bitmap) = disk.bitmap(name) else {
        let kept = if made.persistent { "" } else { ", where the image keeps no bitmaps" };
        return Err(format!(
            "the disk does not have bitmap '{name}', which was added with the point before: it is another disk, somebody \
             has removed it, or the daemon has ended since{kept}"
        ));
    };
    let why = match bitmap {
        bitmap if bitmap.inconsistent => "is inconsistent: the daemon did not close the image in order",
        bitmap if !bitmap.recording => "does not record",
        bitmap if bitmap.granularity != made.granularity => "has another granularity than when it was made",
        bitmap if bitmap.busy => "is in use by somebody else",
        _ => {
            chain.map_err(|why| format!("the chain in the directory is broken: {why}"))?;
            let (parent, bytes) = (last.file.clone(), bitmap.count);
            return Ok(Plan::Incremental { parent, bitmap: name.clone(), bytes });
        }
    };
    Err(format!("bitmap '{name}', which was added with the point before, {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::entry;
    use super::*;

    fn disk() -> DiskState {
        let bitmap = BitmapState {
            name: "b7".to_owned(),
            granularity: 65536,
            count: 3 << 16,
            recording: true,
            busy: false,
            inconsistent: false,
            change_id: None,
        };
        DiskState {
            node: "disk0".to_owned(),
            size: 1 << 30,
            allocated: Some(5 << 20),
            keeps_bitmaps: true,
            bitmaps: vec![BitmapState { name: "other".to_owned(), ..bitmap.clone() }, bitmap],
        }
    }

    #[test]
    fn an_incremental_backup_takes_what_the_bitmap_of_the_last_point_marks() {
        let plan = plan(Some(&entry("disk0", 7, None)), Ok(()), &disk(), false);
        let (parent, bitmap) = ("disk0-7.qcow2".to_owned(), "b7".to_owned());
        assert_eq!(plan, Plan::Incremental { parent, bitmap, bytes: 3 << 16 });
        assert_eq!(plan.bytes(&disk()), 3 << 16);
    }

    #[test]
    fn whatever_makes_the_bitmap_useless_makes_a_full_backup_that_says_so() {
        type Change = fn(&mut DiskState);
        let of_disk: [(Change, &str); 6] = [
            (|disk| disk.bitmaps.truncate(1), "does not have bitmap 'b7'"),
            (|disk| disk.bitmaps[1].inconsistent = true, "is inconsistent"),
            (|disk| disk.bitmaps[1].recording = false, "does not record"),
            (|disk| disk.bitmaps[1].granularity = 4096, "another granularity"),
            (|disk| disk.bitmaps[1].busy = true, "in use"),
            (|disk| disk.size += 512, "has 1073742336 bytes, and had 1073741824"),
        ];
        let last = entry("disk0", 7, None);
        for (change, words) in of_disk {
            let mut disk = disk();
            change(&mut disk);
            let Plan::Full { because } = plan(Some(&last), Ok(()), &disk, false) else { panic!("{words}") };
            assert!(because.contains(words), "{because}");
        }
        let because = |plan| match plan {
            Plan::Full { because } => because,
            Plan::Incremental { .. } => panic!("incremental"),
        };
        assert!(because(plan(None, Ok(()), &disk(), false)).contains("first in this directory"));
        assert!(because(plan(Some(&last), Ok(()), &disk(), true)).contains("--full"));
        let broken = plan(Some(&last), Err("'x' is missing".to_owned()), &disk(), false);
        assert!(because(broken).contains("broken: 'x' is missing"));
        let mut without = entry("disk0", 7, None);
        without.bitmap = None;
        assert!(because(plan(Some(&without), Ok(()), &disk(), false)).contains("no bitmap of its own"));
    }

    #[test]
    fn a_full_backup_is_not_expected_to_take_more_than_the_disk() {
        let full = Plan::Full { because: String::new() };
        assert_eq!(full.bytes(&disk()), 5 << 20);
        assert_eq!(full.bytes(&DiskState { allocated: None, ..disk() }), 1 << 30);
        assert_eq!(full.bytes(&DiskState { allocated: Some(2 << 30), ..disk() }), 1 << 30);
    }
}
