//! Several disks are one point in time.

use crate::cli::process::{Place, QEMU, Running, TIDEMARK};
use crate::vhost::guest::Guest;
use qmp_lite::wire::{Value, parse};
use std::fs;
use tidemark_frontend::{DeviceOptions, Status};

/// A daemon with disks `a` and `b`.
fn serve(program: &str) -> (Place, Running) {
    let place = Place::new();
    let mut words = vec!["--chardev", "socket,id=c,path=qmp,server=on,wait=off", "--monitor", "c"];
    for name in ["a", "b"] {
        fs::write(place.file(name), vec![0; 4 << 20]).unwrap();
    }
    for option in ["driver=file,node-name=a,filename=a", "driver=file,node-name=b,filename=b"] {
        words.extend(["--blockdev", option]);
    }
    for option in [
        "vhost-user-blk,id=disk-a,node-name=a,writable=on,addr.type=unix,addr.path=blk-a",
        "vhost-user-blk,id=disk-b,node-name=b,writable=on,addr.type=unix,addr.path=blk-b",
    ] {
        words.extend(["--export", option]);
    }
    let daemon = place.start(program, &words);
    place.wait_for_listener("qmp");
    (place, daemon)
}

fn succeed(place: &Place, words: &[&str]) -> String {
    let output = place.run(TIDEMARK, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn points(place: &Place) -> Vec<Value> {
    let points = parse(&succeed(place, &["backup", "list", "dir", "--output", "json"])).unwrap();
    points.as_array().unwrap().clone()
}

#[test]
fn all_exported_disks_are_one_point_and_what_was_written_in_order_is_in_it_in_order() {
    for program in [TIDEMARK, QEMU] {
        let (place, _daemon) = serve(program);
        let mut guests = ["blk-a", "blk-b"].map(|name| Guest::at(&place.file(name), DeviceOptions::default()));
        let done = std::sync::atomic::AtomicBool::new(false);
        // A counter goes to disk a first and then to b: at any moment a is equal or one ahead.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let [a, b] = &mut guests;
                let mut count = 0u64;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    count += 1;
                    for guest in [&mut *a, &mut *b] {
                        assert_eq!(guest.write(1 << 20, &count.to_le_bytes().repeat(64)), Status::Ok);
                    }
                }
            });
            for _ in 0..4 {
                let said = succeed(&place, &["backup", "qmp", "--to", "dir"]);
                assert!(said.contains("  a: ") && said.contains("  b: "), "{program}: {said}");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut last = 0;
        for point in 1..=4u64 {
            let [a, b] = ["a", "b"].map(|disk| {
                let point = point.to_string();
                succeed(&place, &["backup", "restore", "dir", "--point", &point, "--disk", disk, "--to", "out"]);
                let bytes = fs::read(place.file("out")).unwrap();
                fs::remove_file(place.file("out")).unwrap();
                u64::from_le_bytes(bytes[1 << 20..(1 << 20) + 8].try_into().unwrap())
            });
            assert!(a == b || a == b + 1, "{program}: point {point} has {a} and {b}");
            assert!(a >= last, "{program}: time goes on");
            last = a;
        }
        assert!(last > 0, "{program}: the guest has done nothing");
    }
}

#[test]
fn disks_are_chosen_by_node_or_export_and_each_has_a_chain_of_its_own() {
    let (place, _daemon) = serve(TIDEMARK);
    succeed(&place, &["backup", "qmp", "--to", "dir"]);
    succeed(&place, &["backup", "qmp", "--to", "dir", "--node", "disk-a"]);
    succeed(&place, &["backup", "qmp", "--to", "dir", "--node", "a", "--node", "disk-b"]);
    let parents: Vec<Vec<Value>> = points(&place)
        .iter()
        .map(|point| point["disks"].as_array().unwrap().iter().map(|disk| disk["parent"].clone()).collect())
        .collect();
    let name = |name: &str| Value::String(name.to_owned());
    let expected = [vec![Value::Null; 2], vec![name("a-1.qcow2")], vec![name("a-2.qcow2"), name("b-1.qcow2")]];
    assert_eq!(parents, expected);
    succeed(&place, &["backup", "prune", "dir", "--keep", "2"]);
    let said = succeed(&place, &["backup", "verify", "dir"]);
    assert!(said.starts_with("2 points, 3 images"), "{said}");
    let message = place.refusal(&["backup", "restore", "dir", "--to", "out"]);
    assert!(message.contains("has several disks, say --disk; it has: a, b"), "{message}");
    let message = place.refusal(&["backup", "qmp", "--to", "dir", "--node", "c"]);
    assert!(message.contains("there is no disk 'c'"), "{message}");
}
