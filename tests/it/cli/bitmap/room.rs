//! Storage that cannot take what is written: the bitmaps are what they were, and nothing else is claimed.

use super::{map, shell, tidemark, told_by_qemu};
use crate::cli::grown::Loop;
use crate::cli::process::{Place, TIDEMARK};

#[test]
fn without_room_for_it_a_bitmap_is_not_added_and_the_others_stay_as_they_were() {
    let place = Place::new();
    shell(
        &place,
        "qemu-img create -q -f qcow2 image 10M; qemu-img bitmap --add image daily
         qemu-io -f qcow2 -c 'write 1M 1M' image",
    );
    let (told, marked) = (told_by_qemu(&place, "image"), map(&place, "image", "daily"));
    // Room for the header and the counts, and for no cluster behind them.
    let limited = "trap '' XFSZ; ulimit -f 256; \"$@\"";
    for command in [&["add", "image", "x"][..], &["clear", "image", "daily"], &["merge", "image", "daily", "daily"]] {
        let arguments = [&["-c", limited, "bash", TIDEMARK, "bitmap"], command].concat();
        let output = place.run("bash", &arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("Could not store the bitmaps; those of the image are what they were: "), "{said}");
        assert!(said.contains("No space left on device"), "{said}");
        assert_eq!(told_by_qemu(&place, "image"), told, "{command:?}");
        assert_eq!(map(&place, "image", "daily"), marked, "{command:?}");
        shell(&place, "qemu-img check -q image");
    }
    tidemark(&place, &["bitmap", "add", "image", "x"]);
}

#[test]
fn bitmaps_of_an_image_that_cannot_be_written_to_can_be_listed_and_no_more() {
    let place = Place::new();
    shell(&place, "qemu-img create -q -f qcow2 disk 1M; qemu-img bitmap --add disk daily; truncate -s 1M disk");
    let device = Loop::attach(&place, &["-r"]);
    let said = place.refusal(&["bitmap", "clear", &device.0, "daily"]);
    let qemu = place.run("qemu-img", &["bitmap", "--clear", "-f", "qcow2", &device.0, "daily"]);
    let qemu = String::from_utf8(qemu.stderr).unwrap();
    assert_eq!(said.split_once(": "), Some(("tidemark", qemu.split_once(": ").unwrap().1)));
    assert!(tidemark(&place, &["bitmap", "list", &device.0]).contains("daily"));
}
