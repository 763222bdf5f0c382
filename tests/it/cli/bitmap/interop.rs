//! The same done to two copies of an image, by QEMU and by us: the bitmaps are the same after each step, in what both
//! programs say of them and in each bit.

use super::{map, shell, tidemark, told_by_qemu};
use crate::cli::process::{Place, TIMEOUT};
use qmp_lite::wire;

/// What is done: to our image, and to QEMU's.
enum Step {
    /// `tidemark bitmap OURS`, `qemu-img bitmap QEMUS`; `@` is the image.
    Bitmap(&'static str, &'static str),
    /// To both.
    Both(&'static str),
}

use Step::{Bitmap, Both};

const STEPS: &[Step] = &[
    Bitmap("add @ first", "--add @ first"),
    Bitmap("add @ coarse -g 1M --disabled", "--add --disable -g 1M @ coarse"),
    Bitmap("add @ 'a name of words' --granularity 512", "--add -g 512 @ 'a name of words'"),
    Both("qemu-io -f qcow2 -c 'write 1M 3M' -c 'write 5000k 64k' -c 'write 9999872 512' @"),
    Bitmap("merge @ coarse first", "--merge first @ coarse"),
    Bitmap("disable @ first", "--disable @ first"),
    Both("qemu-io -f qcow2 -c 'write 6M 100k' @"),
    Bitmap("enable @ first", "--enable @ first"),
    Bitmap("merge @ first coarse 'a name of words'", "--merge coarse --merge 'a name of words' @ first"),
    Bitmap("clear @ 'a name of words'", "--clear @ 'a name of words'"),
    Bitmap(
        "merge @ 'a name of words' theirs -b other -F qcow2",
        "--merge theirs -b other -F qcow2 @ 'a name of words'",
    ),
    Bitmap("merge @ first first", "--merge first @ first"),
    Bitmap("remove @ coarse", "--remove @ coarse"),
    // As a crash would leave it.
    Both("qemu-io -f qcow2 -c abort @ || :"),
    Bitmap("remove @ first", "--remove @ first"),
    Bitmap("remove @ 'a name of words'", "--remove @ 'a name of words'"),
    Bitmap("add @ again", "--add @ again"),
];

#[test]
fn an_image_has_the_bitmaps_that_qemu_img_would_have_given_it() {
    for cluster in ["64k", "512"] {
        let place = Place::new();
        let make = format!(
            "for image in ours qemus other; do qemu-img create -q -f qcow2 -o cluster_size={cluster} $image 10000384; done
             qemu-img bitmap --add other theirs; qemu-io -f qcow2 -c 'write 300k 2M' other"
        );
        shell(&place, &make);
        for step in STEPS {
            let of = |line: &str, image: &str| line.replace('@', image);
            let (ours, qemus) = match step {
                Bitmap(ours, qemus) => (
                    format!("{} bitmap {}", program(), of(ours, "ours")),
                    format!("qemu-img bitmap {}", of(qemus, "qemus")),
                ),
                Both(line) => (of(line, "ours"), of(line, "qemus")),
            };
            shell(&place, &ours);
            shell(&place, &qemus);
            compare(&place, &ours);
        }
    }
}

fn program() -> &'static str {
    crate::cli::process::TIDEMARK
}

/// Both images have the same bitmaps, and nothing is wrong with them.
fn compare(place: &Place, step: &str) {
    let told = told_by_qemu(place, "qemus");
    assert_eq!(told_by_qemu(place, "ours"), told, "{step}");
    shell(place, "qemu-img check -q ours");
    let lists = ["ours", "qemus"].map(|image| tidemark(place, &["bitmap", "list", image, "--output", "json"]));
    assert_eq!(lists[0], lists[1], "{step}");
    for bitmap in wire::parse(&lists[0]).unwrap().as_array().unwrap() {
        let name = bitmap["name"].as_str().unwrap();
        if bitmap.get("inconsistent").is_none() {
            assert_eq!(map(place, "ours", name), map(place, "qemus", name), "{step}: {name}");
        }
    }
}

#[test]
fn flags_have_the_names_that_qmp_has_for_them() {
    let place = Place::new();
    shell(
        &place,
        "qemu-img create -q -f qcow2 image 1M; qemu-img bitmap --add image old; qemu-img bitmap --add image lost
         qemu-io -f qcow2 -c 'write 0 100k' image",
    );
    let before = tidemark(&place, &["bitmap", "disable", "image", "old", "--output", "json"]);
    assert!(before.contains("\"recording\": false"), "{before}");
    let directory = super::super::images::bitmap_directory(&std::fs::read(place.file("image")).unwrap());
    // The second entry is behind 24 bytes and a name of three, padded.
    shell(&place, &format!("printf '\\003' | dd of=image bs=1 seek={} conv=notrunc status=none", directory + 32 + 15));
    let list = tidemark(&place, &["bitmap", "list", "image"]);
    assert_eq!(
        list,
        "NAME  GRANULARITY    DIRTY  FLAGS\nold        64 KiB  128 KiB\nlost       64 KiB  unknown  inconsistent\n"
    );
    tidemark(&place, &["bitmap", "enable", "image", "old"]);
    let list = tidemark(&place, &["bitmap", "list", "image"]);
    assert!(list.contains("old        64 KiB  128 KiB  recording\n"), "{list}");
}

#[test]
fn a_daemon_of_qemus_records_in_a_bitmap_that_was_added_here() {
    let place = Place::new();
    shell(&place, "qemu-img create -q -f qcow2 image 10M");
    tidemark(&place, &["bitmap", "add", "image", "daily"]);
    let seconds = TIMEOUT.as_secs();
    shell(
        &place,
        &format!(
            "timeout {seconds} qemu-storage-daemon --daemonize --pidfile pid \
               --blockdev driver=file,node-name=f,filename=image --blockdev driver=qcow2,node-name=n,file=f \
               --nbd-server addr.type=unix,addr.path=$PWD/sock \
               --export nbd,id=e,node-name=n,writable=on
             qemu-io -f raw -c 'write 2M 128k' 'nbd+unix:///n?socket=sock'
             kill $(cat pid); while [ -e pid ]; do sleep 0.05; done"
        ),
    );
    let list = tidemark(&place, &["bitmap", "list", "image"]);
    assert!(list.contains("daily       64 KiB  128 KiB  recording\n"), "{list}");
}
