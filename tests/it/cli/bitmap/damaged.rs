//! Images whose bitmap directory breaks the rules: refused as QEMU refuses them, and left as they are.

use super::{shell, tidemark};
use crate::cli::images::{bitmap_directory, number};
use crate::cli::process::{Place, TIDEMARK};

/// Bytes of an entry before its name.
const NAME: u64 = 24;

/// Where what is damaged begins: in the extension of the header, in the first entry of the directory, in its table.
#[derive(Clone, Copy)]
enum Base {
    Extension,
    Entry,
    Table,
}

/// What is written where.
const DAMAGES: &[(&str, Base, u64, &[u8])] = &[
    ("no bitmaps", Base::Extension, 0, &[0, 0, 0, 0]),
    ("one bitmap less than there are", Base::Extension, 3, &[1]),
    ("one bitmap more than there are", Base::Extension, 3, &[3]),
    ("more bitmaps than there can be", Base::Extension, 0, &[0, 1, 0, 0]),
    ("a reserved field", Base::Extension, 4, &[0, 0, 0, 1]),
    ("no directory", Base::Extension, 8, &[0; 8]),
    ("a directory that ends in an entry", Base::Extension, 15, &[40]),
    ("a directory that is too large", Base::Extension, 8, &[0, 0, 0, 1, 0, 0, 0, 0]),
    ("a directory that is not aligned", Base::Extension, 23, &[1]),
    ("a directory behind the end of the file", Base::Extension, 18, &[1]),
    ("a table nowhere", Base::Entry, 0, &[0; 8]),
    ("a table that is not aligned", Base::Entry, 7, &[1]),
    ("a table behind the end of the file", Base::Entry, 2, &[1]),
    ("a table without entries", Base::Entry, 8, &[0; 4]),
    ("a table with too many entries", Base::Entry, 8, &[0x7f, 0xff, 0xff, 0xff]),
    ("a table of a disk of another size", Base::Entry, 11, &[9]),
    ("a reserved flag", Base::Entry, 12, &[0x80]),
    ("another type", Base::Entry, 16, &[2]),
    ("a fine granularity", Base::Entry, 17, &[8]),
    ("a coarse granularity", Base::Entry, 17, &[32]),
    ("no name", Base::Entry, 18, &[0, 0]),
    ("a long name", Base::Entry, 18, &[4, 0]),
    ("extra data", Base::Entry, 23, &[8]),
    ("the other bitmap's name", Base::Entry, NAME, b"two"),
    ("an entry of the table with reserved bits", Base::Table, 7, &[3]),
    ("an entry of the table that is not aligned", Base::Table, 6, &[2]),
    ("an entry of the table behind the end of the file", Base::Table, 1, &[0x10]),
];

/// What is said of a bitmap with a table that breaks the rules.
const TABLE: &str = "Could not read bitmap_table table from image for bitmap 'one': Invalid argument";

/// Where QEMU says something else or goes on, and what we say: what is outside of the file is believed by nobody here.
const OURS: &[(&str, &str)] = &[
    ("a directory behind the end of the file", "Broken bitmap directory"),
    ("a table behind the end of the file", "Bitmap 'one' doesn't satisfy the constraints"),
    ("no name", "Broken bitmap directory"),
    ("an entry of the table behind the end of the file", TABLE),
];

fn place() -> Place {
    let place = Place::new();
    shell(
        &place,
        "qemu-img create -q -f qcow2 image 10M; qemu-img bitmap --add image one; qemu-img bitmap --add image two
         qemu-io -f qcow2 -c 'write 1M 1M' image",
    );
    place
}

/// What went wrong, without where.
fn said(output: &std::process::Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().last().unwrap_or_default().split_once("'image': ").unwrap_or_default().1.to_owned()
}

#[test]
fn directories_that_break_the_rules_are_refused_and_nothing_changes() {
    let place = place();
    let sound = std::fs::read(place.file("image")).unwrap();
    let directory = bitmap_directory(&sound);
    let extension = (104..65536).step_by(8).find(|at| number(&sound, *at, 4) == 0x2385_2875).unwrap() + 8;
    let table = number(&sound, directory, 8);
    let mut wrong = Vec::new();
    for (what, base, at, bytes) in DAMAGES {
        let base = match base {
            Base::Extension => extension,
            Base::Entry => directory,
            Base::Table => table,
        };
        let mut damaged = sound.clone();
        let at = usize::try_from(base + at).unwrap();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(place.file("image"), &damaged).unwrap();
        for command in [&["add", "image", "x"][..], &["remove", "image", "one"], &["list", "image"]] {
            let output = place.run(TIDEMARK, &[&["bitmap"], command].concat());
            if output.status.code() != Some(1) || !output.stdout.is_empty() {
                wrong.push(format!("{what}: {command:?}: {output:?}"));
            }
            if std::fs::read(place.file("image")).unwrap() != damaged {
                wrong.push(format!("{what}: {command:?} has changed the image"));
            }
        }
        let ours = place.run(TIDEMARK, &["bitmap", "clear", "image", "one"]);
        if let Some((_, expected)) = OURS.iter().find(|(other, _)| other == what) {
            assert!(said(&ours).starts_with(expected), "{what}: {ours:?}");
            continue;
        }
        let qemu = place.run("qemu-img", &["bitmap", "--clear", "image", "one"]);
        if qemu.status.success() || said(&ours) != said(&qemu) {
            wrong.push(format!("{what}\nQEMU: {qemu:?}\nours: {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn bitmaps_that_another_program_did_not_know_of_are_gone_and_a_new_one_can_be_added() {
    let place = place();
    // The bit that says that they are right, as a program clears it that writes without them.
    shell(&place, "printf '\\000' | dd of=image bs=1 seek=95 conv=notrunc status=none");
    let output = place.run(TIDEMARK, &["bitmap", "list", "image"]);
    assert_eq!(output.stdout, b"The image has no bitmaps.\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("a program lacking bitmap support modified this file"));
    tidemark(&place, &["bitmap", "add", "image", "new"]);
    let told = super::told_by_qemu(&place, "image");
    assert!(told.contains("\"name\": \"new\"") && !told.contains("one"), "{told}");
}
