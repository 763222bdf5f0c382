//! Files of checksums that come back, that were damaged, and that become one.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn sum(seed: u8) -> Content {
    Content::Sum([seed.max(1); SUM])
}

fn write(path: &Path, records: &[Record]) -> String {
    let mut writer = Writer::create(path.to_owned()).unwrap();
    records.iter().for_each(|record| writer.push(*record).unwrap());
    writer.finish().unwrap()
}

fn read(path: &Path, sha256: &str) -> Result<Vec<Record>> {
    let (mut reader, mut records) = (Reader::open(path, sha256)?, Vec::new());
    while let Some(record) = reader.peek() {
        records.push(record);
        reader.skip_to(record.end())?;
    }
    Ok(records)
}

#[test]
fn records_come_back_and_zeroes_in_a_row_are_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sums");
    let data = Record { first: 9, count: 1, content: sum(7) };
    let zero = |first, count| Record { first, count, content: Content::Zero };
    let sha256 = write(&path, &[zero(1, 2), zero(3, 5), data, zero(10, 1), zero(12, 1)]);
    assert_eq!(read(&path, &sha256).unwrap(), [zero(1, 7), data, zero(10, 1), zero(12, 1)]);
}

#[test]
fn every_bit_that_flips_in_the_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sums");
    let sha256 = write(&path, &[Record { first: 9, count: 1, content: sum(7) }]);
    let good = std::fs::read(&path).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bad).unwrap();
        assert!(read(&path, &sha256).is_err(), "bit {bit}");
    }
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(read(&path, &sha256).is_err());
}

#[test]
fn a_file_with_the_right_checksum_and_nonsense_in_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sums");
    let record = |first, count, content| Record { first, count, content };
    for records in [
        vec![record(u64::MAX, 1, Content::Zero)],
        vec![record(5, 0, Content::Zero)],
        vec![record(5, 2, sum(1))],
        vec![record(5, 1, sum(1)), record(5, 1, sum(1))],
        vec![record(5, 1, sum(1)), record(4, 1, sum(1))],
    ] {
        let mut bytes = MAGIC.to_vec();
        records.iter().for_each(|record| bytes.extend(record.bytes()));
        std::fs::write(&path, &bytes).unwrap();
        let sha256 = hex(&digest(&SHA256, &bytes));
        assert!(read(&path, &sha256).is_err(), "{records:?}");
    }
}

/// Some blocks of an image.
fn image() -> impl Strategy<Value = BTreeMap<u64, u8>> {
    prop::collection::btree_map(0..24u64, 0..4u8, 0..24)
}

fn records(image: &BTreeMap<u64, u8>) -> Vec<Record> {
    let content = |seed: u8| if seed == 0 { Content::Zero } else { sum(seed) };
    image.iter().map(|(first, seed)| Record { first: *first, count: 1, content: content(*seed) }).collect()
}

proptest! {
    #[test]
    fn merged_checksums_say_of_each_block_what_the_uppermost_image_says(images in prop::collection::vec(image(), 1..5)) {
        let dir = tempfile::tempdir().unwrap();
        let mut expected = BTreeMap::new();
        let mut readers = Vec::new();
        for (index, image) in images.iter().enumerate() {
            expected.extend(image.iter().map(|(block, seed)| (*block, *seed)));
            let path = dir.path().join(index.to_string());
            let sha256 = write(&path, &records(image));
            readers.push(Reader::open(&path, &sha256).unwrap());
        }
        let path = dir.path().join("all");
        let mut writer = Writer::create(path.clone()).unwrap();
        merge(readers, &mut writer).unwrap();
        let sha256 = writer.finish().unwrap();
        let single = dir.path().join("single");
        let same = write(&single, &records(&expected));
        prop_assert_eq!(read(&path, &sha256).unwrap(), read(&single, &same).unwrap());
    }
}
