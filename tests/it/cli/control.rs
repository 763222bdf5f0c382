//! `tidemark ctl` beside both daemons: single commands, and the prompt on a terminal.

use super::process::{Place, QEMU, Running, TIDEMARK, TIMEOUT, wait_until};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

fn daemon(place: &Place, program: &str) -> Running {
    let chardev = "socket,id=c,path=qmp,server=on,wait=off";
    let options = ["--blockdev", "null-co,node-name=n", "--chardev", chardev, "--monitor", "c"];
    loop {
        let daemon = place.start(program, &options);
        place.wait_for_socket("qmp");
        if greets(place) {
            return daemon;
        }
        // On a busy machine it takes a connection at times and says nothing.
        assert_eq!(program, QEMU, "no greeting");
    }
}

/// Whether the daemon says something to whoever connects.
fn greets(place: &Place) -> bool {
    let mut stream = None;
    wait_until("the monitor", || {
        stream = UnixStream::connect(place.file("qmp")).ok();
        stream.is_some()
    });
    stream.is_some_and(|mut stream| {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.read(&mut [0]).is_ok_and(|len| len > 0)
    })
}

/// Runs a command that has to succeed.
fn ask(place: &Place, words: &[&str]) -> qmp_lite::wire::Value {
    let output = place.run(TIDEMARK, &[&["ctl", "qmp"], words].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    assert_eq!(output.stderr, b"", "{words:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "one line where nobody reads: {text}");
    qmp_lite::wire::parse(&text).unwrap()
}

#[test]
fn commands_and_their_arguments_reach_both_daemons() {
    for program in [TIDEMARK, QEMU] {
        let place = Place::new();
        let _daemon = daemon(&place, program);
        // Typed by the daemon's schema: a number, a switch, nested members, JSON.
        ask(&place, &["blockdev-add", "driver=null-co", "node-name=a", "size=1M", "read-zeroes=on"]);
        ask(&place, &["blockdev-add", "driver=raw", "node-name=b", "file.driver=null-co", "file.size:=4096"]);
        ask(&place, &["blockdev-add", r#"{"driver": "raw", "node-name": "c", "file": "n"}"#]);
        let nodes = ask(&place, &["query-named-block-nodes", "flat=on"]);
        let size = |name: &str| {
            let node = nodes.as_array().unwrap().iter().find(|node| node["node-name"] == name);
            node.and_then(|node| node["image"]["virtual-size"].as_u64())
        };
        assert_eq!((size("a"), size("b")), (Some(1 << 20), Some(4096)), "{program}");
        ask(&place, &["blockdev-del", "node-name=c"]);
    }
}

#[test]
fn a_refused_command_is_status_1_with_class_and_text() {
    for program in [TIDEMARK, QEMU] {
        let place = Place::new();
        let _daemon = daemon(&place, program);
        for (words, expected) in [
            (&["no-such"][..], "tidemark: CommandNotFound: The command no-such has not been found\n"),
            (&["blockdev-del", "node-name=x"], "tidemark: GenericError: Failed to find node with node-name='x'\n"),
        ] {
            let message = place.refusal(&[&["ctl", "qmp"], words].concat());
            assert_eq!(message, expected, "{program}");
        }
    }
}

#[test]
fn without_a_daemon_the_socket_is_named() {
    let place = Place::new();
    let message = place.refusal(&["ctl", "nobody", "query-version"]);
    assert_eq!(message, "tidemark: cannot connect to 'nobody': No such file or directory\n");
}

/// A prompt on a pseudo-terminal.
struct Terminal {
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn open(place: &Place) -> Self {
        let line = format!("{TIDEMARK} ctl qmp");
        let mut command = Command::new("script");
        command
            .args(["-qefc", &line, "/dev/null"])
            .current_dir(place.path())
            .env("XDG_STATE_HOME", place.file("state"));
        let mut child = command
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1) is there");
        let mut from = child.stdout.take().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, output, seen: String::new() }
    }

    fn press(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for a text after what was waited for before.
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{text:?} did not come ({error}): {:?}", self.seen),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_prompt_completes_answers_and_remembers() {
    for program in [TIDEMARK, QEMU] {
        let place = Place::new();
        let _daemon = daemon(&place, program);
        let mut terminal = Terminal::open(&place);
        terminal.expect("tidemark> ");
        terminal.press("query-vers\t\r");
        terminal.expect("query-version");
        terminal.expect("\"micro\"");
        terminal.expect("tidemark> ");
        terminal.press("blockdev-del no\tx\r");
        terminal.expect("node-name=");
        terminal.expect("GenericError: Failed to find node with node-name='x'");
        terminal.expect("tidemark> ");
        terminal.press("exit\r");
        assert!(terminal.child.wait().unwrap().success());
        let history = std::fs::read_to_string(place.file("state/tidemark/ctl_history")).unwrap();
        assert!(history.contains("query-version") && history.contains("blockdev-del node-name=x"), "{history}");
    }
}

#[test]
fn the_prompt_shows_events_as_they_come() {
    let place = Place::new();
    let export = "vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=blk";
    let chardevs = ["socket,id=c,path=qmp,server=on,wait=off", "socket,id=d,path=other,server=on,wait=off"];
    let _daemon = place.start(
        TIDEMARK,
        &[
            &["--blockdev", "null-co,node-name=n", "--export", export][..],
            &["--chardev", chardevs[0], "--monitor", "c", "--chardev", chardevs[1], "--monitor", "d"],
        ]
        .concat(),
    );
    place.wait_for_listener("other");
    let mut terminal = Terminal::open(&place);
    terminal.expect("tidemark> ");
    assert!(place.run(TIDEMARK, &["ctl", "other", "block-export-del", "id=e"]).status.success());
    terminal.expect("BLOCK_EXPORT_DELETED");
    // The end of the daemon is the end of the prompt, after the reply.
    terminal.press("quit\r");
    terminal.expect("{}");
    assert!(terminal.child.wait().unwrap().success());
}
