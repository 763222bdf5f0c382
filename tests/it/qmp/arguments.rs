//! Every argument that QEMU's schema has for our commands: exercised beside `qemu-storage-daemon`, with
//! the same reply and the same state afterwards, or rejected. None is accepted and ignored.
//!
//! Which arguments there are, it learns from QEMU's schema; the requests they are put into are in `bases`.

mod bases;
mod chains;

use std::thread;
use std::time::{Duration, Instant};

use qmp_lite::wire::{self, Value};

use bases::{BASES, Base, CANCEL, CLEANUP, ELSEWHERE, STATE, VALUES};
use chains::CHAINS;

use super::daemon::{Client, Daemon, QEMU, TIDEMARK, TIMEOUT, differs, displace};
use super::schema::{Entries, find, is_own, list};

/// Accepted here although QEMU refuses it.
const MORE: [&str; 2] = ["blockdev-add 'file' aio 'native'", "blockdev-add 'host_device' aio 'native'"];

/// What QEMU's daemon crashes by, as soon as nodes are listed.
const CRASH: &str = "block-stream 'j' auto-dismiss false";

/// Members that are not compared: how files are called, and when a snapshot was taken.
const UNLIKE: [&str; 6] = ["file", "filename", "date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec"];

/// States that a job stays in.
const LASTING: [&str; 4] = ["paused", "ready", "pending", "concluded"];

/// How long the two daemons have to come to the same state.
const PATIENCE: Duration = Duration::from_secs(2);

/// One way to give an argument.
struct Variation {
    path: String,
    text: String,
    /// Whether our schema has it.
    ours: bool,
}

/// Both schemas, and the values that the request in question has.
#[derive(Clone, Copy)]
struct Schemas<'a> {
    qemu: &'a Entries,
    ours: &'a Entries,
    given: &'a [(&'a str, &'a str)],
}

#[derive(Default)]
struct Counts {
    exercised: usize,
    rejected: usize,
    wrong: Vec<String>,
}

#[test]
fn every_argument_of_qemu_is_exercised_or_rejected() {
    let (ours, qemu) = (Entries::of(TIDEMARK), Entries::of(QEMU));
    for root in ours.roots().filter(|root| root["meta-type"] == "command" && !is_own(root)) {
        let name = root["name"].as_str().expect("a name");
        let bases = BASES.iter().chain(&CHAINS).map(|base| base.command);
        let known = bases.chain(ELSEWHERE.map(|(command, _)| command)).any(|command| command == name);
        assert!(known, "{name} has no base request");
    }
    differs("blockdev-add: `aio: native` without `cache.direct`");
    differs("query-named-block-nodes: file names of filters and of `null-co`");
    differs("block-stream: nodes are listed after one with `auto-dismiss: false`");
    differs("blockdev-snapshot-internal-sync: `vm-clock-sec` of the snapshot");
    differs("qcow2: length of the file while it is written to");
    differs("drive-mirror: space that zeroes take in a new target");
    let mut daemons = [Daemon::start(QEMU, &[]), Daemon::start(TIDEMARK, &[])];
    let mut clients = daemons.each_mut().map(Daemon::negotiate);
    let mut counts = Counts::default();
    for base in BASES.iter().chain(&CHAINS) {
        for variation in variations_of(base, &qemu, &ours) {
            exercise(base, &variation, &mut clients, &daemons, &mut counts);
        }
    }
    println!("arguments and values exercised: {}, rejected: {}", counts.exercised, counts.rejected);
    assert!(counts.wrong.is_empty(), "{}", counts.wrong.join("\n"));
    assert!(counts.exercised > 400, "the schema lost its arguments");
}

/// All ways to give each argument of a command, in the branch that the base selects.
fn variations_of(base: &Base, qemu: &Entries, ours: &Entries) -> Vec<Variation> {
    let schemas = Schemas { qemu, ours, given: base.members };
    let name = Value::from(base.command);
    let (qemu_type, our_type) = (qemu.get(&qemu.get(&name)["arg-type"]), ours.get(&ours.get(&name)["arg-type"]));
    let mut found = schemas.members(qemu_type, our_type);
    let case = base.members.first().map_or("", |(_, text)| text.trim_matches('\''));
    if let Some(variant) = find(&qemu_type["variants"], "case", case) {
        let our_variant = find(&our_type["variants"], "case", case).expect("a branch of ours");
        found.extend(schemas.members(qemu.get(&variant["type"]), ours.get(&our_variant["type"])));
    }
    // Another branch would be another base.
    found.retain(|variation| Some(&*variation.path) != qemu_type["tag"].as_str());
    found
}

impl Schemas<'_> {
    fn members(self, qemu_type: &Value, our_type: &Value) -> Vec<Variation> {
        let mut found = Vec::new();
        for member in list(&qemu_type["members"]) {
            let name = member["name"].as_str().expect("a name");
            let our_member = find(&our_type["members"], "name", name);
            found.extend(self.values(name, &member["type"], our_member.map(|member| &member["type"])));
        }
        found
    }

    /// All values to try for a member of this name and type.
    fn values(self, name: &str, type_name: &Value, our_type: Option<&Value>) -> Vec<Variation> {
        let one = |text: &str| Variation { path: name.to_owned(), text: text.to_owned(), ours: our_type.is_some() };
        let entry = self.qemu.get(type_name);
        let mut known = self.given.iter().chain(&VALUES);
        let given = known.find(|(known, _)| *known == name).map(|(_, text)| *text);
        match (entry["meta-type"].as_str().expect("a meta-type"), given) {
            ("builtin", Some(text)) | ("alternate", Some(text)) => vec![one(text)],
            ("builtin", None) => match entry["json-type"].as_str().expect("a type") {
                "boolean" => vec![one("true"), one("false")],
                "string" => vec![one("'x'")],
                _ => vec![one("1")],
            },
            ("enum", _) => list(&entry["values"]).iter().map(|value| one(&format!("'{}'", text(value)))).collect(),
            ("array", _) => {
                let our_element = our_type.map(|name| &self.ours.get(name)["element-type"]);
                let mut found = self.values(name, &entry["element-type"], our_element);
                found.iter_mut().for_each(|variation| variation.text = format!("[{}]", variation.text));
                found
            }
            ("object", _) => self.objects(name, entry, our_type.map(|name| self.ours.get(name))),
            (other, _) => panic!("{name}: {other} without a value"),
        }
    }

    /// The object with each of its members in turn, in each of its branches.
    fn objects(self, name: &str, entry: &Value, our: Option<&Value>) -> Vec<Variation> {
        let mut found = Vec::new();
        let none = Value::Null;
        let our = our.unwrap_or(&none);
        let mut shapes = vec![(String::new(), entry, our)];
        for variant in list(&entry["variants"]) {
            let case = text(&variant["case"]);
            let our_type =
                find(&our["variants"], "case", case).map_or(&none, |variant| self.ours.get(&variant["type"]));
            shapes.push((format!("'{}': '{case}'", text(&entry["tag"])), self.qemu.get(&variant["type"]), our_type));
        }
        if shapes.len() > 1 {
            shapes.remove(0);
        }
        for (tag, shape, our_shape) in shapes {
            let required: Vec<_> = list(&shape["members"])
                .iter()
                .filter(|member| member.get("default").is_none())
                .map(|member| (text(&member["name"]), self.values(text(&member["name"]), &member["type"], None)))
                .filter_map(|(name, values)| Some((name, values.into_iter().next()?.text)))
                .collect();
            for mut variation in self.members(shape, our_shape) {
                let member = variation.path.split('.').next().unwrap_or_default().to_owned();
                let others = required.iter().filter(|(name, _)| *name != member);
                let mut parts: Vec<_> = others.map(|(name, text)| format!("'{name}': {text}")).collect();
                parts.push(format!("'{member}': {}", variation.text));
                parts.extend(Some(tag.clone()).filter(|tag| !tag.is_empty()));
                variation.text = format!("{{{}}}", parts.join(", "));
                variation.path = format!("{name}.{}", variation.path);
                found.push(variation);
            }
        }
        found
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// Sends the request to both and compares.
fn exercise(base: &Base, variation: &Variation, clients: &mut [Client; 2], daemons: &[Daemon; 2], counts: &mut Counts) {
    let member = variation.path.split('.').next().unwrap_or_default();
    let others = base.members.iter().filter(|(name, _)| *name != member);
    let mut parts: Vec<_> = others.map(|(name, text)| format!("'{name}': {text}")).collect();
    parts.push(format!("'{member}': {}", variation.text));
    let request = format!("{{'execute': '{}', 'arguments': {{{}}}}}", base.command, parts.join(", "));
    let branch = base.members.first().map_or("", |(_, text)| text);
    let title = format!("{} {branch} {} {}", base.command, variation.path, variation.text);
    if title == CRASH {
        return;
    }
    let [expected, found] = [0, 1].map(|index| {
        let client = &mut clients[index];
        prepare(client, base);
        let replies = client.ask(&request);
        let [reply] = replies.as_slice() else { panic!("{request}: {replies:?}") };
        match reply.get("error") {
            Some(error) => Err(displace(text(&error["desc"]), daemons[index].dir())),
            None => Ok(reply["return"].clone()),
        }
    });
    let mentions =
        |outcome: &Result<Value, String>, what| outcome.as_ref().err().is_some_and(|text| text.contains(what));
    // What QEMU does not support either is to be said in its words.
    let unsupported = mentions(&found, " not supported") && !mentions(&expected, " not supported");
    let refused = unsupported || mentions(&found, "unexpected");
    let difference = match (&found, &expected) {
        // The program's own name and list of commands are not QEMU's.
        (Ok(_), Ok(_)) if ["query-version", "query-commands"].contains(&base.command) => None,
        (Ok(ours), Ok(qemu)) => difference("", ours, qemu).or_else(|| different_states(clients, daemons)),
        (ours, qemu) if ours == qemu => None,
        (ours, qemu) => Some(format!("QEMU: {qemu:?}\n  ours: {ours:?}")),
    };
    if refused && difference.is_some() {
        counts.rejected += 1;
    } else if variation.ours && (difference.is_none() || MORE.contains(&title.as_str())) {
        counts.exercised += 1;
    } else {
        counts.wrong.push(format!("{title}: {}", difference.unwrap_or("not in our schema, and accepted".into())));
    }
}

/// Leaves nothing but what the base needs.
fn prepare(client: &mut Client, base: &Base) {
    eventually(client, CANCEL, |jobs| jobs.is_empty());
    client.ask(CLEANUP);
    for request in base.setup {
        let (request, status) = request.split_once(" until ").unwrap_or((request, ""));
        assert!(client.succeed(request).is_object(), "{request}");
        eventually(client, "", |jobs| status.is_empty() || jobs.iter().any(|job| job["status"] == status));
    }
}

/// Repeats a request until the jobs are as wanted.
fn eventually(client: &mut Client, request: &str, wanted: impl Fn(&[Value]) -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !wanted(list(&client.succeed("{'execute': 'query-jobs'}"))) {
        assert!(Instant::now() < deadline, "the jobs do not come to where they should");
        client.ask(request);
        thread::sleep(Duration::from_millis(1));
    }
}

/// What differs between the states that the daemons have come to. Jobs take their time.
fn different_states(clients: &mut [Client; 2], daemons: &[Daemon; 2]) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let [qemu, ours] = [0, 1].map(|index| {
            let state = STATE.map(|query| clients[index].succeed(query).to_string());
            state.map(|text| wire::parse(&displace(&text, daemons[index].dir())).expect("JSON"))
        });
        let difference = ours.iter().zip(&qemu).find_map(|(ours, qemu)| difference("", ours, qemu));
        let at_work = |job: &Value| job["id"] != "endless" && !LASTING.iter().any(|status| job["status"] == *status);
        let last = !list(&qemu[2]).iter().any(at_work);
        if (last && difference.is_none()) || Instant::now() > deadline {
            return difference;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The first member of ours that is not QEMU's too. How files of filters and null nodes are called, and
/// the names made up for nodes without one, differ; so does the order of such nodes, how far the files of images have grown,
/// and when a snapshot was taken. The space that a copy takes may be less than with QEMU, which allocates zeroes where ours
/// leaves a hole.
fn difference(path: &str, ours: &Value, qemu: &Value) -> Option<String> {
    let generated = |value: &Value| value.as_str().is_some_and(|name| name.starts_with("#block"));
    let below = ours["drv"] == "file" && generated(&ours["node-name"]);
    match (ours, qemu) {
        (Value::Object(ours), Value::Object(_)) => ours
            .iter()
            .filter(|(name, _)| {
                let name = name.as_str();
                let left_out = UNLIKE.contains(&name) || name.starts_with("x-") || (below && name == "image");
                !left_out
            })
            .find_map(|(name, value)| difference(&format!("{path}.{name}"), value, &qemu[name])),
        (Value::Array(ours), Value::Array(qemu)) if ours.len() == qemu.len() => {
            let key = |value: &&Value| value["node-name"].as_str().map(|name| (name.starts_with('#'), name.len()));
            let (mut ours, mut qemu): (Vec<_>, Vec<_>) = (ours.iter().collect(), qemu.iter().collect());
            ours.sort_by_key(key);
            qemu.sort_by_key(key);
            ours.iter().zip(&qemu).find_map(|(ours, qemu)| difference(&format!("{path}[]"), ours, qemu))
        }
        _ if ours == qemu || (generated(ours) && generated(qemu)) => None,
        _ if path.ends_with(".actual-size") && ours.as_u64() < qemu.as_u64() => None,
        _ => Some(format!("{path}\n  QEMU: {qemu}\n  ours: {ours}")),
    }
}
