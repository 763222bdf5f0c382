//! Every argument that QEMU's schema has for our commands: exercised beside `qemu-storage-daemon`, with
//! the same reply and the same state afterwards, or rejected. None is accepted and ignored.
//!
//! Knows a complete request for each command and branch, and a value for each name; which arguments
//! there are, it learns from QEMU's schema.

use qmp_lite::wire::Value;

use super::daemon::{Client, Daemon, QEMU, TIDEMARK, displace};
use super::schema::{Entries, find, list};

/// A request that is complete without the argument in question.
struct Base {
    command: &'static str,
    /// The members it has to have. The first one of a union selects the branch.
    members: &'static [(&'static str, &'static str)],
    /// Requests before it.
    setup: &'static [&'static str],
}

const NODE: &str = "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 'n'}}";
const FILE: &str =
    "{'execute': 'blockdev-add', 'arguments': {'driver': 'file', 'node-name': 'n', 'filename': 'DIR/disk.img'}}";
const EXPORT: &str = "{'execute': 'block-export-add', 'arguments': {'type': 'vhost-user-blk', 'id': 'e', \
                      'node-name': 'n', 'addr': {'type': 'unix', 'path': 'DIR/v.sock'}}}";
const IOTHREAD: &str = "{'execute': 'object-add', 'arguments': {'qom-type': 'iothread', 'id': 'i'}}";

const CHILD: &str = "{'driver': 'null-co', 'size': 1048576}";

const BASES: [Base; 18] = [
    Base { command: "blockdev-add", members: &[("driver", "'null-co'"), ("node-name", "'n'")], setup: &[] },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'file'"), ("node-name", "'n'"), ("filename", "'DIR/disk.img'")],
        setup: &[],
    },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'host_device'"), ("node-name", "'n'"), ("filename", "'DIR/disk.img'")],
        setup: &[],
    },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'raw'"), ("node-name", "'n'"), ("file", CHILD)],
        setup: &[],
    },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'blkdebug'"), ("node-name", "'n'"), ("image", CHILD)],
        setup: &[],
    },
    Base { command: "blockdev-del", members: &[("node-name", "'n'")], setup: &[NODE] },
    Base { command: "block_resize", members: &[("node-name", "'n'"), ("size", "524288")], setup: &[FILE] },
    Base {
        command: "block-export-add",
        members: &[
            ("type", "'vhost-user-blk'"),
            ("id", "'e'"),
            ("node-name", "'n'"),
            ("addr", "{'type': 'unix', 'path': 'DIR/v.sock'}"),
        ],
        setup: &[NODE, IOTHREAD],
    },
    Base { command: "block-export-del", members: &[("id", "'e'")], setup: &[NODE, EXPORT] },
    Base { command: "object-add", members: &[("qom-type", "'iothread'"), ("id", "'i'")], setup: &[] },
    Base { command: "object-del", members: &[("id", "'i'")], setup: &[IOTHREAD] },
    Base { command: "query-named-block-nodes", members: &[], setup: &[NODE] },
    Base { command: "query-blockstats", members: &[], setup: &[NODE] },
    Base { command: "query-block", members: &[], setup: &[] },
    Base { command: "query-block-exports", members: &[], setup: &[] },
    Base { command: "query-version", members: &[], setup: &[] },
    Base { command: "qmp_capabilities", members: &[], setup: &[] },
    Base { command: "query-commands", members: &[], setup: &[] },
];

/// Commands without arguments whose result is the daemon's end or is compared elsewhere.
const ELSEWHERE: [&str; 2] = ["quit", "query-qmp-schema"];

/// What undoes any of the requests; what there is nothing of is an error.
const CLEANUP: &str = "{'execute': 'block-export-del', 'arguments': {'id': 'e', 'mode': 'hard'}}\
                       {'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}\
                       {'execute': 'object-del', 'arguments': {'id': 'i'}}";

/// What is looked at after a request that succeeded.
const STATE: [&str; 2] = ["{'execute': 'query-named-block-nodes'}", "{'execute': 'query-block-exports'}"];

/// Values by name; others have one by their type.
const VALUES: [(&str, &str); 18] = [
    ("driver", "'null-co'"),
    ("node-name", "'n'"),
    ("filename", "'DIR/disk.img'"),
    ("config", "'DIR/rules'"),
    ("size", "524288"),
    ("offset", "512"),
    ("file", CHILD),
    ("image", CHILD),
    ("id", "'e'"),
    ("iothread", "'i'"),
    ("path", "'DIR/w.sock'"),
    ("logical-block-size", "4096"),
    ("num-queues", "2"),
    ("align", "512"),
    ("event", "'none'"),
    ("new_state", "2"),
    ("poll-max-ns", "1000"),
    ("device", "'nosuch'"),
];

/// Accepted here although QEMU refuses it: every value of `aio` means io_uring, which needs no O_DIRECT.
const MORE: [&str; 2] = ["blockdev-add 'file' aio 'native'", "blockdev-add 'host_device' aio 'native'"];

/// One way to give an argument.
struct Variation {
    path: String,
    text: String,
    /// Whether our schema has it.
    ours: bool,
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
    for root in ours.roots().filter(|root| root["meta-type"] == "command") {
        let name = root["name"].as_str().expect("a name");
        let known = BASES.iter().any(|base| base.command == name) || ELSEWHERE.contains(&name);
        assert!(known, "{name} has no base request");
    }
    let mut daemons = [Daemon::start(QEMU, &[]), Daemon::start(TIDEMARK, &[])];
    let mut clients = daemons.each_mut().map(Daemon::negotiate);
    let mut counts = Counts::default();
    for base in &BASES {
        for variation in variations_of(base, &qemu, &ours) {
            exercise(base, &variation, &mut clients, &daemons, &mut counts);
        }
    }
    println!("arguments and values exercised: {}, rejected: {}", counts.exercised, counts.rejected);
    assert!(counts.wrong.is_empty(), "{}", counts.wrong.join("\n"));
    assert!(counts.exercised > 150, "the schema lost its arguments");
}

/// All ways to give each argument of a command, in the branch that the base selects.
fn variations_of(base: &Base, qemu: &Entries, ours: &Entries) -> Vec<Variation> {
    let name = Value::from(base.command);
    let (qemu_type, our_type) = (qemu.get(&qemu.get(&name)["arg-type"]), ours.get(&ours.get(&name)["arg-type"]));
    let mut found = members(qemu_type, our_type, qemu, ours);
    let case = base.members.first().map_or("", |(_, text)| text.trim_matches('\''));
    if let Some(variant) = find(&qemu_type["variants"], "case", case) {
        let our_variant = find(&our_type["variants"], "case", case).expect("a branch of ours");
        found.extend(members(qemu.get(&variant["type"]), ours.get(&our_variant["type"]), qemu, ours));
    }
    // Another branch would be another base.
    found.retain(|variation| Some(&*variation.path) != qemu_type["tag"].as_str());
    found
}

fn members(qemu_type: &Value, our_type: &Value, qemu: &Entries, ours: &Entries) -> Vec<Variation> {
    let mut found = Vec::new();
    for member in list(&qemu_type["members"]) {
        let name = member["name"].as_str().expect("a name");
        let our_member = find(&our_type["members"], "name", name);
        let our_type = our_member.map(|member| &member["type"]);
        found.extend(values(name, &member["type"], our_type, qemu, ours));
    }
    found
}

/// All values to try for a member of this name and type.
fn values(name: &str, type_name: &Value, our_type: Option<&Value>, qemu: &Entries, ours: &Entries) -> Vec<Variation> {
    let one = |text: &str| Variation { path: name.to_owned(), text: text.to_owned(), ours: our_type.is_some() };
    let entry = qemu.get(type_name);
    let given = VALUES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    match (entry["meta-type"].as_str().expect("a meta-type"), given) {
        ("builtin", Some(text)) | ("alternate", Some(text)) => vec![one(text)],
        ("builtin", None) => match entry["json-type"].as_str().expect("a type") {
            "boolean" => vec![one("true"), one("false")],
            "string" => vec![one("'x'")],
            _ => vec![one("1")],
        },
        ("enum", _) => list(&entry["values"]).iter().map(|value| one(&format!("'{}'", text(value)))).collect(),
        ("array", _) => {
            let our_element = our_type.map(|name| &ours.get(name)["element-type"]);
            let mut found = values(name, &entry["element-type"], our_element, qemu, ours);
            found.iter_mut().for_each(|variation| variation.text = format!("[{}]", variation.text));
            found
        }
        ("object", _) => objects(name, entry, our_type.map(|name| ours.get(name)), qemu, ours),
        (other, _) => panic!("{name}: {other} without a value"),
    }
}

/// The object with each of its members in turn, in each of its branches.
fn objects(name: &str, entry: &Value, our: Option<&Value>, qemu: &Entries, ours: &Entries) -> Vec<Variation> {
    let mut found = Vec::new();
    let none = Value::Null;
    let our = our.unwrap_or(&none);
    let mut shapes = vec![(String::new(), entry, our)];
    for variant in list(&entry["variants"]) {
        let case = text(&variant["case"]);
        let our_type = find(&our["variants"], "case", case).map_or(&none, |variant| ours.get(&variant["type"]));
        shapes.push((format!("'{}': '{case}'", text(&entry["tag"])), qemu.get(&variant["type"]), our_type));
    }
    if shapes.len() > 1 {
        shapes.remove(0);
    }
    for (tag, shape, our_shape) in shapes {
        let required: Vec<_> = list(&shape["members"])
            .iter()
            .filter(|member| member.get("default").is_none())
            .map(|member| (text(&member["name"]), values(text(&member["name"]), &member["type"], None, qemu, ours)))
            .filter_map(|(name, values)| Some((name, values.into_iter().next()?.text)))
            .collect();
        for mut variation in members(shape, our_shape, qemu, ours) {
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
    let [expected, found] = [0, 1].map(|index| {
        let client = &mut clients[index];
        client.ask(CLEANUP);
        base.setup.iter().for_each(|request| assert!(client.succeed(request).is_object(), "{request}"));
        outcome(client, &request, &daemons[index], base.command)
    });
    let refused = found.text.contains("unexpected") || found.text.contains(" not supported");
    let difference = found.difference(&expected);
    if refused && difference.is_some() {
        counts.rejected += 1;
    } else if variation.ours && (difference.is_none() || MORE.contains(&title.as_str())) {
        counts.exercised += 1;
    } else {
        counts.wrong.push(format!("{title}: {}", difference.unwrap_or("not in our schema, and accepted".into())));
    }
}

/// What a request led to: the text of its error, or nothing, and the state afterwards.
struct Outcome {
    text: String,
    state: Vec<Value>,
}

impl Outcome {
    /// The first thing that we tell and QEMU does not.
    fn difference(&self, qemu: &Self) -> Option<String> {
        if self.text != qemu.text {
            return Some(format!("QEMU: {:?}\n  ours: {:?}", qemu.text, self.text));
        }
        self.state.iter().zip(&qemu.state).find_map(|(ours, qemu)| difference("", ours, qemu))
    }
}

fn outcome(client: &mut Client, request: &str, daemon: &Daemon, command: &str) -> Outcome {
    let replies = client.ask(request);
    let [reply] = replies.as_slice() else { panic!("{request}: {replies:?}") };
    if let Some(error) = reply.get("error") {
        return Outcome { text: displace(text(&error["desc"]), daemon.dir()), state: Vec::new() };
    }
    let mut state: Vec<_> = STATE.iter().map(|query| client.succeed(query)).collect();
    // The program's own name and list of commands are not QEMU's.
    if !["query-version", "query-commands"].contains(&command) {
        state.push(reply["return"].clone());
    }
    Outcome { text: String::new(), state }
}

/// The first member of ours that is not QEMU's too. How files of filters and null nodes are called, and
/// the names made up for nodes without one, differ; so does the order of such nodes.
fn difference(path: &str, ours: &Value, qemu: &Value) -> Option<String> {
    let generated = |value: &Value| value.as_str().is_some_and(|name| name.starts_with("#block"));
    match (ours, qemu) {
        (Value::Object(ours), Value::Object(_)) => ours
            .iter()
            .filter(|(name, _)| !["file", "filename"].contains(&name.as_str()))
            .find_map(|(name, value)| difference(&format!("{path}.{name}"), value, &qemu[name])),
        (Value::Array(ours), Value::Array(qemu)) if ours.len() == qemu.len() => {
            let key = |value: &&Value| value["node-name"].as_str().map(|name| (name.starts_with('#'), name.len()));
            let (mut ours, mut qemu): (Vec<_>, Vec<_>) = (ours.iter().collect(), qemu.iter().collect());
            ours.sort_by_key(key);
            qemu.sort_by_key(key);
            ours.iter().zip(&qemu).find_map(|(ours, qemu)| difference(&format!("{path}[]"), ours, qemu))
        }
        _ if ours == qemu || (generated(ours) && generated(qemu)) => None,
        _ => Some(format!("{path}\n  QEMU: {qemu}\n  ours: {ours}")),
    }
}
