//! Tools that are interrupted, or whose storage is full: what they made is gone, and what they have changed is said.

use super::super::process::{Place, Running, TIDEMARK, wait_until};
use super::super::small;
use super::ours;
use rustix::process::Signal;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// A source that takes no space and whose copy does, for a long time.
fn endless(place: &Place, arguments: &[&str]) -> Running {
    std::fs::File::create(place.file("hole")).unwrap().set_len(64 << 30).unwrap();
    let mut command = Command::new(TIDEMARK);
    command.current_dir(place.path()).args(["convert", "-S", "0", "-t", "writethrough", "-m", "1"]);
    Running::spawn({
        command.args(arguments);
        command
    })
}

fn has_space(place: &Place, name: &str) -> bool {
    std::fs::metadata(place.file(name)).is_ok_and(|meta| meta.blocks() > 4096)
}

#[test]
fn a_conversion_that_is_interrupted_leaves_no_image() {
    for (signal, format) in [(Signal::INT, "raw"), (Signal::TERM, "qcow2")] {
        let place = Place::new();
        let running = endless(&place, &["-O", format, "hole", "x"]);
        wait_until("something in the target", || has_space(&place, "x"));
        running.signal(signal);
        let (status, said) = running.wait();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("'x' was half made and is removed"), "{said}");
        assert!(said.contains(&format!("signal {}", signal.as_raw())), "{said}");
        assert!(!place.file("x").exists());
    }
}

#[test]
fn a_conversion_that_waits_for_its_rate_is_interrupted_all_the_same() {
    let place = Place::new();
    std::fs::write(place.file("large"), vec![1; 16 << 20]).unwrap();
    let mut command = Command::new(TIDEMARK);
    command.current_dir(place.path()).args(["convert", "-r", "1", "large", "x"]);
    let running = Running::spawn(command);
    wait_until("something in the target", || std::fs::metadata(place.file("x")).is_ok_and(|meta| meta.blocks() > 0));
    running.signal(Signal::INT);
    let (status, said) = running.wait();
    assert!(status.code() == Some(1) && said.contains("signal 2"), "{said}");
    assert!(!place.file("x").exists());
}

#[test]
fn what_was_there_before_stays_and_is_said_to_be_spoilt() {
    let place = Place::new();
    std::fs::File::create(place.file("x")).unwrap().set_len(64 << 30).unwrap();
    let running = endless(&place, &["-n", "hole", "x"]);
    wait_until("something in the target", || has_space(&place, "x"));
    let (status, said) = {
        running.signal(Signal::INT);
        running.wait()
    };
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("'x' has a part of it, and is not what it was"), "{said}");
    assert!(place.file("x").exists());
}

#[test]
fn a_target_without_room_is_removed() {
    let place = Place::new();
    let keeper = small::mount(&place);
    let inside = small::inside(&keeper, &place);
    let path = |name: &str| inside.join(name).to_str().unwrap().to_owned();
    let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(1..)).take(8 << 20).collect();
    std::fs::write(place.file("disk"), bytes).unwrap();
    for format in ["raw", "qcow2"] {
        let told = ours(&place, &["convert", "-O", format, "disk", &path("x")]);
        assert_eq!(told.status, 1, "{told:?}");
        assert!(told.err.contains("No space left on device"), "{}", told.err);
        assert!(!inside.join("x").exists(), "{format}");
    }
    let told = ours(&place, &["create", "-o", "preallocation=full", &path("x"), "8M"]);
    assert!(told.status == 1 && told.err.contains("No space left on device"), "{told:?}");
    assert!(!inside.join("x").exists());
}

#[test]
fn a_target_without_room_that_a_link_leads_to_is_removed_and_the_link_stays() {
    let place = Place::new();
    let keeper = small::mount(&place);
    let inside = small::inside(&keeper, &place);
    let path = |name: &str| inside.join(name).to_str().unwrap().to_owned();
    std::os::unix::fs::symlink("link", inside.join("ln")).unwrap();
    std::os::unix::fs::symlink("real", inside.join("link")).unwrap();
    std::fs::write(place.file("disk"), vec![7; 8 << 20]).unwrap();
    let ways: [&[&str]; 4] = [
        &["convert", "-O", "raw", "disk"],
        &["convert", "-O", "qcow2", "disk"],
        &["create", "-o", "preallocation=full"],
        &["create", "-f", "qcow2", "-o", "preallocation=full"],
    ];
    for way in ways {
        for existed in [false, true] {
            if existed {
                std::fs::write(inside.join("real"), "precious").unwrap();
            }
            let size = if way[0] == "create" { &["8M"][..] } else { &[] };
            let told = ours(&place, &[way, &[path("ln").as_str()], size].concat());
            assert!(told.status == 1 && told.err.contains("No space left on device"), "{told:?}");
            let removed = format!("'{}' was half made and is removed", path("real"));
            assert!(told.err.contains(&removed), "{way:?}, existed: {existed}: {}", told.err);
            assert!(inside.join("ln").is_symlink() && !inside.join("real").exists(), "{way:?}, existed: {existed}");
        }
    }
}

#[test]
fn the_space_of_what_is_removed_is_free_when_the_command_ends() {
    let place = Place::new();
    let keeper = small::mount(&place);
    let inside = small::inside(&keeper, &place);
    std::fs::write(place.file("disk"), vec![7; 8 << 20]).unwrap();
    let free = || rustix::fs::statvfs(&inside).unwrap().f_bfree;
    let before = free();
    for _ in 0..8 {
        let told = ours(&place, &["convert", "-O", "raw", "disk", inside.join("x").to_str().unwrap()]);
        assert_eq!((told.status, free()), (1, before), "{told:?}");
    }
}
