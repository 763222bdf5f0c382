//! What a person or a script is told: lines of success, exit statuses, members of JSON.

use super::super::process::Place;
use super::{ours, qemu, qemu_img, succeed, tidemark};
use qmp_lite::wire;

#[test]
fn an_empty_image_is_what_qemu_img_makes_of_the_same_words() {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "base", "3M"]);
    for words in [
        &["-f", "qcow2", "x", "1G"][..],
        &["-f", "qcow2", "-o", "cluster_size=4k,lazy_refcounts=on,refcount_bits=8", "x", "1.5M"],
        &["-f", "qcow2", "-o", "compat=0.10", "x", "10M"],
        &["-f", "qcow2", "-o", "compression_type=zstd,preallocation=metadata", "x", "2M"],
        &["-f", "qcow2", "-b", "base", "-F", "qcow2", "x"],
        &["-f", "qcow2", "-o", "backing_file=base,backing_fmt=qcow2,size=8M", "x"],
        &["-f", "qcow2", "-u", "-b", "nowhere", "-F", "raw", "x", "5M"],
        &["-f", "qcow2", "-o", "data_file=d", "x", "1M"],
        &["-f", "qcow2", "-o", "data_file=d,data_file_raw=on", "x", "1M"],
        &["-f", "raw", "x", "1000"],
        &["x", "7k"],
        &["x", "0x1e00"],
        &["-f", "qcow2", "-o", "cluster_size=0x1000,size=0X100000", "x"],
        &["-f", "raw", "-o", "preallocation=full", "x", "64k"],
    ] {
        let mut infos = Vec::new();
        for program in [super::TIDEMARK, "qemu-img"] {
            succeed(&place, program, &[&["create", "-q"], words].concat());
            let info = wire::parse(&qemu_img(&place, &["info", "--output=json", "x"]).out).unwrap();
            let file = std::fs::metadata(place.file("x")).unwrap().len();
            // What the file takes on the disk differs by a few blocks.
            let members = ["virtual-size", "format", "cluster-size", "backing-filename", "backing-filename-format"];
            let said: Vec<_> = members.iter().map(|member| info[*member].clone()).collect();
            infos.push((said, info["format-specific"]["data"].clone(), file.div_ceil(2 << 20)));
        }
        assert_eq!(infos[0], infos[1], "{words:?}");
    }
}

#[test]
fn an_image_is_made_above_one_that_somebody_writes_to() {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "below", "3M"]);
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "-b", "below", "-F", "qcow2", "base", "5M"]);
    let image = "driver=qcow2,node-name=n,file.driver=file,file.filename=base";
    let export = "vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=sock,writable=on";
    let running = place.start(super::TIDEMARK, &["--blockdev", image, "--export", export]);
    place.wait_for_listener("sock");
    assert!(ours(&place, &["info", "base"]).err.contains("shared \"write\" lock"));
    for (size, bytes) in [(&[][..], "5242880"), (&["1M"], "1048576")] {
        let words = [&["create", "-f", "qcow2", "-b", "base", "-F", "qcow2", "x"], size].concat();
        qemu_img(&place, &words);
        let said = tidemark(&place, &words);
        assert!(said.out.contains(&format!("({bytes} bytes), above 'base'")) && said.err.is_empty(), "{said:?}");
    }
    let told = ours(&place, &["convert", "-O", "qcow2", "-B", "base", "-F", "qcow2", "disk", "y"]);
    assert!(told.status == 1 && told.err.contains("shared \"write\" lock") && !place.file("y").exists(), "{told:?}");
    running.end(rustix::process::Signal::TERM);
}

#[test]
fn disks_that_are_too_large_to_be_made_full_are_measured_as_by_qemu_img() {
    let place = Place::new();
    for (size, options) in [
        ("2P", "cluster_size=64k"),
        ("2P", "cluster_size=64k,preallocation=full"),
        ("1P", "cluster_size=64k,refcount_bits=64"),
        ("1P", "cluster_size=64k,extended_l2=on"),
        ("8T", "cluster_size=4k,refcount_bits=1"),
        ("64P", "cluster_size=2M"),
        ("1E", "cluster_size=2M"),
        ("7E", "cluster_size=2M"),
    ] {
        let way = ["measure", "--size", size, "-O", "qcow2", "-o", options, "--output=json"];
        let (ours, theirs) = (ours(&place, &way), qemu(&place, &way));
        assert_eq!(
            (ours.status, wire::parse(&ours.out)),
            (theirs.status, wire::parse(&theirs.out)),
            "{way:?}: {ours:?}"
        );
    }
}

#[test]
fn people_are_told_what_was_done_and_nobody_else() {
    let place = Place::new();
    let said = |arguments: &[&str]| tidemark(&place, arguments).out;
    assert_eq!(said(&["create", "-f", "qcow2", "x", "1M"]), "'x': qcow2, 1 MiB (1048576 bytes)\n");
    let above = said(&["create", "-f", "qcow2", "-b", "x", "-F", "qcow2", "y"]);
    assert_eq!(above, "'y': qcow2, 1 MiB (1048576 bytes), above 'x'\n");
    assert_eq!(said(&["resize", "y", "+1M"]), "'y': 2 MiB (2097152 bytes)\n");
    assert_eq!(said(&["commit", "y"]), "Image committed.\n");
    assert_eq!(said(&["convert", "y", "z"]), "");
    assert_eq!(said(&["rebase", "-b", "", "y"]), "");
    for arguments in [
        &["create", "-q", "-f", "qcow2", "w", "1M"][..],
        &["resize", "-q", "w", "2M"],
        &["compare", "-q", "w", "w"],
        &["rebase", "-u", "-q", "-b", "x", "-F", "qcow2", "w"],
        &["commit", "-q", "w"],
    ] {
        assert_eq!(said(arguments), "", "{arguments:?}");
    }
}

#[test]
fn a_map_for_people_is_that_of_qemu_img() {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "base", "1M"]);
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "x", "2M"]);
    std::fs::write(place.file("raw"), [[1; 70_000], [0; 70_000], [1; 70_000]].concat()).unwrap();
    std::fs::File::create(place.file("hole")).unwrap().set_len(1 << 20).unwrap();
    for (image, writes) in [
        ("base", &["write -P 1 0 128k", "write -P 1 256k 64k"][..]),
        ("x", &["write -P 1 64k 64k", "write -z 128k 64k", "write -P 1 512k 128k"]),
    ] {
        for write in writes {
            succeed(&place, "qemu-io", &["-f", "qcow2", "-c", write, image]);
        }
    }
    std::fs::copy(place.file("x"), place.file("compressed")).unwrap();
    for write in ["write -c -P 7 768k 64k", "write -P 1 1M 64k"] {
        succeed(&place, "qemu-io", &["-f", "qcow2", "-c", write, "compressed"]);
    }
    for way in [
        &["map", "x"][..],
        &["map", "base"],
        &["map", "-f", "raw", "raw"],
        &["map", "-f", "raw", "hole"],
        &["map", "--output=human", "-s", "70k", "-l", "200k", "x"],
        &["map", "-s", "3M", "x"],
        &["map", "compressed"],
    ] {
        let (ours, theirs) = (ours(&place, way), qemu(&place, way));
        assert_eq!((ours.status, ours.out), (theirs.status, theirs.out), "{way:?}");
        assert_eq!(ours.err.replace("tidemark", "qemu-img"), theirs.err, "{way:?}");
    }
}

#[test]
fn a_comparison_ends_with_the_status_that_scripts_of_qemu_img_expect() {
    let place = Place::new();
    std::fs::write(place.file("a"), [1; 4096]).unwrap();
    std::fs::write(place.file("b"), [1; 2048]).unwrap();
    std::fs::write(place.file("c"), [[1; 2048], [0; 2048]].concat()).unwrap();
    for (way, status) in [
        (&["compare", "a", "a"][..], 0),
        (&["compare", "a", "b"], 1),
        (&["compare", "c", "b"], 0),
        (&["compare", "-s", "c", "b"], 1),
        (&["compare", "a", "nope"], 2),
        (&["compare", "-f", "qcow2", "a", "b"], 2),
    ] {
        assert_eq!(ours(&place, way).status, status, "{way:?}");
        let theirs = qemu(&place, way);
        assert_eq!((theirs.status, theirs.out), (status, ours(&place, way).out), "{way:?}");
    }
}
