//! What is refused, in the words of `qemu-img` where it has some that help; nothing is there afterwards that was not.

use super::super::process::Place;
use super::{ours, qemu, qemu_img, tidemark};

/// Texts of QEMU, after the program's name.
const AS_QEMU: &[&[&str]] = &[
    &["create", "-f", "qcow2", "x"],
    &["create", "-f", "qcow2", "x", "1X"],
    &["create", "-f", "qcow2", "-o", "foo=1", "x", "1M"],
    &["create", "-f", "qcow2", "-o", "cluster_size=100", "x", "1M"],
    &["create", "-f", "qcow2", "-o", "refcount_bits=7", "x", "1M"],
    &["create", "-f", "qcow2", "-o", "preallocation=foo", "x", "1M"],
    &["create", "-f", "qcow2", "-o", "lazy_refcounts=on,compat=0.10", "x", "1M"],
    &["create", "-f", "qcow2", "-o", "size=2M", "x", "1M"],
    &["create", "-f", "qcow2", "-b", "none", "-F", "qcow2", "x", "1M"],
    &["create", "-f", "qcow2", "-F", "qcow2", "x", "1M"],
    &["create", "-f", "raw", "-b", "small", "-F", "qcow2", "x", "1M"],
    &["create", "-f", "qcow2", "nodir/x", "1M"],
    &["create", "-f", "raw", "nodir/x", "1M"],
    &["convert", "none", "x"],
    &["convert", "-f", "qcow2", "disk", "x"],
    &["convert", "-O", "qcow2", "disk", "nodir/x"],
    &["convert", "-O", "qcow2", "-o", "cluster_size=3", "disk", "x"],
    &["convert", "-n", "disk", "small.raw"],
    &["convert", "-n", "disk", "none"],
    &["convert", "-n", "-o", "size=1M", "disk", "small.raw"],
    &["convert", "--bitmaps", "small", "x"],
    &["convert", "-O", "qcow2", "small", "small"],
    &["convert", "-O", "qcow2", "-B", "small", "-F", "qcow2", "small", "small", "x"],
    &["convert", "-l", "s", "small", "small", "x"],
    &["convert", "-l", "nope", "small", "x"],
    &["convert", "--bitmaps", "-O", "qcow2", "small", "small", "x"],
    &["convert", "-C", "-S", "4k", "disk", "x"],
    &["convert", "-C", "-c", "-O", "qcow2", "disk", "x"],
    &["convert", "-C", "--salvage", "disk", "x"],
    &["convert", "-n", "disk", "disk", "small.raw"],
    &["resize", "none", "1M"],
    &["resize", "small", "1000"],
    &["resize", "--preallocation=full", "--shrink", "small", "64k"],
    &["rebase", "-b", "none", "-F", "qcow2", "small"],
    &["rebase", "-u", "-b", "none", "small"],
    &["rebase", "-u", "-b", "none", "-F", "foo", "small"],
    &["commit", "small"],
    &["commit", "-b", "none", "above"],
    &["map", "none"],
    &["map", "-f", "qcow2", "disk"],
    &["measure"],
    &["measure", "--size", "1G", "small"],
    &["measure", "-O", "qcow2", "-o", "cluster_size=512", "--size", "100T"],
];

/// A raw disk `disk` of 1 MiB, smaller images, and one above them.
fn place() -> Place {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "small", "512k"]);
    qemu_img(&place, &["create", "-q", "-f", "raw", "small.raw", "512k"]);
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "-b", "small", "-F", "qcow2", "above"]);
    place
}

/// Names and bytes of all files.
fn files(place: &Place) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap());
    let read = |entry: std::fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap_or_default())
    };
    let mut files: Vec<_> = entries.map(read).collect();
    files.sort();
    files
}

#[test]
fn refusals_have_the_words_of_qemu_img_and_leave_nothing() {
    let place = place();
    let before = files(&place);
    let mut wrong = Vec::new();
    for way in AS_QEMU {
        let told = ours(&place, way);
        if told.status != 1 || files(&place) != before {
            wrong.push(format!("{way:?} has done something: {told:?}"));
        }
        let theirs = qemu(&self::place(), way);
        let text = |err: &str, program: &str| err.replace(&format!("{program}: "), "").trim().to_owned();
        if text(&told.err, "tidemark") != text(&theirs.err, "qemu-img") {
            wrong.push(format!("{way:?}\nQEMU: {}ours: {}", theirs.err, told.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_we_refuse_in_words_of_our_own_says_what_to_do() {
    let place = place();
    std::fs::create_dir(place.file("elsewhere")).unwrap();
    std::fs::rename(place.file("small"), place.file("elsewhere/small")).unwrap();
    qemu_img(&place, &["create", "-q", "-u", "-f", "qcow2", "-b", "small", "-F", "qcow2", "above", "1M"]);
    qemu_img(&place, &["create", "-q", "-u", "-f", "qcow2", "-b", "../disk", "-F", "raw", "elsewhere/far", "1M"]);
    for (way, text) in [
        (&["create", "-f", "qcow2", "-b", "disk", "x", "1M"][..], "say it with -F raw or -F qcow2"),
        (&["create", "-f", "qcow2", "-o", "encrypt.format=luks", "x", "1M"], "use qemu-img"),
        (&["convert", "-S", "100", "disk", "x"], "Valid sizes are multiples of 512 up to 16777216"),
        (&["convert", "-m", "17", "disk", "x"], "17 is not in 1..=16"),
        (&["convert", "elsewhere/far", "x"], "allow its directory with --backing-dir"),
        (&["convert", "above", "x"], "Could not open backing file: Could not open"),
        (&["resize", "disk", "512k"], "Use the --shrink option to perform a shrink operation."),
        (&["resize", "disk", "--", "-8G"], "New image size must be positive"),
        (&["rebase", "above"], "Must specify backing file (-b) or use unsafe mode (-u)"),
        (&["rebase", "-u", "-b", "above", "-F", "qcow2", "above"], "creates an infinite loop"),
    ] {
        let told = ours(&place, way);
        assert_eq!((told.status, told.out.as_str()), (1, ""), "{way:?}");
        assert!(told.err.contains(text), "{way:?}: {}", told.err);
        assert!(!place.file("x").exists(), "{way:?}");
    }
    // As it says.
    let place_dir = place.path().to_str().unwrap();
    tidemark(&place, &["convert", "--backing-dir", place_dir, "elsewhere/far", "x"]);
    tidemark(&place, &["rebase", "-u", "-b", "elsewhere/small", "-F", "qcow2", "above"]);
    tidemark(&place, &["convert", "above", "x"]);
}

#[test]
fn an_image_is_not_made_above_a_name_that_opening_it_refuses() {
    let place = place();
    for name in
        ["file:disk", "disk:1", "nbd:localhost:1", "json:{}", "json:{\"driver\":\"file\",\"filename\":\"disk\"}"]
    {
        // Also where there is such a file.
        if !name.contains('/') {
            std::fs::copy(place.file("disk"), place.file(name)).unwrap();
        }
        let create = ["-f", "qcow2", "-b", name, "-F", "raw", "x", "1M"];
        let created = ours(&place, &[&["create"], &create[..]].concat());
        let converted = ours(&place, &["convert", "-O", "qcow2", "-B", name, "-F", "raw", "disk", "x"]);
        assert!(!place.file("x").exists(), "{name}");
        tidemark(&place, &[&["create", "-u"], &create[..]].concat());
        let opened = ours(&place, &["convert", "x", "y"]);
        tidemark(&place, &["create", "-q", "-f", "qcow2", "x", "1M"]);
        let before = std::fs::read(place.file("x")).unwrap();
        let rebased = ours(&place, &["rebase", "-f", "qcow2", "-b", name, "-F", "raw", "x"]);
        assert!(std::fs::read(place.file("x")).unwrap() == before, "{name}");
        std::fs::remove_file(place.file("x")).unwrap();
        let text = format!("The header of 'x' names '{name}', which is no path; only files are opened for a header");
        for told in [created, converted, opened, rebased] {
            assert!(told.status == 1 && told.err.contains(&text), "{name}: {told:?}");
        }
    }
}
