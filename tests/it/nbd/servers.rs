//! The driver `nbd` against servers nobody here wrote, in our daemon and in QEMU's: what clients of an export of its node
//! see is the same.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use super::site::Site;
use crate::cli::process::{QEMU, Running, TIDEMARK, wait_until};

/// What is done through the daemon to each server's disk of 8 MiB, which holds zeroes at first.
const LINES: [&str; 10] = [
    "nbdinfo --size $URI",
    "qemu-io -f raw -c 'write -P 1 0 64k' -c 'write -P 2 100 1000' -c 'read -P 2 100 1000' -c 'read -P 1 1100 10k' $URI",
    "qemu-io -f raw -c 'write -P 3 1M 3M' -c 'write -z 2M 64k' -c 'write -z -u 3M 100k' -c flush $URI",
    "qemu-io -f raw -d unmap -c 'discard 1M 64k' -c 'write -f -P 4 5M 4k' -c 'read -P 4 5M 4k' $URI",
    "qemu-io -f raw -c 'read -P 3 1536k 512k' -c 'read -P 0 2M 64k' -c 'read -P 0 3M 100k' $URI",
    "qemu-io -f raw -c 'read -P 3 3276800 10k' -c 'read 8388600 8' $URI",
    "nbdcopy --connections=4 --requests=16 $URI copy && sha256sum copy",
    "nbdcopy --connections=4 copy $URI && nbdcopy $URI - | sha256sum",
    "qemu-img map --output=json $URI | grep -c start || true",
    "nbdinfo --map --totals $URI | awk '{ print $4, $5 }' | sort",
];

/// A server on the socket `kit`.
fn start(site: &Site, program: &str, arguments: &[&str]) -> Running {
    let mut command = Command::new(program);
    let socket = site.file("kit").display().to_string();
    let arguments = arguments.iter().map(|argument| if *argument == "kit" { &socket } else { *argument });
    command.args(arguments).current_dir(site.file("disk").parent().unwrap());
    let server = Running::spawn(command);
    wait_until(program, || UnixStream::connect(site.file("kit")).is_ok());
    server
}

/// Opens and exports the server's disk, with more options of the node.
fn open(site: &mut Site, more: &str) {
    let server = "'server': {'type': 'unix', 'path': 'kit'}, 'discard': 'unmap'";
    site.run("blockdev-add", &format!("'driver': 'nbd', 'node-name': 'far', {server} {more}"));
    site.export("far", ", 'writable': true");
}

/// What is seen of a server through a daemon.
fn seen(program: &'static str, server: (&str, &[&str])) -> Vec<String> {
    let mut site = Site::new(program);
    site.succeed("truncate -s 8M far.img && rm -f kit");
    let _server = start(&site, server.0, server.1);
    site.serve("");
    open(&mut site, "");
    let said = |line: &&str| {
        let output = site.shell(&format!("URI='nbd+unix:///far?socket=nbd'\n{line} 2>&1 | grep -v ' ops; '"));
        format!("{line}\n{}", String::from_utf8_lossy(&output.stdout))
    };
    LINES.iter().map(said).collect()
}

#[test]
fn servers_of_others_are_used_as_qemu_uses_them() {
    let kit = |arguments: &[&'static str]| [&["-f", "-U", "kit"], arguments].concat();
    for (program, arguments) in [
        ("nbdkit", kit(&["memory", "8M"])),
        ("nbdkit", kit(&["--no-sr", "memory", "8M"])),
        ("nbdkit", kit(&["--filter=noparallel", "--filter=nozero", "memory", "8M"])),
        ("nbdkit", kit(&["--filter=fua", "memory", "8M", "fuamode=emulate"])),
        ("nbdkit", kit(&["--filter=delay", "memory", "8M", "rdelay=5ms", "wdelay=5ms"])),
        ("nbdkit", kit(&["--filter=rate", "memory", "8M", "rate=400M"])),
        (
            "nbdkit",
            kit(&[
                "--filter=blocksize-policy",
                "memory",
                "8M",
                "blocksize-minimum=4096",
                "blocksize-preferred=65536",
                "blocksize-maximum=1M",
                "blocksize-error-policy=error",
            ]),
        ),
        ("nbdkit", kit(&["--filter=multi-conn", "memory", "8M", "multi-conn-mode=disable"])),
        ("qemu-nbd", ["-t", "-k", "kit", "-f", "raw", "-e", "8", "--discard=unmap", "far.img"].to_vec()),
        ("qemu-nbd", ["-t", "-k", "kit", "-f", "raw", "-e", "1", "far.img"].to_vec()),
    ] {
        let server = (program, arguments.as_slice());
        let [theirs, ours] = thread::scope(|scope| {
            let both = [QEMU, TIDEMARK].map(|daemon| scope.spawn(move || seen(daemon, server)));
            both.map(|one| one.join().unwrap())
        });
        let different: Vec<_> = theirs.iter().zip(&ours).filter(|(theirs, ours)| theirs != ours).collect();
        assert!(different.is_empty(), "{program} {arguments:?}: {different:#?}");
    }
}

#[test]
fn errors_of_a_server_are_those_of_its_disk_and_end_with_their_cause() {
    for program in [QEMU, TIDEMARK] {
        let mut site = Site::new(program);
        let filter = ["-f", "-U", "kit", "--filter=error", "memory", "8M"];
        let error = ["error=ENOSPC", "error-rate=100%", "error-file=wrong"];
        let _server = start(&site, "nbdkit", &[&filter[..], &error].concat());
        site.serve("");
        open(&mut site, "");
        let write = "qemu-io -f raw -c 'write -P 1 0 64k' 'nbd+unix:///far?socket=nbd' 2>&1";
        assert!(!site.succeed(write).contains("failed"), "{program}");
        site.succeed("touch wrong");
        let said = site.shell(write);
        assert!(String::from_utf8_lossy(&said.stdout).contains("No space left on device"), "{program}: {said:?}");
        site.succeed("rm wrong");
        assert!(!site.succeed(write).contains("failed"), "{program}");
    }
}

#[test]
fn requests_wait_for_a_server_that_comes_back() {
    for program in [QEMU, TIDEMARK] {
        let mut site = Site::new(program);
        site.succeed("truncate -s 8M far.img");
        let arguments = ["-t", "-k", "kit", "-f", "raw", "-e", "8", "far.img"];
        let first = start(&site, "qemu-nbd", &arguments);
        site.serve("");
        open(&mut site, ", 'reconnect-delay': 20");
        let write = "qemu-io -f raw -c 'write -P 7 0 64k' -c 'read -P 7 0 64k' 'nbd+unix:///far?socket=nbd' 2>&1";
        assert!(!site.succeed(write).contains("failed"), "{program}");
        drop(first);
        site.succeed("rm -f kit");
        let daemon = &site.daemon;
        thread::scope(|scope| {
            let waiting = scope.spawn(|| super::site::succeed(daemon, write));
            // Either way it has to end well; mostly it waits.
            thread::sleep(std::time::Duration::from_millis(300));
            let _second = start(&site, "qemu-nbd", &arguments);
            assert!(!waiting.join().unwrap().contains("failed"), "{program}");
        });
    }
}
