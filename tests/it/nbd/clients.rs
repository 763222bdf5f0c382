//! Programs that speak NBD as clients of both daemons with the same images: they say the same.
//!
//! What they are asked stands in `clients.txt`.

use std::thread;

use super::site::Site;
use crate::cli::process::{QEMU, TIDEMARK};

/// Images of the same content in each daemon's directory. Data comes in whole clusters: of less QEMU tells as the file
/// below has it, which depends on how that is written.
const PREPARE: &str = "
    qemu-img create -qf qcow2 base 64M
    qemu-io -c 'write -P 1 1M 3M' -c 'write -z 8M 1M' -c 'write -P 9 20M 64k' base
    qemu-img create -qf qcow2 -b base -F qcow2 top 66M
    qemu-img bitmap --add -f qcow2 top b0
    qemu-img bitmap --add -g 4096 -f qcow2 top b1
    qemu-io -c 'write -P 3 2M 64k' -c 'write -z 3M 64k' -c 'write -P 7 40M 64k' -c 'write -P 5 65M 1M' top
    truncate -s 8389119 odd
    truncate -s 12G wide
    qemu-io -f raw -c 'write -P 5 11G 1M' -c 'write -P 6 4095M 2M' wide";

/// What lines have besides.
const SHELL: &str = "
    u() { echo \"$URI_BEFORE/$1$URI_AFTER\"; }
    o() { echo \"$OPTIONS,export=$1\"; }";

/// A daemon with the exports that the lines are about.
fn site(program: &'static str) -> Site {
    let mut site = Site::new(program);
    site.succeed(&format!("set -e; {PREPARE}"));
    for (name, driver) in [("disk", "qcow2"), ("odd", "raw"), ("wide", "raw")] {
        let file = if name == "disk" { "top" } else { name };
        let file = format!("{{'driver': 'file', 'filename': '{file}', 'discard': 'unmap'}}");
        let options = format!("'driver': '{driver}', 'node-name': '{name}', 'file': {file}, 'discard': 'unmap'");
        site.run("blockdev-add", &options);
    }
    site
}

fn export_all(site: &mut Site) {
    let more = "'bitmaps': ['b0', 'b1'], 'allocation-depth': true, 'writable': true, 'description': 'The disk'";
    site.export("disk", &format!(", {more}"));
    site.export("odd", ", 'name': ''");
    site.export("wide", "");
}

/// What one line says of one daemon.
fn said(site: &Site, place: &str, line: &str) -> String {
    let tests = concat!("TESTS=", env!("CARGO_MANIFEST_DIR"), "/tests/it/nbd");
    let output = site.shell(&format!("{tests}; {place}{SHELL}\n{line}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}{}", text(&output.stdout), text(&output.stderr), output.status)
}

/// All lines, with what they say.
fn transcript(program: &'static str, tcp: bool) -> Vec<(String, String)> {
    let mut site = site(program);
    let (place, port) = if tcp {
        let port = site.serve_tcp("");
        let options = format!("OPTIONS=driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port}");
        let uri = format!("URI_BEFORE=nbd://127.0.0.1:{port} URI_AFTER=");
        (format!("{uri} {options} SERVER='-b 127.0.0.1 -p {port}' LIST='127.0.0.1 {port}'"), port.to_string())
    } else {
        site.serve("");
        let uri = "URI_BEFORE=nbd+unix:// URI_AFTER='?socket=nbd'";
        let options = "OPTIONS=driver=nbd,server.type=unix,server.path=nbd";
        (format!("{uri} {options} SERVER='-k nbd' LIST='-unix nbd'"), "no port".to_owned())
    };
    export_all(&mut site);
    let lines = include_str!("clients.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let answers = lines.map(|line| (line.to_owned(), said(&site, &place, line).replace(&port, "PORT")));
    let answers = answers.collect();
    site.run("nbd-server-stop", "");
    for node in ["disk", "odd", "wide"] {
        site.run("blockdev-del", &format!("'node-name': '{node}'"));
    }
    // The images that the clients have written are the same, too, and sound.
    site.succeed("qemu-img check -q top");
    answers
}

fn check(tcp: bool) {
    let [theirs, ours] = thread::scope(|scope| {
        let both = [QEMU, TIDEMARK].map(|program| scope.spawn(move || transcript(program, tcp)));
        both.map(|one| one.join().unwrap())
    });
    let done = theirs.iter().filter(|(_, said)| said.ends_with("exit status: 0")).count();
    assert!(done > 20, "only {done} of {} lines of a shell succeed", theirs.len());
    let different = theirs.iter().zip(&ours).filter(|(theirs, ours)| theirs != ours);
    let shown = different.map(|((line, theirs), (_, ours))| format!("{line}\nQEMU:\n{theirs}\nours:\n{ours}"));
    let shown: Vec<String> = shown.collect();
    assert!(shown.is_empty(), "{}", shown.join("\n\n"));
}

#[test]
fn clients_are_told_over_a_unix_socket_what_qemu_tells_them() {
    check(false);
}

#[test]
fn clients_are_told_over_tcp_what_qemu_tells_them() {
    check(true);
}
