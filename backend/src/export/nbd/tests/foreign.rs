//! QEMU's and libnbd's programs as clients.

use super::served::{Served, export, run};
use crate::export::nbd::{NbdAddress, NbdBitmap, NbdOptions, NbdServerOptions};

const MIB: u64 = 1 << 20;

#[test]
fn qemu_reads_what_it_has_written_and_the_file_has_it() {
    let served = Served::new();
    served.add_sparse("disk", 64 * MIB);
    served.exports.add_nbd(export("disk")).unwrap();
    let script = [
        "-c",
        "write -P 0x11 0 4k",
        "-c",
        "write -f -P 0x22 1000 3000",
        "-c",
        "write -P 0x33 8M 32M",
        "-c",
        "flush",
        "-c",
        "write -z 9M 1M",
        "-c",
        "write -z -u 10M 1M",
        "-c",
        "discard 11M 1M",
        "-c",
        "read -P 0x11 0 1000",
        "-c",
        "read -P 0x22 1000 3000",
        "-c",
        "read -P 0x11 4000 96",
        "-c",
        "read -P 0x33 8M 1M",
        "-c",
        "read -P 0 9M 2M",
        "-c",
        "read -P 0x33 12M 28M",
        "-c",
        "read -P 0 40M 24M",
    ];
    let said = run("qemu-io", &[&["-f", "raw", &served.uri("disk")], &script[..]].concat());
    assert!(!said.contains("failed") && !said.contains("error"), "{said}");
    let content = std::fs::read(served.path("disk")).unwrap();
    assert_eq!((content[999], content[1000], content[3999], content[4000]), (0x11, 0x22, 0x22, 0x11));
    assert_eq!((content[8 << 20], content[9 << 20], content[12 << 20]), (0x33, 0, 0x33));
}

#[test]
fn a_map_of_an_export_is_the_map_of_its_image() {
    let served = Served::new();
    let (base, top) = (served.path("base"), served.path("top"));
    let (base, top) = (base.to_str().unwrap(), top.to_str().unwrap());
    run("qemu-img", &["create", "-qf", "qcow2", base, "128M"]);
    run("qemu-io", &["-c", "write 1M 3M", "-c", "write -z 8M 1M", base]);
    run("qemu-img", &["create", "-qf", "qcow2", "-b", base, "-F", "qcow2", top, "130M"]);
    run("qemu-io", &["-c", "write 2M 64k", "-c", "write -z 3M 64k", top]);
    served.add_image("top");
    served.exports.add_nbd(NbdOptions { allocation_depth: true, ..export("top") }).unwrap();
    let map = run("nbdinfo", &["--map", &served.uri("top")]);
    let lines: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    let (kib64, mib) = ("65536", "1048576");
    let expected = [
        vec!["0", mib, "3"],
        vec!["1048576", "2097152", "0"],
        vec!["3145728", kib64, "3"],
        vec!["3211264", "983040", "0"],
        vec!["4194304", "132120576", "3"],
    ];
    assert_eq!(lines, expected);
    let depths = run("nbdinfo", &["--map=qemu:allocation-depth", &served.uri("top")]);
    let lines: Vec<Vec<&str>> = depths.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    let expected = [
        vec!["0", mib, "0"],
        vec!["1048576", mib, "2"],
        vec!["2097152", kib64, "1"],
        vec!["2162688", "983040", "2"],
        vec!["3145728", kib64, "1"],
        vec!["3211264", "983040", "2"],
        vec!["4194304", "4194304", "0"],
        vec!["8388608", mib, "2"],
        vec!["9437184", "124780544", "0"],
        vec!["134217728", "2097152", "2"],
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_bitmap_is_told_as_it_is_and_is_in_use() {
    let served = Served::new();
    let image = served.path("disk");
    let image = image.to_str().unwrap();
    run("qemu-img", &["create", "-qf", "qcow2", image, "64M"]);
    run("qemu-img", &["bitmap", "--add", "-f", "qcow2", image, "changes"]);
    run("qemu-io", &["-c", "write 1M 3M", "-c", "write 63M 512", image]);
    served.add_image("disk");
    let bitmaps = vec![NbdBitmap { node: None, name: "changes".into() }];
    served.exports.add_nbd(NbdOptions { bitmaps: bitmaps.clone(), ..export("disk") }).unwrap();
    let map = run("nbdinfo", &["--map=qemu:dirty-bitmap:changes", &served.uri("disk")]);
    let lines: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    let expected = [
        vec!["0", "1048576", "0"],
        vec!["1048576", "3145728", "1"],
        vec!["4194304", "61865984", "0"],
        vec!["66060288", "65536", "1"],
        vec!["66125824", "983040", "0"],
    ];
    assert_eq!(lines, expected);
    let again = NbdOptions { id: "again".into(), name: "again".into(), bitmaps, ..export("disk") };
    let error = served.exports.add_nbd(again.clone()).unwrap_err().to_string();
    assert_eq!(error, "Bitmap 'changes' is currently in use by another operation and cannot be used");
    served.exports.remove("export-disk", crate::export::RemoveMode::Safe).unwrap();
    served.exports.add_nbd(again).unwrap();
}

#[test]
fn everything_that_an_export_is_is_told() {
    let served = Served::new();
    served.add_sparse("disk", 10 * MIB + 100);
    let options = NbdOptions { description: Some("of a guest".into()), writable: false, ..export("disk") };
    served.exports.add_nbd(options).unwrap();
    let told = run("nbdinfo", &["--json", &served.uri("disk")]);
    for part in [
        "\"export-name\": \"disk\"",
        "\"description\": \"of a guest\"",
        "\"is_read_only\": true",
        "\"can_multi_conn\": true",
        "\"can_flush\": true",
        "\"can_fua\": true",
        "\"can_cache\": true",
        "\"can_df\": true",
        "\"can_trim\": false",
        "\"can_zero\": false",
        "\"block_size_minimum\": 1",
        "\"block_size_maximum\": 33554432",
        "\"export-size\": 10486272",
        "\"structured\": true",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let list = run("nbdinfo", &["--list", &served.uri("")]);
    assert!(list.contains("export=\"disk\"") && list.contains("base:allocation"), "{list}");
}

#[test]
fn a_port_that_is_free_is_told_and_one_that_is_not_refused() {
    let tcp = |host: &str, port: String| {
        let address = NbdAddress::Tcp { host: host.into(), port };
        NbdServerOptions { address, tls: None, max_connections: 0, handshake_max: None }
    };
    let served = Served::new();
    served.add_sparse("disk", MIB);
    let refused = |options| served.exports.start_nbd_server(options).unwrap_err().to_string();
    assert_eq!(refused(tcp("", "0".into())), "NBD server already running");
    served.exports.stop_nbd_server().unwrap();
    for host in ["127.0.0.1", "localhost", ""] {
        served.exports.start_nbd_server(tcp(host, "0".into())).unwrap();
        served.exports.add_nbd(export("disk")).unwrap();
        let [address] = served.exports.nbd_addresses()[..] else { panic!("one address") };
        let uri = format!("nbd://127.0.0.1:{}/disk", address.port());
        // A name may be of an address that is not this one.
        if host != "localhost" || address.is_ipv4() {
            assert_eq!(run("nbdinfo", &["--size", &uri]), "1048576\n", "{host}");
        }
        served.exports.stop_nbd_server().unwrap();
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert_eq!(refused(tcp("127.0.0.1", port)), "Failed to find an available port: Address already in use");
    assert_eq!(
        refused(tcp("127.0.0.1", "nosuch".into())),
        "address resolution failed for 127.0.0.1:nosuch: Servname not supported for ai_socktype"
    );
}

#[test]
fn copies_by_several_connections_are_whole() {
    let served = Served::new();
    let content: Vec<u8> = (0..8 * MIB).map(|at| u8::try_from(at / 4096 % 251).unwrap()).collect();
    served.add_file("disk", &content);
    served.add_sparse("copy", 8 * MIB);
    served.exports.add_nbd(export("disk")).unwrap();
    served.exports.add_nbd(export("copy")).unwrap();
    run("nbdcopy", &["--flush", &served.uri("disk"), &served.uri("copy")]);
    assert!(std::fs::read(served.path("copy")).unwrap() == content);
}
