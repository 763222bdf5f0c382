//! Images whose bitmaps are not what they should be: refused with a reason, and never a cluster of somebody else's.

use super::made::Made;
use super::opened::Opened;
use crate::node::qcow2::header::Header;

const MIB: u64 = 1 << 20;

fn word(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: u64, value: u64) {
    let at = usize::try_from(at).unwrap();
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// An image with a bitmap that has bits, and where the directory and the table are.
fn image() -> (Vec<u8>, u64, u64) {
    let made = Made::create("", 64 * MIB);
    made.add("-g 512", "b");
    made.write(0, 4096);
    let mut bytes = made.bytes();
    // The directory is last and less than a cluster.
    bytes.resize(bytes.len().next_multiple_of(65536), 0);
    let header = Header::parse(&bytes[..65536], bytes.len() as u64).unwrap();
    let directory = header.bitmaps.unwrap().offset;
    let table = word(&bytes, directory);
    (bytes, directory, table)
}

fn refusal(bytes: &[u8]) -> String {
    let refused = |read_only| Opened::try_new(&Made::of(bytes), read_only).err().map(|error| error.to_string());
    let (for_reading, for_writing) = (refused(true), refused(false));
    assert_eq!(for_reading, for_writing);
    for_reading.unwrap()
}

#[test]
fn bitmaps_on_other_metadata_are_refused_with_the_place() {
    let (bytes, directory, table) = image();
    let header = Header::parse(&bytes[..65536], bytes.len() as u64).unwrap();
    let l1 = header.l1_offset;
    let l2 = word(&bytes, l1) & 0x00ff_ffff_ffff_fe00;
    for other in [header.reftable_offset, l1, l2, directory] {
        let mut broken = bytes.clone();
        put(&mut broken, directory, other);
        let expected = format!("Bitmap 'b': its table at offset {other:#x} is on other metadata of the image");
        assert_eq!(refusal(&broken), expected);
        let mut broken = bytes.clone();
        put(&mut broken, table, other);
        let expected = format!("Bitmap 'b': its data at offset {other:#x} is on other metadata of the image");
        assert_eq!(refusal(&broken), expected);
    }
}

#[test]
fn a_table_with_impossible_entries_is_refused() {
    let (bytes, _, table) = image();
    for word in [2, 0x1_0000_0001, 0x0100_0000_0001_0000, 1 << 55, 513] {
        let mut broken = bytes.clone();
        put(&mut broken, table, word);
        let expected = "Could not read bitmap_table table from image for bitmap 'b': Invalid argument";
        assert_eq!(refusal(&broken), expected, "{word:#x}");
    }
}

#[test]
fn a_bitmap_in_use_whose_table_is_lost_can_be_removed() {
    let (mut bytes, directory, table) = image();
    let flags = usize::try_from(directory).unwrap() + 15;
    bytes[flags] |= 1;
    put(&mut bytes, table, 2);
    let mut opened = Opened::new(&Made::of(&bytes), false);
    assert!(opened.list()[0].inconsistent);
    opened.edit(|stage, node| stage.remove(node, "b"));
    let closed = opened.close();
    assert_eq!((closed.told(), closed.check().1), (vec![], 0));
}

#[test]
fn clusters_that_are_counted_as_free_are_not_taken_from_bitmaps() {
    let (mut bytes, directory, table) = image();
    let data = word(&bytes, table);
    let block = word(&bytes, word(&bytes, 48));
    for place in [directory, table, data] {
        let count = usize::try_from(block + place / 65536 * 2).unwrap();
        bytes[count..count + 2].fill(0);
    }
    let mut opened = Opened::new(&Made::of(&bytes), false);
    let places = [directory, table, data].map(|place| usize::try_from(place).unwrap());
    opened.write(MIB, 8 * MIB);
    let now = opened.file().bytes();
    for place in places {
        assert!(!now[place..place + 65536].contains(&0x5a), "a guest's data in a bitmap's cluster");
    }
}

#[test]
fn bits_that_are_in_no_file_are_believed_up_to_a_limit_only() {
    // Each of these asks for 32 MiB of set bits and has 4 KiB of the file.
    let made = Made::create("-o cluster_size=65536", 128 << 30);
    for number in 0..40 {
        made.add("-g 512", &format!("b{number}"));
    }
    let mut bytes = made.bytes();
    let header = Header::parse(&bytes[..65536], bytes.len() as u64).unwrap();
    let mut entry = header.bitmaps.unwrap().offset;
    for _ in 0..40 {
        let (table, entries) = (word(&bytes, entry), word(&bytes, entry + 8) >> 32);
        (0..entries).for_each(|index| put(&mut bytes, table + index * 8, 1));
        let name = u64::from(u16::from_be_bytes([
            bytes[usize::try_from(entry).unwrap() + 18],
            bytes[usize::try_from(entry).unwrap() + 19],
        ]));
        entry += (24 + name).next_multiple_of(8);
    }
    let refused = refusal(&bytes);
    assert!(refused.ends_with("mark more than a file of this size can be believed to"), "{refused}");
}
