//! `tidemark check --repair` beside `qemu-img check -r`: what is damaged by hand is whole afterwards, for both.

use super::super::images::{ALL, Images, number};
use super::NEEDS_NO_BACKING;
use qmp_lite::wire;

/// Bytes of a cluster of the image `full`.
const CLUSTER: usize = 65536;

/// Images with bitmaps and snapshots: opening them to be repaired, QEMU 10.0 writes a header without snapshots, and then
/// frees what these had. Ours keeps them.
const FORGOTTEN: [&str; 5] = ["full", "dirty", "corrupt", "inuse", "stale"];

/// The image `full` with some of its counts changed.
fn damaged(sound: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut content = sound.to_vec();
    let table = number(sound, 48, 8);
    let block = usize::try_from(number(sound, table, 8)).unwrap();
    for _ in 0..random.usize(1..6) {
        let cluster = random.usize(1..sound.len() / CLUSTER + 3);
        let count = &mut content[block + 2 * cluster + 1];
        *count = match random.u8(..3) {
            0 => count.wrapping_sub(1) % 4,
            _ => (*count + random.u8(1..3)).min(3),
        };
    }
    content
}

/// What there is of a kind, by what an image tells as JSON.
fn told(json: &str, member: &str) -> u64 {
    wire::parse(json).ok().and_then(|value| value[member].as_u64()).unwrap_or_default()
}

#[test]
fn damaged_counts_are_repaired_and_the_disk_stays() {
    let images = Images::new();
    let sound = images.content("full");
    let mut random = fastrand::Rng::with_seed(7);
    let mut repaired = (0, 0);
    for round in 0..24 {
        let content = damaged(&sound, &mut random);
        std::fs::write(images.path("ours"), &content).unwrap();
        std::fs::write(images.path("theirs"), &content).unwrap();
        let before = images.qemu_img(&["check", "--output", "json", "ours"]);
        let ours = images.tidemark(&["check", "--repair", "all", "--output", "json", "ours"]);
        let theirs = images.qemu_img(&["check", "-r", "all", "--output", "json", "theirs"]);
        assert_eq!((ours.status, theirs.status), (0, 0), "{round}: {ours:?} {theirs:?}");
        let fixed = |json: &str| (told(json, "leaks-fixed") > 0, told(json, "corruptions-fixed") > 0);
        assert_eq!(
            fixed(&ours.out),
            (told(&before.out, "leaks") > 0, told(&before.out, "corruptions") > 0),
            "{ours:?}"
        );
        // Each finds what the other has done as sound as its own.
        for way in [&["check", "-q", "ours"][..], &["check", "-q", "theirs"]] {
            let (ours, theirs) = (images.tidemark(way), images.qemu_img(way));
            assert_eq!((ours.status, theirs.status), (0, 0), "{round}: {way:?}: {ours:?} {theirs:?}");
        }
        images.shell("qemu-img compare -q full ours; diff <(qemu-img snapshot -l full) <(qemu-img snapshot -l ours)");
        repaired.0 += told(&ours.out, "leaks-fixed");
        repaired.1 += told(&ours.out, "corruptions-fixed");
    }
    assert!(repaired.0 > 5 && repaired.1 > 5, "{repaired:?} leaks and corruptions");
}

#[test]
fn leaks_alone_are_freed_and_what_is_corrupt_is_still_told() {
    let images = Images::new();
    let sound = images.content("full");
    let mut random = fastrand::Rng::with_seed(8);
    let (mut clean, mut corrupt) = (0, 0);
    for round in 0..24 {
        std::fs::write(images.path("ours"), damaged(&sound, &mut random)).unwrap();
        let ours = images.tidemark(&["check", "-r", "leaks", "--output", "json", "ours"]);
        let left = images.qemu_img(&["check", "--output", "json", "ours"]);
        assert_eq!(ours.status, left.status, "{round}: {ours:?} {left:?}");
        assert!([0, 2].contains(&ours.status) && told(&left.out, "leaks") == 0, "{round}: {ours:?} {left:?}");
        assert_eq!(told(&ours.out, "corruptions"), told(&left.out, "corruptions"), "{round}");
        clean += u32::from(ours.status == 0);
        corrupt += u32::from(ours.status == 2);
    }
    assert!(clean > 0 && corrupt > 0, "{clean} {corrupt}");
}

#[test]
fn images_of_every_kind_are_told_to_be_repaired_as_by_qemu_img_and_sound_ones_stay_as_they_are() {
    let images = Images::new();
    let mut wrong = Vec::new();
    let files = ALL.iter().filter(|name| images.path(name).is_file() && !NEEDS_NO_BACKING.contains(name));
    for name in files {
        let content = images.content(name);
        let sound = images.tidemark(&["check", "-q", name]).status == 0;
        let ours = images.tidemark(&["check", "-r", "all", name]);
        let after = images.content(name);
        let snapshots = images.qemu_img(&["snapshot", "-l", name]).out;
        std::fs::write(images.path(name), &content).unwrap();
        assert_eq!(snapshots, images.qemu_img(&["snapshot", "-l", name]).out, "{name}");
        let theirs = images.qemu_img(&["check", "-r", "all", name]);
        std::fs::write(images.path(name), &content).unwrap();
        // Of raw images QEMU says more than that there is nothing to check.
        let same = if ours.status == 63 || FORGOTTEN.contains(name) {
            ours.status == theirs.status
        } else {
            ours.same(&theirs)
        };
        if !same {
            wrong.push(format!("{name}\nQEMU: {theirs:?}\nours: {ours:?}"));
        }
        // Dirty, or corrupt.
        let marked = content.len() > 80 && number(&content, 72, 8) & 3 != 0;
        if sound && !marked && after != content {
            wrong.push(format!("{name} is sound and has changed"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_leads_past_the_end_of_a_file_that_is_cut_off_stays_as_it_is() {
    let images = Images::new();
    images.shell(
        "qemu-img create -q -f qcow2 -o cluster_size=4k whole 64M
         qemu-io -f qcow2 -c 'write -q -P 1 0 1M' -c 'write -q -P 2 20M 300k' -c 'write -q -P 3 40M 200k' whole",
    );
    let whole = images.content("whole");
    let block = usize::try_from(number(&whole, number(&whole, 48, 8), 8)).unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..12 {
        let mut content = whole.clone();
        content.truncate(random.usize(60_000..whole.len()));
        // Something is leaked, or counted too low, all the same.
        content[block + 2 * random.usize(7..14) + 1] += random.u8(0..3);
        for what in ["leaks", "all"] {
            let [ours, theirs] = ["ours", "theirs"].map(|name| {
                std::fs::write(images.path(name), &content).unwrap();
                let way = ["check", "-r", what, "--output", "json", name];
                let repaired = if name == "ours" { images.tidemark(&way) } else { images.qemu_img(&way) };
                let counts = ["corruptions", "leaks", "leaks-fixed"];
                let counts = counts.map(|member| told(&repaired.out, member));
                let left = images.qemu_img(&["check", "--output", "json", name]);
                let left = (left.status, told(&left.out, "corruptions"), told(&left.out, "leaks"));
                (repaired.status, counts, left, images.content(name))
            });
            assert_eq!((ours.0, ours.1, ours.2), (theirs.0, theirs.1, theirs.2), "{round}, {what}: {}", content.len());
            assert!(ours.3 == theirs.3, "{round}, {what}: {}", content.len());
        }
    }
}
