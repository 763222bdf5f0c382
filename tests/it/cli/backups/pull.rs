//! Points in time that NBD servers show, of whatever make: all of a disk, and what a bitmap marks.

use crate::cli::process::{Place, QEMU, Running, TIDEMARK, wait_until};
use crate::nbd::tls::CERTIFICATES;
use rustix::process::Signal;
use std::process::Command;

/// Bytes of the disk.
const SIZE: u64 = 8 << 20;

fn shell(place: &Place, script: &str) -> String {
    let output = Command::new("bash").args(["-ec", script]).current_dir(place.path()).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A server that shows the image `disk` and its bitmap `b`.
fn serve(place: &Place, program: &str) -> Running {
    let export = "nbd,id=e,node-name=n,name=vm,bitmaps.0=b";
    let node = "driver=qcow2,node-name=n,read-only=on,file.driver=file,file.filename=disk";
    let server =
        place.start(program, &["--blockdev", node, "--nbd-server", "addr.type=unix,addr.path=nbd", "--export", export]);
    place.wait_for_listener("nbd");
    server
}

/// Ends a server. One that is killed may hold the lock of its image for a while.
fn end(server: Running) {
    server.signal(Signal::TERM);
    server.wait();
}

fn backup(place: &Place, words: &[&str]) -> String {
    let uri = "nbd+unix:///vm?socket=nbd";
    let output = place.run(TIDEMARK, &[&["backup", "--nbd", uri, "--to", "dir"], words].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn image(place: &Place) {
    std::fs::remove_file(place.file("disk")).unwrap();
    shell(place, &format!("qemu-img create -q -f qcow2 disk {SIZE}"));
    shell(place, "qemu-io -f qcow2 -c 'write -q -P 1 0 3M' -c 'write -q -P 2 5M 1000k' disk");
    shell(place, "qemu-img bitmap --add -g 4096 disk b");
}

#[test]
fn a_disk_is_read_whole_and_then_what_its_bitmap_marks() {
    for program in [TIDEMARK, QEMU] {
        let place = Place::new();
        image(&place);
        let server = serve(&place, program);
        let said = backup(&place, &[]);
        assert!(said.contains("  vm: ") && said.contains("full, because no --bitmap says"), "{program}: {said}");
        end(server);
        shell(
            &place,
            "cp disk first; qemu-io -f qcow2 -c 'write -q -P 7 1000k 6k' -c 'write -q -z 2M 192k' \
                       -c 'write -q -P 9 8188k 4k' disk",
        );
        let server = serve(&place, program);
        let said = backup(&place, &["--bitmap", "b", "--since", "1"]);
        assert!(said.contains(", incremental\n"), "{program}: {said}");
        end(server);
        let space = shell(&place, "du -k dir/vm-2.qcow2 | cut -f1");
        assert!(space.trim().parse::<u64>().unwrap() < 1000, "{program}: {space}");
        shell(&place, "qemu-img compare -q -U first dir/vm-1.qcow2; qemu-img compare -q -U disk dir/vm-2.qcow2");
        for point in ["1", "2"] {
            let output = place.run(TIDEMARK, &["backup", "restore", "dir", "--point", point, "--to", point]);
            assert!(output.status.success(), "{output:?}");
        }
        shell(&place, "qemu-img compare -q -U -F raw first 1; qemu-img compare -q -U -F raw disk 2");
        shell(
            &place,
            &format!(
                "{TIDEMARK} backup verify dir; {TIDEMARK} backup prune dir --keep 1; {TIDEMARK} backup verify dir"
            ),
        );
        shell(&place, "qemu-img compare -q -U disk dir/vm-2.qcow2");
    }
}

#[test]
fn a_bitmap_that_records_since_another_point_or_is_not_there_is_refused() {
    let place = Place::new();
    image(&place);
    let _server = serve(&place, TIDEMARK);
    let refusal = |words: &[&str]| {
        place.refusal(&[&["backup", "--nbd", "nbd+unix:///vm?socket=nbd", "--to", "dir"], words].concat())
    };
    let message = refusal(&["--bitmap", "b", "--since", "1"]);
    assert!(message.contains("there is no point of disk 'vm'"), "{message}");
    backup(&place, &[]);
    backup(&place, &[]);
    let message = refusal(&["--bitmap", "b", "--since", "1"]);
    assert!(message.contains("the newest point of disk 'vm' is 2"), "{message}");
    let message = refusal(&["--bitmap", "c", "--since", "2"]);
    assert!(
        message.contains("the server does not have this bitmap") || message.contains("qemu:dirty-bitmap:c"),
        "{message}"
    );
    let message = refusal(&["--bitmap", "b"]);
    assert!(message.contains("--since"), "{message}");
    let missing = ["backup", "--nbd", "nbd+unix:///other?socket=nbd", "--to", "dir"];
    let message = place.refusal(&missing);
    assert!(message.contains("nbd+unix:///other"), "{message}");
    let message = place.refusal(&["backup", "--nbd", "nbd+unix:///vm?socket=nobody", "--to", "dir"]);
    assert!(message.contains("nobody"), "{message}");
    let mut files: Vec<_> =
        std::fs::read_dir(place.file("dir")).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["lock", "manifest.json", "vm-1.qcow2", "vm-1.sums", "vm-2.qcow2", "vm-2.sums"]);
}

/// Servers with TLS that show the image `disk` and its bitmap `b`, on a UNIX socket or a port.
fn serve_securely(place: &Place, program: &str) -> (Running, [String; 2]) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let creds = "tls-creds-x509,id=t,endpoint=server,dir=server,verify-peer=on";
    let uris = [format!("nbds://localhost:{port}/vm"), "nbds+unix:///vm?socket=nbd".to_owned()];
    let words: Vec<String> = match program {
        "qemu-nbd" => {
            format!("-r -t -B b -x vm --object {creds} --tls-creds t -b 127.0.0.1 -p {port} -f qcow2 disk")
        }
        _ => format!(
            "--object {creds} --blockdev driver=qcow2,node-name=n,read-only=on,file.driver=file,file.filename=disk \
             --nbd-server addr.type=unix,addr.path=nbd,tls-creds=t --export nbd,id=e,node-name=n,name=vm,bitmaps.0=b"
        ),
    }
    .split(' ')
    .filter(|word| !word.is_empty())
    .map(str::to_owned)
    .collect();
    let server = place.start(program, &words.iter().map(String::as_str).collect::<Vec<_>>());
    match program {
        "qemu-nbd" => wait_until("the port", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()),
        _ => place.wait_for_listener("nbd"),
    }
    (server, uris)
}

#[test]
fn servers_with_tls_are_read_by_those_they_know_and_who_know_them() {
    let place = Place::new();
    image(&place);
    shell(&place, CERTIFICATES);
    // Believes another authority.
    shell(&place, "mkdir doubting; cp others/ca-cert.pem doubting");
    for (program, uri) in [("qemu-nbd", 0), (TIDEMARK, 1), (QEMU, 1)] {
        let (_server, uris) = serve_securely(&place, program);
        let uri = &uris[uri];
        let words = ["backup", "--nbd", uri, "--to", "dir", "--tls-creds"];
        let run = |more: &[&str]| place.run(TIDEMARK, &[&words[..], more].concat());
        let output = run(&["client"]);
        assert!(output.status.success(), "{program}: {output:?}");
        shell(&place, "qemu-img compare -q -U disk dir/vm-1.qcow2");
        let output = run(&["client", "--bitmap", "b", "--since", "1"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains(", incremental\n"), "{program}: {said}");
        shell(&place, "qemu-img compare -q -U disk dir/vm-2.qcow2");
        for (who, part) in [("anonymous", uri.as_str()), ("stranger", "stranger/client-cert.pem"), ("doubting", uri)] {
            let message = place.refusal(&[&words[..], &[who]].concat());
            assert!(message.contains(part), "{program}: {who}: {message}");
        }
        let message = place.refusal(&words[..5]);
        assert!(message.contains("--tls-creds DIR"), "{program}: {message}");
        let plain = uri.replacen("nbds", "nbd", 1);
        let message = place.refusal(&["backup", "--nbd", &plain, "--to", "dir"]);
        assert!(message.contains("TLS"), "{program}: {message}");
        let message = place.refusal(&["backup", "--nbd", &plain, "--to", "dir", "--tls-creds", "client"]);
        assert!(message.contains("nbds+unix://"), "{program}: {message}");
        let message = place.refusal(&[&words[..], &["nowhere"]].concat());
        assert!(message.contains("nowhere/ca-cert.pem"), "{program}: {message}");
        assert!(std::fs::read_dir(place.file("dir")).unwrap().count() == 6, "{program}");
        shell(&place, "rm -r dir");
    }
}
