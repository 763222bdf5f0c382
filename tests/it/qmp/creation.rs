//! `blockdev-create` beside `qemu-storage-daemon`: of what is made QEMU's tools say the same.

use std::process::Command;

use qmp_lite::wire::{self, Value};

use super::daemon::{Client, Daemon, QEMU, TIDEMARK, displace};

fn tool(daemon: &Daemon, script: &str) -> String {
    let output = Command::new("bash").args(["-c", script]).current_dir(daemon.dir()).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a job that makes something; how it ended.
fn create(client: &mut Client, options: &str) -> Value {
    client.succeed(&format!(
        "{{'execute': 'blockdev-create', 'arguments': {{'job-id': 'c', 'options': {{{options}}}}}}}"
    ));
    loop {
        let jobs = client.succeed("{'execute': 'query-jobs'}");
        if jobs[0]["status"] == "concluded" {
            client.succeed("{'execute': 'job-dismiss', 'arguments': {'id': 'c'}}");
            return jobs[0]["error"].clone();
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// What is to be said of an image: all but how much space it takes.
fn described(daemon: &Daemon, path: &str) -> Value {
    let text = tool(daemon, &format!("qemu-img info -U --output json {path}"));
    let mut info = wire::parse(&displace(&text, daemon.dir())).unwrap();
    let members = info.as_object_mut().unwrap();
    ["actual-size", "children", "dirty-flag"].iter().for_each(|name| drop(members.remove(*name)));
    info
}

/// Makes images with these options in files that hold something; what QEMU's tools say of each.
fn play(program: &str) -> Vec<String> {
    let mut daemon = Daemon::start(program, &[]);
    let mut client = daemon.negotiate();
    let mut came = Vec::new();
    for (number, options) in [
        "'size': 1048576",
        "'size': 0",
        "'size': 1048576, 'version': 'v2'",
        "'size': 10737418240, 'cluster-size': 512, 'refcount-bits': 1",
        "'size': 1049088, 'cluster-size': 2097152, 'refcount-bits': 64, 'lazy-refcounts': true",
        "'size': 1048576, 'compression-type': 'zstd'",
        "'size': 1048576, 'backing-file': 'base', 'backing-fmt': 'raw'",
        "'size': 1048576, 'backing-file': 'base'",
        "'size': 1048576, 'preallocation': 'metadata'",
        "'size': 1048576, 'preallocation': 'falloc'",
        "'size': 1048576, 'preallocation': 'full', 'cluster-size': 4096",
        "'size': 1048576, 'data-file': 'd'",
        "'size': 1048576, 'data-file': 'd', 'data-file-raw': true",
        "'size': 1048576, 'data-file': 'd', 'preallocation': 'full'",
    ]
    .into_iter()
    .enumerate()
    {
        tool(&daemon, &format!("rm -f data; touch file{number} data"));
        for node in [format!("'f', 'filename': 'DIR/file{number}'"), "'d', 'filename': 'DIR/data'".to_owned()] {
            let add = format!("{{'driver': 'file', 'node-name': {node}}}");
            client.succeed(&format!("{{'execute': 'blockdev-add', 'arguments': {add}}}"));
        }
        let error = create(&mut client, &format!("'driver': 'qcow2', 'file': 'f', {options}"));
        assert_eq!(error, Value::Null, "{program}: {options}");
        for node in ["f", "d"] {
            client.succeed(&format!("{{'execute': 'blockdev-del', 'arguments': {{'node-name': '{node}'}}}}"));
        }
        let alone = format!("json:{{\"driver\": \"qcow2\", \"backing\": null, \"file.filename\": \"file{number}\"}}");
        tool(&daemon, &format!("qemu-img check -q '{alone}'"));
        let taken = "[ $(stat -c %b FILE) -ge 2048 ] && echo full || echo sparse";
        let [file, data] =
            [format!("file{number}"), "data".to_owned()].map(|file| tool(&daemon, &taken.replace("FILE", &file)));
        let zeroes = match options.contains("'size': 10737418240") {
            true => String::new(),
            false => tool(&daemon, &format!("qemu-img convert -O raw '{alone}' raw; tr -d '\\0' < raw | wc -c")),
        };
        let length = tool(&daemon, "stat -c %s data");
        let info = described(&daemon, &format!("file{number}"));
        came.push(format!("{options}: {info} {file}{data}{length}{zeroes}"));
    }
    came
}

#[test]
fn images_are_made_as_by_qemu_storage_daemon() {
    let [expected, found] = [QEMU, TIDEMARK].map(play);
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(found, expected);
    }
}
