//! The rules of blkdebug, beside QEMU's: the same rules, the same requests, the same results.

use super::bench::{Bench, bare, file_options, write};
use crate::io::{Buf, Memory};
use crate::node::options::{
    BlkDebugOptions, ChildRef, Delays, DriverOptions, InjectError, IoType, RawOptions, SetState,
};
use crate::node::{Kind, NodeOptions, Request};
use std::process::Command;

const LEN: usize = 1 << 20;

/// Requests as `qemu-io` commands.
const READ: &str = "read 0 512";
const READ_1: &str = "read 512 512";
const WRITE: &str = "write 0 512";
const ZERO: &str = "write -z 0 4k";
const DISCARD: &str = "discard 0 4k";
const FLUSH: &str = "flush";

const CASES: [(&str, &[&str]); 19] = [
    ("[inject-error]\nevent = \"none\"", &[READ, WRITE, ZERO, DISCARD]),
    ("[inject-error]\nevent = \"none\"\niotype = \"read\"", &[READ, WRITE, READ]),
    ("[inject-error]\nevent = \"none\"\niotype = \"write\"", &[READ, WRITE, ZERO]),
    ("[inject-error]\nevent = \"none\"\niotype = \"write-zeroes\"", &[WRITE, ZERO, READ]),
    ("[inject-error]\nevent = \"none\"\niotype = \"discard\"", &[WRITE, DISCARD, READ]),
    ("[inject-error]\nevent = \"none\"\niotype = \"flush\"", &[WRITE, FLUSH, READ]),
    ("[inject-error]\nevent = \"none\"\niotype = \"read\"\nonce = \"on\"", &[READ, READ]),
    ("[inject-error]\nevent = \"read_aio\"\nonce = \"on\"", &[READ, READ, READ]),
    ("[inject-error]\nevent = \"none\"\nerrno = \"0\"", &[READ, WRITE]),
    ("[inject-error]\nevent = \"none\"\nsector = \"1\"", &[READ, READ_1, WRITE, ZERO]),
    (
        "[inject-error]\nevent = \"none\"\nonce = \"on\"\n[inject-error]\nevent = \"none\"\nonce = \"on\"",
        &[READ, READ_1, READ],
    ),
    (
        "[inject-error]\nevent = \"read_aio\"\niotype = \"write\"\n[inject-error]\nevent = \"write_aio\"\niotype = \"read\"",
        &[READ, WRITE, READ, WRITE],
    ),
    (
        "[set-state]\nevent = \"read_aio\"\nnew_state = \"2\"\n[set-state]\nevent = \"read_aio\"\nnew_state = \"3\"\n\
         [inject-error]\nevent = \"write_aio\"\nstate = \"3\"\n",
        &[WRITE, READ, WRITE],
    ),
    (
        "[set-state]\nevent = \"read_aio\"\nstate = \"1\"\nnew_state = \"2\"\n[set-state]\nevent = \"read_aio\"\n\
         state = \"2\"\nnew_state = \"5\"\n[inject-error]\nevent = \"write_aio\"\nstate = \"5\"\nonce = \"on\"\n",
        &[WRITE, READ, WRITE, READ, WRITE, WRITE],
    ),
    ("[inject-error]\nevent = \"pwritev\"", &[READ, WRITE, READ]),
    ("[inject-error]\nevent = \"pwritev_zero\"", &[WRITE, ZERO, READ]),
    ("[inject-error]\nevent = \"pwritev_done\"", &[READ, WRITE, READ]),
    ("[inject-error]\nevent = \"flush_to_disk\"", &[WRITE, FLUSH, READ]),
    ("[inject-error]\nevent = \"flush_to_os\"", &[WRITE, FLUSH, READ]),
];

/// Which of the requests succeed in qemu-io. It says nothing of a flush: only its status tells whether all went well.
fn qemu(image: &str, config: &str, commands: &[&str]) -> Vec<bool> {
    let filter = format!(
        "json:{{\"driver\":\"raw\",\"discard\":\"unmap\",\"file\":{{\"driver\":\"blkdebug\",\"config\":\"{config}\",\
         \"image\":{{\"driver\":\"file\",\"filename\":\"{image}\"}}}}}}"
    );
    let run = |until: usize| {
        let commands = commands[..until].iter().flat_map(|command| ["-c", command]);
        let output = Command::new("qemu-io").args(commands).arg(&filter).output();
        output.unwrap_or_else(|error| panic!("qemu-io, of package qemu-utils: {error}"))
    };
    let text = String::from_utf8(run(commands.len()).stdout).unwrap();
    let mut said = text.lines().filter(|line| line.contains("failed") || line.contains(" bytes at offset "));
    let ended = commands.iter().enumerate().map(|(index, command)| match *command {
        FLUSH => {
            assert!(run(index).status.success(), "a flush is told from what stands before it");
            run(index + 1).status.success()
        }
        _ => !said.next().expect("a line for each").contains("failed"),
    });
    ended.collect()
}

fn request(command: &str) -> Request {
    match command {
        READ | READ_1 => {
            let offset = if command == READ { 0 } else { 512 };
            Request { kind: Kind::Read, fua: false, offset, len: 512, memory: Memory::from(Buf::new(512)) }
        }
        WRITE => write(0, &[0xcd; 512]),
        ZERO => bare(Kind::Zero { unmap: false }, 0, 4096),
        DISCARD => bare(Kind::Discard, 0, 4096),
        _ => bare(Kind::Flush, 0, 0),
    }
}

fn debug(child: NodeOptions, config: Option<&str>) -> BlkDebugOptions {
    BlkDebugOptions {
        image: ChildRef::Inline(Box::new(child)),
        align: 0,
        config: config.map(Into::into),
        inject_error: Vec::new(),
        set_state: Vec::new(),
        delay: Delays::default(),
    }
}

/// Which of the requests succeed in ours.
fn ours(config: &str, commands: &[&str]) -> Vec<bool> {
    let mut bench = Bench::new(1, &vec![0; LEN], 1);
    let child = NodeOptions { node_name: None, ..file_options(bench.image.path()) };
    let filter = NodeOptions::new(DriverOptions::BlkDebug(debug(child, Some(config))));
    let raw = RawOptions { file: ChildRef::Inline(Box::new(filter)), offset: 0, size: None, guard_format: false };
    let options = NodeOptions {
        node_name: Some("raw".into()),
        discard: crate::node::options::Discard::Unmap,
        ..NodeOptions::new(DriverOptions::Raw(raw))
    };
    let node = bench.graph.open(&options).unwrap();
    commands.iter().map(|command| bench.run(&node, request(command)).1.is_ok()).collect()
}

#[test]
fn rules_do_what_they_do_in_qemu() {
    let directory = tempfile::tempdir().unwrap();
    let (image, config) = (directory.path().join("disk"), directory.path().join("rules"));
    let (image, config) = (image.to_str().unwrap(), config.to_str().unwrap());
    std::fs::write(image, vec![0; LEN]).unwrap();
    for (rules, commands) in CASES {
        std::fs::write(config, format!("{rules}\n")).unwrap();
        assert_eq!(ours(config, commands), qemu(image, config, commands), "{rules}\n{commands:?}");
    }
}

#[test]
fn a_delayed_request_takes_as_long_as_it_should_and_others_do_not_wait_for_it() {
    let mut bench = Bench::new(1, &vec![0; LEN], 1);
    let mut filter = debug(NodeOptions { node_name: None, ..file_options(bench.image.path()) }, None);
    filter.delay = Delays { read: 50_000_000, ..Delays::default() };
    let options = NodeOptions { node_name: Some("d".into()), ..NodeOptions::new(DriverOptions::BlkDebug(filter)) };
    let node = bench.graph.open(&options).unwrap();
    let read = bench.begin(0, &node, request(READ));
    let write = bench.begin(0, &node, request(WRITE));
    bench.finish(&[&write]);
    assert!(read.borrow().is_none() && bench.world.now() < 50_000_000);
    bench.finish(&[&read]);
    assert!((50_000_000..60_000_000).contains(&bench.world.now()));
}

#[test]
fn rules_given_as_options_name_the_error_and_the_state() {
    let rule = |event: &str, state, errno| InjectError {
        event: event.into(),
        state,
        iotype: Some(IoType::Write),
        errno,
        sector: None,
        once: false,
        immediately: false,
    };
    let mut bench = Bench::new(1, &vec![0; LEN], 1);
    let mut filter = debug(NodeOptions { node_name: None, ..file_options(bench.image.path()) }, None);
    filter.inject_error = vec![rule("pwritev", Some(1), 28), rule("pwritev", Some(2), 1)];
    filter.set_state = vec![SetState { event: "pwritev_done".into(), state: Some(1), new_state: 2 }];
    let options = NodeOptions { node_name: Some("d".into()), ..NodeOptions::new(DriverOptions::BlkDebug(filter)) };
    let node = bench.graph.open(&options).unwrap();
    assert_eq!(bench.run(&node, request(WRITE)).1, Err(crate::error::IoError::NoSpace));
    assert_eq!(bench.run(&node, request(WRITE)).1, Err(crate::error::IoError::Permission));
}

#[test]
fn rules_of_a_file_that_make_no_sense_are_refused_as_in_qemu() {
    let bench = Bench::new(1, &vec![0; LEN], 1);
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("rules");
    for (rules, text) in [
        ("[inject-error]\nevent = \"bogus\"", "invalid parameter value: bogus"),
        ("[set-state]\nevent = \"bogus\"\nnew_state = \"2\"", "invalid parameter value: bogus"),
        ("[inject-error]\nstate = \"1\"", "Missing event name for rule"),
        ("[inject-errors]\nevent = \"none\"", "There is no option group 'inject-errors'"),
    ] {
        std::fs::write(&config, rules).unwrap();
        let child = NodeOptions { node_name: None, ..file_options(bench.image.path()) };
        let filter = debug(child, config.to_str());
        let options = NodeOptions { node_name: Some("d".into()), ..NodeOptions::new(DriverOptions::BlkDebug(filter)) };
        assert_eq!(bench.graph.open(&options).unwrap_err().to_string(), text, "{rules}");
    }
}
