//! Monitors over real sockets, as clients see them.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::outbox::EVENT_BYTES;
use super::{Monitor, MonitorOptions};
use crate::chardev::Chardev;
use crate::context::Context;
use crate::dispatch::Dispatcher;
use crate::event::{BlockExportDeleted, Event};

/// Nothing here takes anywhere near as long.
const TIMEOUT: Duration = Duration::from_secs(20);

struct Daemon {
    dir: TempDir,
    dispatcher: Arc<Dispatcher>,
    monitors: Vec<Monitor>,
}

impl Daemon {
    fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let dispatcher = Dispatcher::new(Context::new());
        let monitors = options.iter().map(|options| {
            let options = MonitorOptions::parse(options).unwrap();
            let path = dir.path().join(&options.chardev);
            let device = format!("socket,id=x,path={},server=on,wait=off", path.display());
            let device = Chardev::open(&device).unwrap();
            Monitor::start(device, &options, dispatcher.clone()).unwrap()
        });
        let monitors = monitors.collect();
        Self { dir, dispatcher, monitors }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn stop(self) {
        self.monitors.into_iter().for_each(Monitor::stop);
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Self(BufReader::new(stream))
    }

    /// A client that has been greeted and has negotiated.
    fn ready(path: &Path) -> Self {
        let mut client = Self::connect(path);
        assert_eq!(client.read()["QMP"]["capabilities"], json!([]));
        assert_eq!(client.ask("{'execute': 'qmp_capabilities'}"), json!({"return": {}}));
        client
    }

    fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "{line:?}");
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, text: &str) -> Value {
        self.write(text);
        self.read()
    }
}

fn deleted(id: &str) -> Event {
    Event::BlockExportDeleted(BlockExportDeleted { id: id.to_owned() })
}

#[test]
fn a_client_is_greeted_negotiates_and_is_answered_in_order() {
    let daemon = Daemon::new(&["m"]);
    let mut client = Client::connect(&daemon.path("m"));
    let greeting = client.read();
    assert_eq!(greeting["QMP"]["version"]["qemu"], json!({"major": 10, "minor": 0, "micro": 2}));
    let early = client.ask("{'execute': 'query-commands', 'id': [1, null]}");
    assert_eq!(early["id"], json!([1, null]));
    assert_eq!(early["error"]["class"], "CommandNotFound");
    client.write("{'execute':'qmp_capabilities'}{'execute':'query-version','id':1}\n");
    client.write("{'execute':'nosuch','id':{'a':2}} {'execute':'qmp_capabilities'}");
    assert_eq!(client.read(), json!({"return": {}}));
    assert_eq!(client.read()["id"], 1);
    let unknown = json!({"class": "CommandNotFound", "desc": "The command nosuch has not been found"});
    assert_eq!(client.read(), json!({"id": {"a": 2}, "error": unknown}));
    assert_eq!(client.read()["error"]["class"], "CommandNotFound");
    assert_eq!(client.ask("{'execute': }")["error"]["class"], "GenericError");
    assert_eq!(client.ask("{'execute':'query-block-exports'}"), json!({"return": []}));
    daemon.stop();
}

#[test]
fn events_reach_every_negotiated_monitor_and_no_other() {
    let daemon = Daemon::new(&["a", "b", "c"]);
    let mut a = Client::ready(&daemon.path("a"));
    let mut b = Client::ready(&daemon.path("b"));
    let mut c = Client::connect(&daemon.path("c"));
    c.read();
    daemon.dispatcher.context().events.send(deleted("e"));
    for client in [&mut a, &mut b] {
        let event = client.read();
        assert_eq!(event["event"], "BLOCK_EXPORT_DELETED");
        assert_eq!(event["data"], json!({"id": "e"}));
    }
    assert_eq!(c.ask("{'execute':'qmp_capabilities'}"), json!({"return": {}}), "no event before");
    daemon.stop();
}

#[test]
fn a_second_client_waits_until_the_first_has_gone() {
    let daemon = Daemon::new(&["m"]);
    let first = Client::ready(&daemon.path("m"));
    let mut second = Client::connect(&daemon.path("m"));
    second.0.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(second.0.fill_buf().is_err(), "greeted too early");
    second.0.get_ref().set_read_timeout(Some(TIMEOUT)).unwrap();
    drop(first);
    second.read();
    assert_eq!(second.ask("{'execute':'qmp_capabilities'}"), json!({"return": {}}));
    daemon.stop();
}

#[test]
fn a_client_that_ends_its_requests_still_gets_its_replies() {
    let daemon = Daemon::new(&["m"]);
    let mut client = Client::connect(&daemon.path("m"));
    client.write("{'execute':'qmp_capabilities'}{'execute':'query-qmp-schema'}");
    client.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    client.0.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), 3, "greeting and two replies");
    assert!(text.ends_with("}\r\n"));
    daemon.stop();
}

#[test]
fn a_client_that_does_not_read_makes_nobody_else_wait() {
    let daemon = Daemon::new(&["lazy", "m"]);
    let mut lazy = Client::ready(&daemon.path("lazy"));
    // Far more replies than sockets and queue hold: the daemon stops running this client's commands.
    lazy.0.get_ref().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let asks = "{'execute':'query-qmp-schema'}".repeat(2000);
    let _ = lazy.0.get_mut().write_all(asks.as_bytes());
    let mut client = Client::ready(&daemon.path("m"));
    for id in 0..20 {
        let ask = format!("{{'execute':'query-block-exports','id':{id}}}");
        assert_eq!(client.ask(&ask), json!({"id": id, "return": []}));
    }
    // It has asked for more than it will ever read, and still the daemon ends.
    daemon.stop();
}

#[test]
fn a_client_that_lets_its_events_lie_is_disconnected() {
    let daemon = Daemon::new(&["lazy", "m"]);
    let mut lazy = Client::ready(&daemon.path("lazy"));
    let mut client = Client::ready(&daemon.path("m"));
    let id = "x".repeat(64 << 10);
    let events = 2 * EVENT_BYTES / id.len();
    let reading = std::thread::spawn(move || {
        (0..events).for_each(|_| assert_eq!(client.read()["event"], "BLOCK_EXPORT_DELETED"));
        client
    });
    for _ in 0..events {
        daemon.dispatcher.context().events.send(deleted(&id));
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut client = reading.join().unwrap();
    assert_eq!(client.ask("{'execute':'query-block-exports'}"), json!({"return": []}));
    let mut rest = Vec::new();
    // What was sent before the end can be read; then the connection is over.
    let _ = lazy.0.read_to_end(&mut rest);
    assert!(rest.len() < events * id.len());
    Client::ready(&daemon.path("lazy"));
    daemon.stop();
}

#[test]
fn quit_is_answered_after_the_daemon_has_been_asked_to_end() {
    let daemon = Daemon::new(&["m"]);
    let mut client = Client::ready(&daemon.path("m"));
    let quit = daemon.dispatcher.context().quit.clone();
    let waiting = std::thread::spawn(move || quit.wait());
    client.write("{'execute':'quit','id':'bye'}{'execute':'query-version'}");
    waiting.join().unwrap();
    daemon.stop();
    assert_eq!(client.read(), json!({"id": "bye", "return": {}}));
}

#[test]
fn a_pretty_monitor_prints_one_member_per_line() {
    let daemon = Daemon::new(&["m,pretty=on"]);
    let mut client = Client::connect(&daemon.path("m"));
    let mut line = String::new();
    client.0.read_line(&mut line).unwrap();
    client.0.read_line(&mut line).unwrap();
    assert_eq!(line, "{\r\n    \"QMP\": {\r\n");
    daemon.stop();
}

#[test]
fn monitor_options_are_read_as_qemu_reads_them() {
    let options = MonitorOptions::parse("chardev=x,mode=control,pretty=on").unwrap();
    assert_eq!((options.chardev.as_str(), options.pretty), ("x", Some(true)));
    let refused = |option: &str| MonitorOptions::parse(option).unwrap_err().desc;
    assert_eq!(refused("x,mode=foo"), "Parameter 'mode' does not accept value 'foo'");
    assert_eq!(refused("x,mode=readline"), "Monitor mode 'readline' is not supported");
    assert_eq!(refused("id=x"), "Parameter 'chardev' is missing");
}
