//! Entries that break the format, lead out of the file or into metadata.

use super::rig::{Broken, CLUSTER, COPIED, L1, L2, REFTABLE, image, put, short};
use crate::error::IoError;
use crate::node::Kind;

/// Entry 1 of the L2 table, the requests that meet it, and what is told.
struct Case {
    entry: u64,
    read: &'static str,
    write: &'static str,
}

const INTO: &str = "!Preventing invalid write on metadata (overlaps with ";
const PLACE: &str = "(L2 offset: 0x40000, L2 index: 0x1)";

const CASES: [Case; 8] = [
    Case {
        entry: COPIED | 0x5_0200,
        read: "!Cluster allocation offset 0x50200 unaligned",
        write: "!Data cluster offset 0x50200 unaligned (guest offset: 0x10000)",
    },
    Case {
        entry: COPIED | 0x5_0002,
        read: "!Cluster allocation entry 0x8000000000050002 has reserved bits set",
        write: "",
    },
    Case { entry: COPIED | 1 << 40, read: "Cluster allocation offset 0x10000000000 is outside the file", write: "" },
    Case { entry: COPIED | 0x1_0000, read: "refcount table", write: "65536+65536" },
    Case { entry: COPIED | 0x2_0000, read: "refcount block", write: "131072+65536" },
    Case { entry: COPIED | 0x3_0000, read: "active L1 table", write: "196608+65536" },
    Case { entry: COPIED | 0x4_0000, read: "active L2 table", write: "262144+65536" },
    Case { entry: 0x4_0000, read: "active L2 table", write: "262144+65536" },
];

impl Case {
    fn content(&self) -> Vec<u8> {
        let mut content = image("compat=1.1");
        put(&mut content, L2 + 8, self.entry);
        content
    }

    /// What a read and a write are told to have met.
    fn expected(&self) -> [String; 2] {
        if self.write.is_empty() {
            let told = format!("{} {PLACE}", self.read);
            return [told.clone(), told];
        }
        if self.write.starts_with('!') {
            return [format!("{} {PLACE}", self.read), self.write.to_owned()];
        }
        let host = self.entry & !COPIED;
        let read = format!("Cluster allocation offset {host:#x} overlaps with {} {PLACE}", self.read);
        [read, format!("{INTO}{}) {}", self.read, self.write)]
    }
}

#[test]
fn a_read_of_an_entry_that_leads_nowhere_fails_alone_and_is_told() {
    for case in &CASES {
        let mut broken = Broken::open(case.content());
        assert_eq!(broken.read(CLUSTER), Err(IoError::Io), "{:#x}", case.entry);
        assert_eq!(short(&broken.told()), [case.expected()[0].clone()]);
        assert_eq!(broken.read(CLUSTER), Err(IoError::Io));
        assert_eq!((broken.read(0), broken.read(2 * CLUSTER)), (Ok(1), Ok(1)), "{:#x}", case.entry);
        assert_eq!(short(&broken.told()), [""; 0], "once");
    }
}

#[test]
fn a_write_to_an_entry_that_leads_nowhere_fails_and_writes_nothing_there() {
    for case in &CASES {
        let before = case.content();
        let mut broken = Broken::open(before.clone());
        assert_eq!(broken.run(Kind::Write, CLUSTER, 9), Err(IoError::Io), "{:#x}", case.entry);
        let told = short(&broken.told());
        assert_eq!(told, [case.expected()[1].clone()]);
        let fatal = told[0].starts_with('!');
        let (durable, after) = (broken.durable(), broken.content());
        assert_eq!(durable[79], if fatal { 2 } else { 0 }, "{:#x}: the corrupt bit, stable", case.entry);
        assert!(after[CLUSTER..5 * CLUSTER] == before[CLUSTER..5 * CLUSTER], "{:#x}: metadata", case.entry);
        let write = broken.run(Kind::Write, 0, 7);
        assert_eq!((write.is_err(), broken.read(0)), (fatal, Ok(if fatal { 1 } else { 7 })), "{:#x}", case.entry);
        assert_eq!(broken.run(Kind::Flush, 0, 0).is_err(), fatal, "{:#x}", case.entry);
    }
}

#[test]
fn nothing_is_written_to_an_image_marked_as_corrupt_not_even_when_it_is_closed() {
    let mut broken = Broken::open(CASES[0].content());
    broken.run(Kind::Write, 1 << 30, 5).unwrap();
    assert_eq!(broken.read(CLUSTER), Err(IoError::Io));
    let before = broken.content();
    for kind in [Kind::Write, Kind::Zero { unmap: true }, Kind::Discard, Kind::Flush] {
        assert_eq!(broken.run(kind, 3 * CLUSTER, 9), Err(IoError::Io), "{kind:?}");
    }
    assert_eq!((broken.read(1 << 30), broken.read(3 * CLUSTER)), (Ok(5), Ok(1)), "reads go on");
    broken.machine.close().unwrap();
    assert!(broken.content() == before);
    let again = Broken::try_open(before, super::rig::options()).map(drop);
    assert_eq!(again.unwrap_err().to_string(), "qcow2: Image is corrupt; cannot be opened read/write");
}

#[test]
fn an_image_opened_to_be_read_is_not_marked() {
    let before = CASES[0].content();
    let options = crate::node::qcow2::open::Options { read_only: true, ..super::rig::options() };
    let mut broken = Broken::try_open(before.clone(), options).unwrap();
    assert_eq!((broken.read(CLUSTER), broken.read(0)), (Err(IoError::Io), Ok(1)));
    assert_eq!(short(&broken.told()), [format!("Cluster allocation offset 0x50200 unaligned {PLACE}")]);
    assert!(broken.content() == before);
}

#[test]
fn a_zero_cluster_in_an_old_image_is_told() {
    let mut content = image("compat=0.10");
    put(&mut content, L2 + 8, 1);
    let mut broken = Broken::open(content);
    assert_eq!(broken.read(CLUSTER), Err(IoError::Io));
    assert_eq!(short(&broken.told()), [format!("!Zero cluster entry found in pre-v3 image {PLACE}")]);
    assert_eq!(broken.run(Kind::Write, 0, 9), Err(IoError::Io));
}

#[test]
fn zeroes_and_discards_drop_an_entry_that_leads_nowhere_and_free_nothing() {
    for case in &CASES {
        for kind in [Kind::Zero { unmap: true }, Kind::Zero { unmap: false }, Kind::Discard] {
            let before = case.content();
            let mut broken = Broken::open(before.clone());
            broken.run(kind, CLUSTER, 0).unwrap();
            let host = case.entry & 0x00ff_ffff_ffff_fe00;
            assert_eq!(short(&broken.told()), [format!("Cannot free unaligned cluster {host:#x}")], "{kind:?}");
            assert_eq!(broken.read(CLUSTER), Ok(0));
            broken.run(Kind::Write, CLUSTER, 9).unwrap();
            broken.run(Kind::Flush, 0, 0).unwrap();
            assert_eq!((broken.read(CLUSTER), broken.read(0)), (Ok(9), Ok(1)));
            let after = broken.content();
            assert!(after[REFTABLE..REFTABLE + CLUSTER] == before[REFTABLE..REFTABLE + CLUSTER]);
            assert!(after[L1..L1 + CLUSTER] == before[L1..L1 + CLUSTER]);
        }
    }
}

#[test]
fn an_l1_entry_that_leads_nowhere_fails_its_clusters_and_no_others() {
    let into = "overlaps with";
    for (entry, read, write) in [
        (COPIED | 0x4_0200, "!L2 table offset 0x40200 unaligned (L1 index: 0)", ""),
        (COPIED | 0x4_0001, "!L1 entry 0x8000000000040001 has reserved bits set (L1 index: 0)", ""),
        (COPIED | 1 << 40, "L2 table offset 0x10000000000 is outside the file (L1 index: 0)", ""),
        (
            COPIED | 0x1_0000,
            "L2 table offset 0x10000 overlaps with refcount table (L1 index: 0)",
            "refcount table) 65536",
        ),
        (
            COPIED | 0x3_0000,
            "L2 table offset 0x30000 overlaps with active L1 table (L1 index: 0)",
            "active L1 table) 196608",
        ),
    ] {
        let mut content = image("compat=1.1");
        put(&mut content, L1, entry);
        let mut broken = Broken::open(content.clone());
        assert_eq!((broken.read(0), short(&broken.told())), (Err(IoError::Io), vec![read.to_owned()]));
        assert_eq!(broken.read(1 << 30), Ok(0), "{entry:#x}: another table's");
        let mut broken = Broken::open(content.clone());
        assert_eq!(broken.run(Kind::Write, 0, 9), Err(IoError::Io), "{entry:#x}");
        let text = match write {
            "" => read.to_owned(),
            name => format!("!Preventing invalid write on metadata ({into} {name}+65536"),
        };
        assert_eq!(short(&broken.told()), [text]);
        assert!(broken.content()[CLUSTER..] == content[CLUSTER..], "{entry:#x}");
    }
}

#[test]
fn compressed_data_that_does_not_inflate_fails_alone() {
    let mut content = image("compat=1.1");
    let entry = u64::from_be_bytes(content[L2 + 32..L2 + 40].try_into().unwrap());
    let host = usize::try_from(entry & ((1 << 54) - 1)).unwrap();
    content[host..host + 16].fill(0xff);
    let mut broken = Broken::open(content);
    assert_eq!(broken.read(4 * CLUSTER), Err(IoError::Io));
    assert_eq!(broken.run_part(Kind::Write, 4 * CLUSTER, 512, 9), Err(IoError::Io), "the rest of it is needed");
    assert_eq!(broken.run(Kind::Write, 4 * CLUSTER, 9), Ok(vec![9; CLUSTER]), "nothing of it is needed");
    assert_eq!((broken.read(4 * CLUSTER), broken.read(3 * CLUSTER)), (Ok(9), Ok(1)));
    assert_eq!(short(&broken.told()), [""; 0]);
}
