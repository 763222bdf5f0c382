//! Mistakes, in the words that `qemu-img bitmap` has for them; and images that somebody else has.

use super::{shell, tidemark};
use crate::cli::process::{Place, QEMU, Running, TIDEMARK, wait_until};
use rustix::process::Signal;

/// Ours, QEMU's.
const MISTAKES: &[(&str, &str)] = &[
    ("add image there", "--add image there"),
    ("add image ''", "--add image ''"),
    ("add image x -g 1000", "--add -g 1000 image x"),
    ("add image x -g 256", "--add -g 256 image x"),
    ("add image x -g 4G", "--add -g 4G image x"),
    ("add image $(printf %01024d 0)", "--add image $(printf %01024d 0)"),
    ("add v2 x", "--add v2 x"),
    ("add nowhere x", "--add nowhere x"),
    ("remove image x", "--remove image x"),
    ("clear image x", "--clear image x"),
    ("enable image x", "--enable image x"),
    ("disable image x", "--disable image x"),
    ("merge image there x", "--merge x image there"),
    ("merge image x there", "--merge there image x"),
    ("merge image there theirs -b small -F qcow2", "--merge theirs -b small -F qcow2 image there"),
    ("merge image there x -b small", "--merge x -b small image there"),
    ("merge image there x -b disk -F raw", "--merge x -b disk -F raw image there"),
    ("merge image there x -b nowhere", "--merge x -b nowhere image there"),
    ("clear lost there", "--clear lost there"),
    ("enable lost there", "--enable lost there"),
    ("add lost there", "--add lost there"),
    ("merge lost other there", "--merge there lost other"),
    ("add -f raw disk x", "--add -f raw disk x"),
    ("clear -f raw disk x", "--clear -f raw disk x"),
];

/// With images of all kinds.
fn place() -> Place {
    let place = Place::new();
    shell(
        &place,
        "qemu-img create -q -f qcow2 image 10M; qemu-img bitmap --add image there
         qemu-img create -q -f qcow2 small 1M; qemu-img bitmap --add small theirs
         qemu-img create -q -f qcow2 -o compat=0.10 v2 1M
         cp image lost; qemu-io -f qcow2 -c abort lost || :
         qemu-img bitmap --add lost other",
    );
    place
}

/// The first line that is no warning, without the program and without names of nodes: QEMU makes them up, and we say the
/// file.
fn comparable(said: &str) -> String {
    let is_warning = |line: &&str| line.starts_with("WARNING") || line.contains(" WARN ");
    let line = said.lines().find(|line| !is_warning(line)).unwrap_or_default();
    let line = line.split_once(": ").unwrap_or_default().1;
    let words = line.split(' ').map(|word| match word.trim_matches(['\'', ':']) {
        node @ ("image" | "v2" | "disk") => word.replace(node, "NODE"),
        node if node.starts_with("#block") => word.replace(node, "NODE"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn mistakes_are_refused_in_the_words_of_qemu_img_and_change_nothing() {
    let place = place();
    let content = || ["image", "small", "v2", "lost", "disk"].map(|name| std::fs::read(place.file(name)).unwrap());
    for (ours, qemus) in MISTAKES {
        let before = content();
        let run = |line: String| {
            let output = place.run("bash", &["-c", &line]);
            assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let said = run(format!("{TIDEMARK} bitmap {ours}"));
        assert!(content() == before, "{ours} has changed an image");
        let qemu = run(format!("qemu-img bitmap {qemus}"));
        assert_eq!(comparable(&said), comparable(&qemu), "{ours}");
    }
}

#[test]
fn a_raw_disk_is_told_how_it_gets_bitmaps() {
    let place = Place::new();
    let said = place.refusal(&["bitmap", "add", "disk", "x"]);
    assert!(said.contains("`tidemark track disk`"), "{said}");
    assert_eq!(tidemark(&place, &["bitmap", "list", "disk"]), "The image has no bitmaps.\n");
}

/// Somebody who has the image open for writing.
fn holder(place: &Place, program: &str) -> Running {
    let words: &[&str] = match program {
        TIDEMARK => &["serve", "image", "--format", "qcow2", "--socket", "blk"],
        _ => &[
            "--blockdev",
            "driver=file,node-name=f,filename=image",
            "--blockdev",
            "driver=qcow2,node-name=n,file=f",
            "--export",
            "vhost-user-blk,id=e,node-name=n,writable=on,addr.type=unix,addr.path=blk",
        ],
    };
    let running = place.start(program, words);
    wait_until("the daemon", || place.file("blk").exists());
    running
}

#[test]
fn an_image_that_is_served_is_left_alone_and_its_daemon_is_named_as_the_one_to_ask() {
    for program in [TIDEMARK, QEMU] {
        let place = place();
        let daemon = holder(&place, program);
        let before = std::fs::read(place.file("image")).unwrap();
        for arguments in [&["add", "image", "x"][..], &["remove", "image", "there"], &["clear", "image", "there"]] {
            let said = place.refusal(&[&["bitmap"], arguments].concat());
            assert_eq!(
                said,
                "tidemark: Could not open 'image': Failed to get \"write\" lock\nIs another process using the image \
                 [image]?\nA daemon that serves it changes its bitmaps itself: `tidemark ctl SOCKET \
                 block-dirty-bitmap-add` and the like, or end that process first.\n"
            );
        }
        let said = place.refusal(&["bitmap", "list", "image"]);
        assert!(said.contains("Failed to get shared \"write\" lock\nIs another process using"), "{said}");
        assert!(tidemark(&place, &["bitmap", "list", "-U", "image"]).contains("there"));
        assert!(std::fs::read(place.file("image")).unwrap() == before);
        daemon.end(Signal::TERM);
        tidemark(&place, &["bitmap", "add", "image", "x"]);
    }
}
