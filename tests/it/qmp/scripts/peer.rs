//! One daemon during a script: its process, its monitor, its guests, and the transcript of what it shows.
//!
//! Knows each step of scripts; waits by asking, so that no event can be missed.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use qmp_lite::wire::Value;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::net::{RecvFlags, recv};
use rustix::process::Signal;
use tidemark_frontend::{DeviceOptions, Request, Status};

use super::chain;
use super::content;
use super::request::json;
use super::script::Step;
use super::transcript::{self, Transcript, members};
use crate::cli::process::{Place, Running, TIMEOUT, wait_until};
use crate::qmp::daemon::{Client, differs};
use crate::vhost::guest::Guest;

/// Nothing that a script waits for takes anywhere near as long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions.
const POLL: Duration = Duration::from_millis(5);

/// A running daemon.
pub struct Peer {
    // Guests hang up before their daemon goes.
    guests: HashMap<String, Guest>,
    process: Option<Running>,
    client: Option<Client>,
    /// How many events of the client are in the transcript.
    seen: usize,
    transcript: Transcript,
    /// Whether the last command failed.
    refused: bool,
    /// Whether the rest of the script makes no sense.
    over: bool,
    /// Files that somebody else holds.
    locked: Vec<File>,
    /// What is being done.
    current: String,
    /// Which daemon it is.
    program: String,
    place: Place,
}

impl Peer {
    /// Starts `program` with a monitor and nothing else.
    pub fn start(program: &str) -> Self {
        let place = Place::new();
        let monitor = ["--chardev", "socket,id=m,path=qmp,server=on,wait=off", "--monitor", "chardev=m"];
        let process = Some(place.start(program, &monitor));
        let transcript = Transcript::default();
        let mut peer = Self {
            guests: HashMap::new(),
            process,
            client: None,
            seen: 0,
            transcript,
            refused: false,
            over: false,
            locked: Vec::new(),
            current: String::new(),
            program: program.to_owned(),
            place,
        };
        peer.connect();
        peer
    }

    fn connect(&mut self) {
        self.client = None;
        let path = self.place.file("qmp");
        // No connection before it: the monitor has one client at a time.
        let mut stream = None;
        wait_until("a monitor", || {
            stream = UnixStream::connect(&path).ok().filter(greets);
            stream.is_some()
        });
        let mut client = Client::new(stream.expect("a connection"), self.place.path());
        client.ask("{'execute': 'qmp_capabilities'}");
        (self.client, self.seen) = (Some(client), 0);
    }

    /// Does one step.
    pub fn step(&mut self, step: &Step) {
        if self.over {
            return;
        }
        self.current.clone_from(&step.text);
        match step.verb.as_str() {
            "disk" | "empty" => self.create(step),
            "chain" => self.create_chain(step),
            "header" => self.transcript.note(&step.text, &chain::header(&self.image(step.word(0)))),
            "shows" => {
                let shown = chain::shown(&self.image(step.word(0)));
                self.transcript.note(&step.text, &shown);
            }
            "nodes" => self.nodes(step),
            "guest" => self.connect_guest(step.word(0), true),
            "reader" => self.connect_guest(step.word(0), false),
            "hang-up" => drop(self.guests.remove(step.word(0)).expect("a guest")),
            "write" | "zero" | "unmap" | "discard" | "flush" => self.guest_request(step),
            "read" => self.guest_read(step),
            "until" => self.until(step.word(0), &[step.word(1)]),
            "rest" => self.until(step.word(0), &["paused", "pending", "concluded", "gone"]),
            "again" => self.again(step.word(0)),
            "begun" | "progress" => self.progress(step),
            "jobs" | "bitmaps" | "exports" => self.query(step),
            "content" => {
                let shown = content::shown(&self.image(step.word(0)));
                self.transcript.note(&step.text, &shown);
            }
            "keep" => drop(std::fs::copy(self.image(step.word(0)), self.image(step.word(1))).unwrap()),
            "same" => self.same(step),
            "differs" => differs(&step.rest),
            "answer" => self.transcript.expect(&step.rest),
            "lock" => self.lock(step.word(0)),
            "unless-refused" => self.over = self.refused,
            "in-order" => self.transcript.in_order(),
            "reconnect" => self.connect(),
            "quit" | "terminate" => self.stop(&step.verb),
            _ => self.command(step),
        }
    }

    /// The transcript, once the events of all jobs have arrived.
    pub fn end(mut self) -> Transcript {
        if self.client.is_some() {
            self.ask("{'execute': 'query-version'}");
            for job in self.transcript.jobs() {
                let status = self.job(&job).map_or("null".into(), |job| job["status"].clone());
                self.wait_for_event(&job, status.as_str().expect("a status"));
            }
        }
        std::mem::take(&mut self.transcript).finish()
    }

    fn image(&self, name: &str) -> std::path::PathBuf {
        self.place.file(&format!("{name}.img"))
    }

    /// The reply to a command; events go to the transcript.
    fn ask(&mut self, text: &str) -> Value {
        let client = self.client.as_mut().expect("a step after the daemon's end");
        let mut replies = client.ask(text);
        client.events()[self.seen..].iter().for_each(|event| self.transcript.event(event));
        self.seen = client.events().len();
        assert_eq!(replies.len(), 1, "{text}: {replies:?}");
        replies.remove(0)
    }

    fn succeed(&mut self, text: &str) -> Value {
        let reply = self.ask(text);
        reply.get("return").unwrap_or_else(|| panic!("{text}: {reply}")).clone()
    }

    fn command(&mut self, step: &Step) {
        let arguments = if step.rest.is_empty() { "{}" } else { &step.rest };
        let text = format!("{{'execute': '{}', 'arguments': {}}}", step.verb, json(arguments));
        let reply = self.ask(&text);
        self.refused = reply.get("error").is_some();
        self.transcript.note(&step.text, &transcript::reply(&reply));
    }

    fn create(&mut self, step: &Step) {
        let (name, size) = (step.word(0), step.size(1));
        match step.verb.as_str() {
            "disk" => content::create_disk(&self.image(name), size),
            _ => content::create_hole(&self.image(name), size),
        }
        let node = format!("{{driver: file, node-name: {name}, filename: {name}.img, discard: unmap}}");
        self.succeed(&format!("{{'execute': 'blockdev-add', 'arguments': {}}}", json(&node)));
    }

    fn create_chain(&mut self, step: &Step) {
        let images = step.word(0).parse().expect("a number");
        chain::create(self.place.path(), images, step.size(1));
        let is_writable = step.rest.ends_with(" writable");
        for number in 0..images {
            let node = json(&chain::node(number, !is_writable && number + 1 < images));
            self.succeed(&format!("{{'execute': 'blockdev-add', 'arguments': {node}}}"));
        }
    }

    fn nodes(&mut self, step: &Step) {
        let nodes = self.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
        let shown = nodes.as_array().expect("a list").iter().map(|node| {
            let backing = &node["image"]["backing-filename"];
            format!("{}({} ro={} over {backing})", node["node-name"], node["drv"], node["ro"])
        });
        let shown = shown.collect::<Vec<_>>().join(" ");
        self.transcript.note(&step.text, &transcript::anonymous(&shown));
    }

    fn connect_guest(&mut self, node: &str, writable: bool) {
        let export = format!(
            "{{type: vhost-user-blk, id: guest-{node}, node-name: {node}, writable: {writable}, \
             addr: {{type: unix, path: {node}.sock}}}}"
        );
        let reply = self.ask(&format!("{{'execute': 'block-export-add', 'arguments': {}}}", json(&export)));
        if reply.get("error").is_some() {
            self.transcript.note(&format!("guest {node}"), &transcript::reply(&reply));
            return;
        }
        let guest = Guest::at(&self.place.file(&format!("{node}.sock")), DeviceOptions::default());
        self.guests.insert(node.to_owned(), guest);
    }

    /// Locks all bytes that programs lock of an image, as one does that neither writes nor lets others write.
    fn lock(&mut self, name: &str) {
        let file = File::open(self.image(name)).unwrap();
        fcntl_lock(&file, FlockOperation::NonBlockingLockShared).unwrap();
        self.locked.push(file);
    }

    fn guest_request(&mut self, step: &Step) {
        let node = step.word(0);
        let guest = self.guests.get_mut(node).unwrap_or_else(|| panic!("{node} has no guest"));
        let status = match step.verb.as_str() {
            "flush" => guest.run(&Request::Flush),
            "discard" => guest.run(&Request::Discard { offset: step.size(1), len: step.size(2) }),
            "write" => {
                let byte = u8::try_from(step.size(3)).unwrap();
                guest.write(step.size(1), &vec![byte; usize::try_from(step.size(2)).unwrap()])
            }
            verb => {
                guest.run(&Request::WriteZeroes { offset: step.size(1), len: step.size(2), unmap: verb == "unmap" })
            }
        };
        self.transcript.note(&step.text, &format!("{status:?}"));
    }

    fn guest_read(&mut self, step: &Step) {
        let guest = self.guests.get_mut(step.word(0)).expect("a guest");
        let data = guest.alloc(u32::try_from(step.size(2)).unwrap());
        let status = guest.run(&Request::Read { offset: step.size(1), data: &[data] });
        let bytes = guest.device.memory().to_vec(data).unwrap();
        let shown = if status == Status::Ok { content::runs(&bytes) } else { format!("{status:?}") };
        self.transcript.note(&step.text, &shown);
    }

    fn job(&mut self, id: &str) -> Option<Value> {
        let jobs = self.succeed("{'execute': 'query-jobs'}");
        jobs.as_array().expect("a list").iter().find(|job| job["id"] == id).cloned()
    }

    fn until(&mut self, id: &str, wanted: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            let found = self.job(id).map_or("gone".to_owned(), |job| job["status"].as_str().unwrap().to_owned());
            if wanted.contains(&found.as_str()) && self.is_settled(id, &found) {
                break found;
            }
            assert!(Instant::now() < deadline, "'{}' in vain: it is {found}", self.current);
            thread::sleep(POLL);
        };
        self.wait_for_event(id, if status == "gone" { "null" } else { &status });
        if status != "running" {
            self.transcript.waited(id, &status);
        }
    }

    /// Whether a pause is a user's or an error's: QEMU's own end at once.
    fn is_settled(&mut self, id: &str, status: &str) -> bool {
        if status != "paused" {
            return true;
        }
        thread::sleep(4 * POLL);
        self.job(id).is_some_and(|job| job["status"] == "paused")
    }

    fn again(&mut self, id: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.transcript.is_paused_again(id) {
            assert!(Instant::now() < deadline, "'{}' in vain", self.current);
            thread::sleep(POLL);
            self.ask("{'execute': 'query-version'}");
        }
        self.transcript.waited(id, "paused");
    }

    fn wait_for_event(&mut self, job: &str, status: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.transcript.last_status(job) != Some(status) {
            let last = self.transcript.last_status(job);
            assert!(Instant::now() < deadline, "no event tells that {job} is {status}, but {last:?}");
            thread::sleep(POLL);
            self.ask("{'execute': 'query-version'}");
        }
    }

    fn progress(&mut self, step: &Step) {
        let (id, wanted) = (step.word(0), step.rest.split_once(' ').map(|_| step.size(1)));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let jobs = self.succeed("{'execute': 'query-block-jobs'}");
            let job = jobs.as_array().expect("a list").iter().find(|job| job["device"] == id).cloned();
            let offset = job.as_ref().and_then(|job| job["offset"].as_u64()).unwrap_or_default();
            if wanted.map_or(offset > 0, |wanted| offset == wanted) {
                if step.verb == "progress" {
                    self.transcript.note(&step.text, &offset.to_string());
                }
                return;
            }
            assert!(Instant::now() < deadline, "'{}' in vain: {job:?}", step.text);
            thread::sleep(POLL);
        }
    }

    fn query(&mut self, step: &Step) {
        let shown = match step.verb.as_str() {
            "jobs" => [("query-jobs", "id"), ("query-block-jobs", "device")]
                .map(|(command, id)| self.jobs(command, id))
                .concat(),
            "exports" => {
                list(&self.succeed("{'execute': 'query-block-exports'}"), "id", |export| members(export, &[], &[]))
            }
            _ => self.bitmaps(step.word(0)),
        };
        self.transcript.note(&step.text, &shown.join("\n      "));
    }

    fn jobs(&mut self, command: &str, id: &str) -> Vec<String> {
        let jobs = self.succeed(&format!("{{'execute': '{command}'}}"));
        let shown = |job: &Value| {
            let still = ["pending", "waiting", "concluded"].iter().any(|status| job["status"] == *status);
            let masked: &[&str] = match (still, job.get("error").is_none()) {
                (true, true) => &[],
                _ => &["offset", "current-progress", "busy"],
            };
            format!("{command}: {}", members(job, &[], masked))
        };
        list(&jobs, id, shown)
    }

    fn bitmaps(&mut self, node: &str) -> Vec<String> {
        let nodes = self.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
        let nodes = nodes.as_array().expect("a list");
        let found = nodes.iter().find(|entry| entry["node-name"] == node).unwrap_or_else(|| panic!("no node {node}"));
        let mut bitmaps = found["dirty-bitmaps"].clone();
        // Successors and those of filters are nobody's business.
        if let Some(bitmaps) = bitmaps.as_array_mut() {
            bitmaps.retain(|bitmap| bitmap.get("name").is_some());
        }
        list(&bitmaps, "name", |bitmap| members(bitmap, &[], &[]))
    }

    fn same(&mut self, step: &Step) {
        let outcome = content::difference(&self.image(step.word(0)), &self.image(step.word(1)));
        if let Some(at) = outcome {
            self.transcript.mistake(format!("'{}': they differ at {at}", step.text));
        }
    }

    fn stop(&mut self, verb: &str) {
        let client = self.client.take().expect("a monitor");
        let process = self.process.take().expect("a process");
        let request = if verb == "quit" { "{'execute': 'quit'}\n" } else { "" };
        if verb == "terminate" {
            process.signal(Signal::TERM);
        }
        for message in client.ask_last(request) {
            match message.get("event") {
                Some(_) => self.transcript.event(&message),
                None => self.transcript.note(verb, &transcript::reply(&message)),
            }
        }
        let (status, _) = process.wait();
        self.transcript.note(verb, &status.to_string());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}: in '{}', after\n{}", self.program, self.current, self.transcript);
        }
    }
}

/// Whether a monitor has something to say. A starting `qemu-storage-daemon` on a busy machine may hang up on the first.
fn greets(stream: &UnixStream) -> bool {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    recv(stream, &mut [0; 1], RecvFlags::PEEK).is_ok_and(|(_, len)| len == 1)
}

/// The elements of a list in the order of a member.
fn list(value: &Value, key: &str, shown: impl Fn(&Value) -> String) -> Vec<String> {
    let mut entries: Vec<_> = value.as_array().cloned().unwrap_or_default();
    entries.sort_by_key(|entry| entry[key].as_str().unwrap_or_default().to_owned());
    entries.iter().map(shown).collect()
}
