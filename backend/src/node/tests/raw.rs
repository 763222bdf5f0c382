//! The window of driver `raw`, with the texts of QEMU, and the guard of disks whose format nobody named.

use super::bench::{Bench, file_options};
use crate::error::IoError;
use crate::node::options::{ChildRef, DriverOptions, RawOptions};
use crate::node::{Kind, Node, NodeOptions};
use std::path::Path;
use std::sync::Arc;

fn window(path: &Path, offset: u64, size: Option<u64>, guard_format: bool) -> NodeOptions {
    let file = NodeOptions { node_name: None, ..file_options(path) };
    let raw = RawOptions { file: ChildRef::Inline(Box::new(file)), offset, size, guard_format };
    NodeOptions { node_name: Some("raw".into()), ..NodeOptions::new(DriverOptions::Raw(raw)) }
}

fn open(bench: &Bench, offset: u64, size: Option<u64>, guard: bool) -> Arc<Node> {
    bench.graph.open(&window(bench.image.path(), offset, size, guard)).unwrap()
}

#[test]
fn a_window_shows_its_part_of_the_file_and_lets_nothing_out() {
    let mut bench = Bench::new(1, &[[1; 4096], [2; 4096], [3; 4096]].concat(), 1);
    let node = open(&bench, 4096, Some(4096), false);
    assert_eq!(node.length(), 4096);
    assert_eq!(bench.read(&node, 0, 4096), Ok(vec![2; 4096]));
    assert_eq!(bench.write(&node, 3584, &[9; 512]), Ok(()));
    for (offset, len) in [(4096, 512), (3584, 1024), (u64::MAX - 4096, 4096)] {
        assert_eq!(bench.bare(&node, Kind::Zero { unmap: false }, offset, len), Err(IoError::Invalid));
    }
    let expected = [vec![1; 4096], vec![2; 3584], vec![9; 512], vec![3; 4096]].concat();
    assert_eq!(bench.content(), expected);
}

#[test]
fn a_window_that_does_not_fit_is_refused_in_qemus_words() {
    let bench = Bench::new(1, &[0; 8192], 1);
    let cases = [
        (8193, None, "Offset (8193) cannot be greater than size of the containing file (8192)"),
        (
            512,
            Some(8192),
            "The sum of offset (512) and size (8192) has to be smaller or equal to the  actual size of the containing \
             file (8192)",
        ),
        (0, Some(1000), "Specified size is not multiple of 512"),
    ];
    for (offset, size, text) in cases {
        let error = bench.graph.open(&window(bench.image.path(), offset, size, false)).unwrap_err();
        assert_eq!(error.to_string(), text);
        assert!(bench.graph.nodes().is_empty(), "nothing stays open");
    }
    assert_eq!(open(&bench, 8192, None, false).length(), 0);
}

#[test]
fn only_a_write_that_would_make_the_disk_an_image_is_refused() {
    let image = |magic: &[u8]| [magic, &vec![5; 1024 - magic.len()]].concat();
    for magic in [&b"QFI\xfb"[..], b"QED\0", b"KDMV", b"COWD", b"vhdxfile", b"conectix"] {
        let mut bench = Bench::new(1, &[1; 8192], 1);
        let guarded = open(&bench, 512, None, true);
        assert_eq!(bench.write(&guarded, 0, &image(magic)), Err(IoError::Permission), "{magic:?}");
        assert_eq!(bench.write(&guarded, 2, &magic[2..]), Ok(()), "half of it is none");
        assert_eq!(bench.write(&guarded, 0, &magic[..2]), Err(IoError::Permission), "both halves are");
        assert_eq!(bench.write(&guarded, 512, &image(magic)), Ok(()), "elsewhere it means nothing");
        assert_eq!(bench.write(&guarded, 0, &[6; 2048]), Ok(()));
        let expected = [vec![1; 512], vec![6; 2048], vec![1; 8192 - 2560]].concat();
        assert_eq!(bench.content(), expected);
    }
    let mut bench = Bench::new(1, &[1; 8192], 1);
    let named = open(&bench, 0, None, false);
    assert_eq!(bench.write(&named, 0, &image(b"QFI\xfb")), Ok(()));
}
