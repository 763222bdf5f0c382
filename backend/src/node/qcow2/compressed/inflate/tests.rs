//! What inflates and what does not; whatever comes, it ends and panics nowhere.

use super::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

type Inflate = fn(&[u8], &mut [u8]) -> Result<(), IoError>;

/// A cluster with something to find in it, and each method with its form of it.
fn forms(random: &mut fastrand::Rng, len: usize) -> (Vec<u8>, [(Inflate, Vec<u8>); 2]) {
    let content: Vec<u8> = (0..len).map(|at| if at % 700 < 300 { random.u8(..4) } else { b'x' }).collect();
    let deflated = miniz_oxide::deflate::compress_to_vec(&content, 6);
    let frame = compress_to_vec(&content[..], CompressionLevel::Fastest);
    (content, [(zlib as Inflate, deflated), (zstd as Inflate, frame)])
}

#[test]
fn a_cluster_comes_back_whatever_follows_it() {
    let mut random = fastrand::Rng::with_seed(1);
    for len in [512, 65536, 2 << 20] {
        let (content, forms) = forms(&mut random, len);
        for (inflate, mut form) in forms {
            form.extend([0xa5; 300]);
            let mut cluster = vec![0; len];
            assert_eq!(inflate(&form, &mut cluster), Ok(()));
            assert!(cluster == content);
        }
    }
}

#[test]
fn what_is_less_than_a_cluster_is_none() {
    let (_, forms) = forms(&mut fastrand::Rng::with_seed(2), 4096);
    for (inflate, form) in forms {
        assert_eq!(inflate(&form, &mut [0; 8192]), Err(IoError::Io), "it ends too early");
        assert_eq!(inflate(&form[..form.len() / 2], &mut [0; 4096]), Err(IoError::Io), "cut off");
        assert_eq!(inflate(&[], &mut [0; 4096]), Err(IoError::Io));
    }
}

#[test]
fn a_zstd_frame_that_is_more_than_a_cluster_is_refused() {
    let (_, [_, (_, frame)]) = forms(&mut fastrand::Rng::with_seed(3), 8192);
    assert_eq!(zstd(&frame, &mut [0; 4096]), Err(IoError::Io));
}

#[test]
fn a_zstd_frame_with_a_huge_window_is_refused() {
    // Magic, a descriptor without content size, a window of 2^27 bytes, one raw block of a byte.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 0x09, 0, 0, b'a'];
    assert_eq!(zstd(&frame, &mut [0; 1]), Err(IoError::Io));
    let modest = [0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3, 0x09, 0, 0, b'a'];
    assert_eq!(zstd(&modest, &mut [0; 1]), Ok(()), "2^23 is not");
}

#[test]
fn garbage_ends() {
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..2000 {
        let (_, forms) = forms(&mut random, 4096);
        for (inflate, mut form) in forms {
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..form.len());
                form[at] = random.u8(..);
            }
            let _ = inflate(&form, &mut [0; 4096]);
        }
    }
}
