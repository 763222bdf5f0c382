//! `tidemark info` beside `qemu-img info`: the same of every image, as text and as JSON, but for what is named here.

use super::images::{ALL, Images, Told, bitmap_directory, number};

/// Every way to ask that both have.
const WAYS: [&[&str]; 4] = [
    &["info"],
    &["info", "--output", "json"],
    &["info", "--backing-chain"],
    &["info", "--backing-chain", "--output", "json"],
];

/// Where we differ, and why.
const DIFFERENCES: [(&str, &[usize], &str); 5] = [
    ("elsewhere", &[2, 3], "a header does not lead out of the image's directory unless the operator lets it"),
    ("unsaid", &[2, 3], "what a header does not say the format of is not looked at to find out"),
    ("remote", &[2, 3], "a header leads to files only"),
    ("described", &[2, 3], "a header leads to files only"),
    ("control", &[0, 2], "characters that steer a terminal are not printed"),
];

#[test]
fn what_is_told_of_an_image_is_what_qemu_img_tells() {
    let images = Images::new();
    let mut wrong = Vec::new();
    for name in ALL {
        let expected_to_differ =
            DIFFERENCES.iter().find(|(image, ..)| image == name).map_or(&[][..], |(_, ways, _)| ways);
        for (number, way) in WAYS.iter().enumerate() {
            let arguments = [way, &[*name][..]].concat();
            let (ours, qemu) = (images.tidemark(&arguments), images.qemu_img(&arguments));
            let differs = !ours.same(&qemu);
            if differs != expected_to_differ.contains(&number) {
                wrong.push(format!("{arguments:?}\nQEMU: {qemu:?}\nours: {ours:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn formats_that_are_said_are_believed_as_by_qemu_img() {
    let images = Images::new();
    for (format, name) in [("raw", "top"), ("qcow2", "top"), ("qcow2", "base"), ("raw", "tiny"), ("qcow2", "tiny")] {
        for way in WAYS {
            let arguments = [way, &["-f", format, name][..]].concat();
            let (ours, qemu) = (images.tidemark(&arguments), images.qemu_img(&arguments));
            assert!(ours.same(&qemu), "{arguments:?}\nQEMU: {qemu:?}\nours: {ours:?}");
        }
    }
}

#[test]
fn sizes_are_rounded_as_by_qemu_img() {
    let images = Images::new();
    for size in [512u64, 1023 << 10, 1024 << 10, (999 << 10) + 512, 1_023_488, 1_024_000, 102_349 << 10, 3 << 40] {
        std::fs::File::create(images.path("sized")).unwrap().set_len(size).unwrap();
        let (ours, qemu) = (images.tidemark(&["info", "sized"]), images.qemu_img(&["info", "sized"]));
        assert!(ours.same(&qemu), "{size}\nQEMU: {qemu:?}\nours: {ours:?}");
    }
}

#[test]
fn names_out_of_an_image_do_not_steer_the_terminal() {
    let images = Images::new();
    let text = images.tidemark(&["info", "control"]).out;
    assert!(text.contains("two?lines?[31m"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn where_headers_may_not_lead_is_said_with_the_way_out() {
    let images = Images::new();
    let chain = |name| images.tidemark(&["info", "--backing-chain", name]);
    for (name, text) in [
        (
            "elsewhere",
            "which is outside of the image's directory: name a node for it, or allow its directory with --backing-dir",
        ),
        ("unsaid", "does not say which format it has: say it with `tidemark rebase -u -b 'base' -F FORMAT 'unsaid'`"),
        ("remote", "which is no path; only files are opened for a header"),
        ("described", "which is no path; only files are opened for a header"),
    ] {
        let told = chain(name);
        assert_eq!((told.status, told.out.as_str()), (1, ""), "{name}");
        assert!(told.err.contains(text), "{name}: {}", told.err);
    }
    let qemu = images.qemu_img(&["info", "--backing-chain", "elsewhere"]);
    let ours = images.tidemark(&["info", "--backing-chain", "--backing-dir", "../elsewhere", "elsewhere"]);
    assert!(ours.same(&qemu), "QEMU: {qemu:?}\nours: {ours:?}");
}

/// Text that is none is replaced in pieces of other lengths by QEMU.
fn lenient(told: &Told) -> Told {
    let mut out = told.out.clone();
    while out.contains("\\uFFFD\\uFFFD") {
        out = out.replace("\\uFFFD\\uFFFD", "\\uFFFD");
    }
    Told { out, ..told.clone() }
}

#[test]
fn what_is_broken_is_told_as_by_qemu_img_or_refused() {
    let images = Images::new();
    let sound = images.content("full");
    let (snapshots, directory) = (number(&sound, 64, 8), bitmap_directory(&sound));
    let described = (0..400).chain(snapshots..snapshots + 160).chain(directory..directory + 96);
    let spots: Vec<u64> = described.collect();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut same, mut both_refuse) = (0, 0);
    let mut wrong = Vec::new();
    for _ in 0..150 {
        let at = spots[random.usize(..spots.len())];
        std::fs::write(images.path("broken"), &sound).unwrap();
        images.patch("broken", at, &[random.u8(..)]);
        let arguments = ["info", "--output", "json", "broken"];
        let (ours, qemu) = (images.tidemark(&arguments), images.qemu_img(&arguments));
        assert!(ours.status == 0 || (ours.status == 1 && ours.out.is_empty()), "{at}: {ours:?}");
        match (qemu.status, ours.status) {
            (0, 0) if lenient(&ours).same(&lenient(&qemu)) => same += 1,
            (1, 1) => both_refuse += 1,
            // We look where tables are, QEMU looks into bitmaps and unknown extensions; either may refuse more.
            (0, 1) | (1, 0) => {}
            _ => wrong.push(format!("byte {at:#x}\nQEMU: {qemu:?}\nours: {ours:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(same > 50 && both_refuse > 10, "{same} told, {both_refuse} refused by both");
}
