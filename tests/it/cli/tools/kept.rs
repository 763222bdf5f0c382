//! What others rely on after a tool has run: sources and images below are as they were, bitmaps mark what was written,
//! and have the size of the disk.

use super::{Place, content, ours, qemu, qemu_img, succeed, tidemark};
use crate::cli::small;

fn shell(place: &Place, script: &str) -> String {
    succeed(place, "bash", &["-ec", script]).out
}

/// The same is done by both programs to images made by one script, and then shown by another, which says the same.
fn agree(make: &str, arguments: &[&str], show: &str) -> String {
    let told = [tidemark as fn(&Place, &[&str]) -> _, qemu_img].map(|program| {
        let place = Place::new();
        shell(&place, make);
        program(&place, arguments);
        shell(&place, show)
    });
    assert_eq!(told[0], told[1], "{arguments:?}");
    told[0].clone()
}

/// What the bitmaps of `base` are, as `qemu-img` hands them out, and what lies beside it.
const BITMAPS: &str = "qemu-nbd --fork --pid-file=pid -r -k \"$PWD/nbd\" -B bm -f qcow2 base; pid=$(cat pid)
    qemu-img map --output json --image-opts driver=nbd,server.type=unix,server.path=nbd,x-dirty-bitmap=qemu:dirty-bitmap:bm
    kill -9 $pid || :; while [ -e /proc/$pid/exe ]; do sleep 0.01; done; rm -f nbd pid; ls";
/// A disk with a bitmap, and an image over it with 128 KiB of its own.
const OVER: &str = "qemu-img create -q -f qcow2 base 4M; qemu-img bitmap --add base bm
    qemu-img create -q -f qcow2 -b base -F qcow2 over 4M; qemu-io -c 'write -q -P 7 1M 128k' over";

#[test]
fn bitmaps_mark_what_a_commit_or_a_conversion_writes() {
    assert!(agree(OVER, &["commit", "-q", "over"], BITMAPS).contains("\"start\": 1048576, \"length\": 131072"));
    agree(OVER, &["commit", "-q", "-b", "base", "over"], BITMAPS);
    let plain = format!("{OVER}; qemu-img convert -O raw over raw");
    agree(&plain, &["convert", "-n", "-f", "raw", "-O", "qcow2", "raw", "base"], BITMAPS);
}

#[test]
fn bitmaps_follow_a_disk_that_is_resized() {
    for arguments in [&["resize", "-q", "base", "6M"][..], &["resize", "-q", "--shrink", "base", "2M"]] {
        agree(&format!("{OVER}; qemu-io -c 'write -q 1M 64k' base"), arguments, BITMAPS);
    }
    let longer = OVER.replace("over 4M", "over 6M") + "; qemu-io -c 'write -q -P 8 5M 64k' over";
    agree(&longer, &["commit", "-q", "over"], BITMAPS);
}

#[test]
fn a_source_is_not_converted_onto_what_it_is_made_of() {
    let place = Place::new();
    shell(
        &place,
        "truncate -s 1M raw; qemu-io -f raw -c 'write -q -P 2 0 64k' raw; ln raw link
         qemu-img create -q -f qcow2 -b raw -F raw over; sha256sum raw >sum",
    );
    for arguments in [
        ["convert", "-f", "raw", "-O", "raw", "raw", "raw"],
        ["convert", "-f", "raw", "-O", "qcow2", "raw", "link"],
        ["convert", "-f", "qcow2", "-O", "raw", "over", "raw"],
    ] {
        let (found, expected) = (ours(&place, &arguments), qemu(&place, &arguments));
        assert_eq!((found.status, found.err), (1, expected.err.replace("qemu-img:", "tidemark:")), "{arguments:?}");
        shell(&place, "sha256sum -c --quiet sum");
    }
}

#[test]
fn what_somebody_writes_to_is_not_converted_unless_that_is_asked_for() {
    let place = Place::new();
    shell(&place, "truncate -s 1M raw; qemu-img create -q -f qcow2 -b raw -F raw over");
    let convert = |more: &str| {
        let script = format!(
            "mkfifo pipe; exec 3<>pipe; qemu-io -f raw raw <&3 >told & until grep -q . told 2>/dev/null; do
             echo 'read 0 512' >&3; sleep 0.05; done
             \"$0\" convert {more} -f qcow2 -O raw over copy 2>&1; echo $?; echo quit >&3; wait; rm pipe told"
        );
        succeed(&place, "bash", &["-c", &script, crate::cli::process::TIDEMARK]).out
    };
    let refused = convert("");
    assert!(refused.contains("Failed to get shared \"write\" lock") && refused.ends_with("1\n"), "{refused}");
    assert_eq!(convert("-U"), "0\n");
}

#[test]
fn what_an_image_shows_over_another_base_is_what_it_showed() {
    let place = Place::new();
    shell(
        &place,
        "qemu-io -f raw -c 'write -q -P 1 0 1M' $(truncate -s 1M base; echo base); truncate -s 64k short
         qemu-img create -q -f qcow2 flat 1M; qemu-io -c 'write -q -P 2 0 64k' flat
         qemu-img create -q -f qcow2 -b short -F raw long 1M; qemu-io -c 'write -q -P 3 512k 64k' long
         qemu-io -f raw -c 'write -q -P 1 0 64k' short",
    );
    for source in ["flat", "long"] {
        tidemark(&place, &["convert", "-q", "-O", "qcow2", "-B", "base", "-F", "raw", source, "copy"]);
        assert!(content(&place, "copy", "qcow2") == content(&place, source, "qcow2"), "{source}");
    }
}

#[test]
fn a_disk_that_gets_no_room_for_more_is_as_long_as_before() {
    let place = Place::new();
    let keeper = small::mount(&place);
    let image = small::inside(&keeper, &place).join("image").display().to_string();
    for space in ["full", "falloc"] {
        qemu_img(&place, &["create", "-q", "-f", "raw", &image, "1M"]);
        let told = ours(&place, &["resize", "-f", "raw", "--preallocation", space, &image, "64M"]);
        assert_eq!(told.status, 1, "{told:?}");
        assert!(told.err.contains("the disk is as long as it was"), "{told:?}");
        assert_eq!(std::fs::metadata(&image).unwrap().len(), 1 << 20);
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn a_target_that_is_there_keeps_what_it_is_above_and_gets_what_the_source_has() {
    let over = format!("{OVER}; cp base other; truncate -s 4M raw; qemu-io -f raw -c 'write -q -P 3 3M 64k' raw");
    let show = "qemu-img info t | grep -i backing || :; qemu-img map t | awk '{ print $1, $2, $NF }'
        qemu-img convert t bytes; sha256sum bytes";
    for below in ["", "-b other -F qcow2"] {
        for written in ["", "; qemu-io -c 'write -q -P 8 1M 256k' t"] {
            let make = format!("{over}; qemu-img create -q -f qcow2 {below} t 4M{written}");
            for source in ["over", "raw"] {
                for above in [&["-B", "base", "-F", "qcow2"][..], &["-B", "nowhere"], &["-F", "raw"]] {
                    agree(&make, &[&["convert", "-n", "-O", "qcow2"], above, &[source, "t"]].concat(), show);
                }
            }
        }
    }
    agree(&over, &["convert", "-n", "-B", "nowhere", "-O", "raw", "over", "raw"], "sha256sum raw");
}
