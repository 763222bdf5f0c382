//! Wishes that do not go together, refused in the words of QEMU.

use crate::node::qcow2::create::{CreateOptions, Preallocation, layout};
use crate::node::qcow2::header::Compression;
use std::process::Command;
use tempfile::TempDir;

/// What `qemu-img create` says after the name of the image.
fn theirs(arguments: &str) -> String {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("base.raw"), vec![0; 1 << 20]).unwrap();
    let words = format!("create -q -f qcow2 {arguments}");
    let output = Command::new("qemu-img").args(words.split_whitespace()).current_dir(dir.path()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments}");
    text.lines().last().unwrap().strip_prefix("qemu-img: disk.qcow2: ").unwrap().to_owned()
}

fn ours(options: &CreateOptions) -> String {
    layout(options).unwrap_err().to_string()
}

#[test]
fn contradictions_are_refused_in_the_words_of_qemu() {
    let plain = CreateOptions { size: 1 << 20, ..CreateOptions::default() };
    let old = CreateOptions { version: 2, ..plain.clone() };
    let external = CreateOptions { data_file: Some("data.raw".into()), ..plain.clone() };
    let above = CreateOptions { backing: Some("base.raw".into()), backing_format: Some("raw".into()), ..plain.clone() };
    let cases = [
        ("-o cluster_size=256", CreateOptions { cluster_size: 256, ..plain.clone() }),
        ("-o cluster_size=4M", CreateOptions { cluster_size: 4 << 20, ..plain.clone() }),
        ("-o cluster_size=3000", CreateOptions { cluster_size: 3000, ..plain.clone() }),
        ("-o refcount_bits=0", CreateOptions { refcount_bits: 0, ..plain.clone() }),
        ("-o refcount_bits=3", CreateOptions { refcount_bits: 3, ..plain.clone() }),
        ("-o refcount_bits=128", CreateOptions { refcount_bits: 128, ..plain.clone() }),
        ("-o compat=v2,refcount_bits=8", CreateOptions { refcount_bits: 8, ..old.clone() }),
        ("-o compat=v2,lazy_refcounts=on", CreateOptions { lazy_refcounts: true, ..old.clone() }),
        ("-o compat=v2,extended_l2=on", CreateOptions { extended_l2: true, ..old.clone() }),
        ("-o extended_l2=on,cluster_size=8k", CreateOptions { extended_l2: true, cluster_size: 8192, ..plain.clone() }),
        ("-o compat=v2,compression_type=zstd", CreateOptions { compression: Compression::Zstd, ..old }),
        ("-o compat=v2,data_file=data.raw", CreateOptions { version: 2, ..external.clone() }),
        ("-o data_file_raw=on", CreateOptions { data_file_raw: true, ..plain.clone() }),
        ("-F raw", CreateOptions { backing_format: Some("raw".into()), ..plain }),
        (
            "-b base.raw -F raw -o preallocation=metadata",
            CreateOptions { preallocation: Preallocation::Metadata, ..above.clone() },
        ),
        (
            "-b base.raw -F raw -o data_file=data.raw,data_file_raw=on",
            CreateOptions { data_file_raw: true, data_file: Some("data.raw".into()), ..above },
        ),
    ];
    for (arguments, options) in cases {
        assert_eq!(ours(&options), theirs(&format!("{arguments} disk.qcow2 1M")), "{arguments}");
    }
}

#[test]
fn a_backing_file_whose_name_does_not_fit_is_refused_in_the_words_of_qemu() {
    let name = "./".repeat(200) + "base.raw";
    let arguments = format!("-b {name} -F raw -o cluster_size=512 disk.qcow2 1M");
    let (backing, backing_format) = (Some(name), Some("raw".to_owned()));
    let options = CreateOptions { backing, backing_format, size: 1 << 20, cluster_size: 512, ..Default::default() };
    assert_eq!(ours(&options), theirs(&arguments));
}

#[test]
fn sizes_out_of_range_are_refused() {
    let size = |size, cluster_size| ours(&CreateOptions { size, cluster_size, ..CreateOptions::default() });
    let too_large = "Could not resize image: Failed to grow the L1 table: File too large";
    assert_eq!(size(1000, 65536), "Image size must be a multiple of 512 bytes");
    assert_eq!(size((128 << 30) + 512, 512), too_large);
    assert_eq!(size((2 << 50) + 512, 65536), too_large);
    assert_eq!(size((2 << 60) + 512, 2 << 20), too_large);
    assert_eq!(size(1 << 63, 2 << 20), "Could not resize image: Image size cannot be negative");
    let preallocation = Preallocation::Metadata;
    let mapped = CreateOptions { size: 1 << 58, cluster_size: 2 << 20, preallocation, ..CreateOptions::default() };
    assert_eq!(ours(&mapped), too_large);
}
