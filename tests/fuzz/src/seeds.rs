//! Sound images to begin with, of several kinds, each with data of a guest in it.

use crate::guest::Guest;
use std::sync::OnceLock;
use tidemark_backend::node::Kind;
use tidemark_backend::node::qcow2::create::{CreateOptions, Preallocation, layout};

/// Bytes of the guest's disk.
pub const DISK: u64 = 256 << 10;

/// What a guest has on it before; never what it writes later.
const BEFORE: u8 = 0x11;

/// (version, log2 of the cluster size, bits of a count, all clusters mapped)
const KINDS: [(u32, u32, u64, bool); 6] =
    [(3, 9, 16, false), (3, 12, 16, false), (2, 9, 16, false), (3, 9, 64, false), (3, 10, 1, true), (3, 16, 16, false)];

/// One of them.
pub fn image(number: u8) -> Vec<u8> {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let images = IMAGES.get_or_init(|| KINDS.into_iter().map(make).collect());
    images[usize::from(number) % images.len()].clone()
}

fn make((version, cluster_bits, refcount_bits, mapped): (u32, u32, u64, bool)) -> Vec<u8> {
    let options = CreateOptions {
        size: DISK,
        cluster_size: 1 << cluster_bits,
        version,
        refcount_bits,
        preallocation: if mapped { Preallocation::Metadata } else { Preallocation::Off },
        ..CreateOptions::default()
    };
    let layout = layout(&options).expect("an image can be made");
    let mut image = vec![0; usize::try_from(layout.length).expect("a small image")];
    for (offset, bytes) in layout.writes() {
        let offset = usize::try_from(offset).expect("a small image");
        let end = offset + bytes.len();
        if image.len() < end {
            image.resize(end, 0);
        }
        image[offset..end].copy_from_slice(&bytes);
    }
    let mut guest = Guest::open(&image, 0).expect("a sound image opens");
    for (offset, len) in [(0, 4096), (20_480, 70_000), (131_072, 512), (200_704, 8192)] {
        assert!(guest.run(Kind::Write, offset, len / 512 * 512, BEFORE), "a sound image is written to");
    }
    assert!(guest.run(Kind::Discard, 24_576, 8192, 0), "a sound image is written to");
    guest.close();
    guest.image()
}
