//! Entries that lead to another place of an external data file than the guest's own.

use super::rig::{Broken, CLUSTER, COPIED, L2, put, qemu, short};
use crate::error::IoError;
use crate::node::Kind;

/// What QEMU says of entry 1.
const TOLD: &str =
    "!External data file host cluster offset 0x50000 does not match guest cluster offset: 0x10000, L2 index: 0x1)";

/// An image and its data file, with this entry of its guest's second cluster.
fn image(options: &str, entry: u64) -> (Vec<u8>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let (path, data) = (path.to_str().unwrap(), directory.path().join("data"));
    let options = format!("data_file={},{options}", data.display());
    qemu(&["qemu-img", "create", "-q", "-f", "qcow2", "-o", &options, path, "1M"]);
    qemu(&["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 256k", path]);
    let mut content = std::fs::read(path).unwrap();
    put(&mut content, L2 + if options.contains("extended") { 16 } else { 8 }, entry);
    (content, std::fs::read(data).unwrap())
}

#[test]
fn the_data_of_another_cluster_is_not_taken_for_a_guests() {
    for options in ["data_file_raw=off", "data_file_raw=on", "extended_l2=on"] {
        for kind in [Kind::Read, Kind::Write] {
            let (content, data) = image(options, COPIED | 0x5_0000);
            let mut image = Broken::over(content, data);
            assert_eq!(image.run_part(kind, CLUSTER + 8192, 4096, 9), Err(IoError::Io), "{options}");
            assert_eq!(short(&image.told()), [TOLD], "{options}");
            assert_eq!(image.content()[79] & 2, 2, "{options}: it is marked as corrupt");
            assert_eq!(image.read(0), Ok(1), "{options}: other clusters can be read");
        }
    }
}

#[test]
fn an_entry_for_the_first_cluster_is_not_one_for_another() {
    let (content, data) = image("data_file_raw=off", COPIED);
    let mut image = Broken::over(content, data);
    assert_eq!(image.read(CLUSTER), Err(IoError::Io));
    let told = "!External data file host cluster offset 0 does not match guest cluster offset: 0x10000, L2 index: 0x1)";
    assert_eq!(short(&image.told()), [told]);
}

#[test]
fn an_entry_that_is_discarded_harms_nobody() {
    let (content, data) = image("data_file_raw=off", COPIED | 0x5_0000);
    let mut image = Broken::over(content, data);
    image.run(Kind::Discard, CLUSTER, 0).unwrap();
    assert_eq!((image.read(CLUSTER), image.read(2 * CLUSTER)), (Ok(0), Ok(1)));
    assert_eq!(image.told(), []);
}
