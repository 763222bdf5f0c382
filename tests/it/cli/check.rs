//! `tidemark check` beside `qemu-img check`: exit status, text, counts and every complaint, of sound and broken images.

mod repair;

use super::images::{ALL, Images, Told, bitmap_directory, number};
use super::process::{QEMU, Running, TIDEMARK};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::process::Command;

/// Bits 9 to 55 of an entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Where we differ, and why: an image is checked by itself, where QEMU opens those below, and in circles until it
/// crashes.
const NEEDS_NO_BACKING: [&str; 4] = ["missing", "remote", "described", "round"];

/// What was told, with complaints in an order of ours.
fn sorted(told: &Told) -> Told {
    let lines: BTreeSet<&str> = told.err.lines().collect();
    Told { err: lines.into_iter().collect::<Vec<_>>().join("\n"), ..told.clone() }
}

#[test]
fn what_a_check_finds_is_what_qemu_img_finds() {
    let images = Images::new();
    let mut wrong = Vec::new();
    for name in ALL.iter().filter(|name| !NEEDS_NO_BACKING.contains(name)) {
        for way in [&["check"][..], &["check", "--output", "json"], &["check", "-q"], &["check", "-f", "qcow2"]] {
            let arguments = [way, &[*name][..]].concat();
            let (ours, qemu) = (images.tidemark(&arguments), images.qemu_img(&arguments));
            if !sorted(&ours).same(&sorted(&qemu)) {
                wrong.push(format!("{arguments:?}\nQEMU: {qemu:?}\nours: {ours:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn an_image_is_checked_without_those_below_it() {
    let images = Images::new();
    for name in NEEDS_NO_BACKING {
        let told = images.tidemark(&["check", name]);
        assert_eq!((told.status, told.err.as_str()), (0, ""), "{name}");
        assert!(told.out.starts_with("No errors were found on the image.\n"), "{name}: {}", told.out);
    }
}

#[test]
fn a_raw_image_has_nothing_to_check() {
    let images = Images::new();
    for way in [&["check", "base"][..], &["check", "--repair", "all", "base"]] {
        let told = images.tidemark(way);
        assert_eq!((told.status, told.err.as_str()), (63, "tidemark: This image format does not support checks\n"));
    }
}

/// Offsets of words that lead to clusters or count them: of the active tables, of a snapshot, of bitmaps.
fn words(content: &[u8]) -> Vec<u64> {
    let cluster = 1 << number(content, 20, 4);
    let at = |offset: u64| number(content, offset, 8);
    let snapshots = number(content, 64, 8);
    let mut words: Vec<u64> = [number(content, 40, 8), at(snapshots)].to_vec();
    let tables: Vec<u64> = words.iter().map(|l1| at(*l1) & OFFSET).collect();
    let used = |table: &u64| (*table..*table + cluster).step_by(8).filter(|word| at(*word) != 0).collect::<Vec<_>>();
    words.extend(tables.iter().flat_map(used));
    let counts = number(content, 48, 8);
    words.push(counts);
    words.extend((at(counts)..at(counts) + 512).step_by(8));
    words.extend([snapshots, snapshots + 8, snapshots + 32]);
    let directory = bitmap_directory(content);
    words.extend([directory, at(directory)]);
    words
}

#[test]
fn broken_images_are_as_broken_as_for_qemu_img() {
    let images = Images::new();
    let sound = images.content("full");
    let words = words(&sound);
    let mut random = fastrand::Rng::with_seed(3);
    let mut statuses = [0; 4];
    let mut wrong = Vec::new();
    for _ in 0..120 {
        let (at, bit) = (words[random.usize(..words.len())], random.u32(..64));
        std::fs::write(images.path("broken"), &sound).unwrap();
        images.patch("broken", at, &(number(&sound, at, 8) ^ 1 << bit).to_be_bytes());
        for way in [&["check", "broken"][..], &["check", "--output", "json", "broken"]] {
            let (ours, qemu) = (images.tidemark(way), images.qemu_img(way));
            // QEMU reads bitmaps when it opens an image, and goes no further if it cannot.
            let unread_bitmap = qemu.status == 1 && ours.status == 2 && qemu.err.contains("itmap");
            // What cannot be read at all is said in one line, by QEMU in three.
            let both_refuse =
                (qemu.status, ours.status) == (1, 1) && (qemu.out.as_str(), ours.out.as_str()) == ("", "");
            if unread_bitmap || both_refuse {
                continue;
            }
            statuses[usize::try_from(ours.status).unwrap()] += 1;
            if !sorted(&ours).same(&sorted(&qemu)) {
                wrong.push(format!("{way:?}: bit {bit} of {at:#x}\nQEMU: {qemu:?}\nours: {ours:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ: {}", wrong.len(), wrong[..wrong.len().min(4)].join("\n\n"));
    let [sound, _, corrupt, leaking] = statuses;
    assert!(corrupt > 50 && leaking > 5, "{sound} sound, {corrupt} corrupt, {leaking} leaking");
}

#[test]
fn an_image_that_is_cut_off_is_as_broken_as_for_qemu_img() {
    let images = Images::new();
    let mut random = fastrand::Rng::with_seed(5);
    let mut statuses = [0; 4];
    for name in ["v2snap", "bits64", "small", "packed", "top"] {
        let content = images.content(name);
        for _ in 0..12 {
            let cut = random.usize(1..content.len().div_ceil(512)) * 512;
            std::fs::write(images.path("cut"), &content[..cut]).unwrap();
            for way in [&["check", "cut"][..], &["check", "--output", "json", "cut"]] {
                let (ours, qemu) = (images.tidemark(way), images.qemu_img(way));
                // Bitmaps that are not there any more are refused in words of each.
                let both_refuse = (qemu.status, ours.status) == (1, 1) && qemu.out.is_empty() && ours.out.is_empty();
                assert!(
                    both_refuse || sorted(&ours).same(&sorted(&qemu)),
                    "{name} of {cut} bytes, {way:?}\nQEMU: {qemu:?}\nours: {ours:?}"
                );
                statuses[usize::try_from(ours.status).unwrap()] += 1;
            }
        }
    }
    assert!(statuses[1] < 20 && statuses[2] > 40, "{statuses:?}");
}

#[test]
fn an_image_that_a_daemon_writes_to_is_refused_as_by_qemu_img() {
    for program in [TIDEMARK, QEMU] {
        let images = Images::new();
        let mut command = Command::new(program);
        command.current_dir(images.path("."));
        command.args(["--blockdev", "file,node-name=f,filename=small", "--blockdev", "qcow2,node-name=q,file=f"]);
        command.args(["--chardev", "socket,id=c,path=qmp,server=on,wait=off", "--monitor", "c"]);
        let daemon = Running::spawn(command);
        super::process::wait_until("the monitor", || images.path("qmp").exists());
        for way in [
            &["check", "small"][..],
            &["check", "-r", "all", "small"],
            &["info", "small"],
            &["info", "-f", "raw", "small"],
            &["check", "-U", "small"],
        ] {
            let (ours, qemu) = (images.tidemark(way), images.qemu_img(way));
            assert!(ours.same(&qemu), "{program}: {way:?}\nQEMU: {qemu:?}\nours: {ours:?}");
        }
        assert_eq!(images.tidemark(&["check", "small"]).status, 1, "{program}");
        daemon.end(Signal::TERM);
    }
}
