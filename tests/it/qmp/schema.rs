//! The schema that the daemon answers with, held against the one that `qemu-storage-daemon` answers with.
//!
//! Ours says less; whatever it says has to be there in QEMU's too and mean the same. Our own members,
//! whose names begin with `x-`, are listed here; values and branches of our own begin like that, too.

use std::collections::{BTreeSet, HashMap};

use qmp_lite::wire::Value;

use super::daemon::{Daemon, QEMU, TIDEMARK};

/// Commands and events that QEMU does not have.
const OWN_ROOTS: [&str; 3] = ["X_BITMAPS_RECOVERED", "X_CHANGE_JOURNAL_LOST", "x-query-changed-extents"];

/// Members that QEMU does not have.
const OWN: [&str; 16] = [
    "x-behind",
    "x-cbw-bytes",
    "x-cbw-copies",
    "x-cbw-timeout",
    "x-change-id",
    "x-connections",
    "x-cpus",
    "x-crash-safe",
    "x-delay-ns",
    "x-guard-format",
    "x-journal",
    "x-on-cbw-error",
    "x-poll-max-ns",
    "x-serial",
    "x-socket-group",
    "x-socket-mode",
];

/// A schema: its entries by name.
pub struct Entries(HashMap<String, Value>);

impl Entries {
    /// What `program` answers.
    pub fn of(program: &str) -> Self {
        let answer = Daemon::start(program, &[]).negotiate().succeed("{'execute': 'query-qmp-schema'}");
        let entries = answer.as_array().expect("a list").iter();
        let named = |entry: &Value| (entry["name"].as_str().expect("a name").to_owned(), entry.clone());
        let entries: HashMap<_, _> = entries.map(named).collect();
        assert_eq!(entries.len(), answer.as_array().map_or(0, Vec::len), "a name twice");
        Self(entries)
    }

    /// The entry with this name.
    pub fn get(&self, name: &Value) -> &Value {
        let name = name.as_str().expect("a name");
        self.0.get(name).unwrap_or_else(|| panic!("no entry {name}"))
    }

    /// The commands and events.
    pub fn roots(&self) -> impl Iterator<Item = &Value> {
        self.0.values().filter(|entry| entry["meta-type"] == "command" || entry["meta-type"] == "event")
    }
}

/// The comparison so far.
struct Comparison<'a> {
    ours: &'a Entries,
    qemu: &'a Entries,
    seen: BTreeSet<(String, String)>,
    own: BTreeSet<String>,
    members: usize,
}

#[test]
fn the_schema_is_a_subset_of_that_of_qemu_storage_daemon() {
    let (ours, qemu) = (Entries::of(TIDEMARK), Entries::of(QEMU));
    let mut comparison =
        Comparison { ours: &ours, qemu: &qemu, seen: BTreeSet::new(), own: BTreeSet::new(), members: 0 };
    let mut own_roots: Vec<_> = ours.roots().filter(|root| is_own(root)).map(|root| text(&root["name"])).collect();
    own_roots.sort_unstable();
    assert_eq!(own_roots, OWN_ROOTS);
    for root in ours.roots().filter(|root| !is_own(root)) {
        let (name, same) = (&root["name"], qemu.get(&root["name"]));
        assert_eq!(root["meta-type"], same["meta-type"], "{name}");
        for part in ["arg-type", "ret-type"].into_iter().filter(|part| root.get(part).is_some()) {
            comparison.types(&root[part], &same[part], &format!("{name} {part}"));
        }
    }
    let own: Vec<_> = comparison.own.iter().map(String::as_str).collect();
    assert_eq!(own, OWN);
    println!("{} commands and events, {} members compared", ours.roots().count(), comparison.members);
    assert!(comparison.members > 250, "the schema lost its members");
}

impl Comparison<'_> {
    fn types(&mut self, ours: &Value, qemu: &Value, path: &str) {
        let pair = (ours.to_string(), qemu.to_string());
        if !self.seen.insert(pair) {
            return;
        }
        let (ours, qemu) = (self.ours.get(ours), self.qemu.get(qemu));
        assert_eq!(ours["meta-type"], qemu["meta-type"], "{path}");
        match ours["meta-type"].as_str().expect("a meta-type") {
            "builtin" => assert_eq!(ours, qemu, "{path}"),
            "array" => self.types(&ours["element-type"], &qemu["element-type"], &format!("{path}[]")),
            "enum" => {
                let known = list(&qemu["values"]);
                let values = list(&ours["values"]).iter().filter(|value| !text(value).starts_with("x-"));
                values.for_each(|value| assert!(known.contains(value), "{path} {value}"));
            }
            "alternate" => {
                assert_eq!(list(&ours["members"]).len(), list(&qemu["members"]).len(), "{path}");
                for (ours, qemu) in list(&ours["members"]).iter().zip(list(&qemu["members"])) {
                    self.types(&ours["type"], &qemu["type"], path);
                }
            }
            "object" => self.objects(ours, qemu, path),
            other => panic!("{path}: {other}"),
        }
    }

    /// Whether QEMU has a member in a branch of a type.
    fn is_of_a_branch(&self, qemu: &Value, name: &str) -> bool {
        let variants = qemu.get("variants").map(list).unwrap_or_default();
        variants.iter().any(|variant| find(&self.qemu.get(&variant["type"])["members"], "name", name).is_some())
    }

    fn objects(&mut self, ours: &Value, qemu: &Value, path: &str) {
        for member in list(&ours["members"]) {
            let name = member["name"].as_str().expect("a name");
            let path = format!("{path} {name}");
            match find(&qemu["members"], "name", name) {
                Some(same) => {
                    self.members += 1;
                    assert_eq!(member.get("default"), same.get("default"), "{path}: optional or not");
                    self.types(&member["type"], &same["type"], &path);
                }
                // Of a kind of job, say.
                None if self.is_of_a_branch(qemu, name) => {
                    assert!(member.get("default").is_some(), "{path} is not always there and has to be optional");
                }
                None => {
                    assert!(name.starts_with("x-"), "{path} is not QEMU's");
                    assert!(member.get("default").is_some(), "{path} is our own and has to be optional");
                    self.own.insert(name.to_owned());
                }
            }
        }
        for member in list(&qemu["members"]).iter().filter(|member| member.get("default").is_none()) {
            let name = member["name"].as_str().expect("a name");
            // Of the intervals there is never one.
            let told = find(&ours["members"], "name", name).is_some() || path.ends_with(" timed_stats[]");
            assert!(told, "{path} {name} is mandatory in QEMU");
        }
        assert!(ours.get("tag").is_none_or(|tag| Some(tag) == qemu.get("tag")), "{path}");
        let variants = ours.get("variants").map(list).unwrap_or_default();
        for variant in variants.iter().filter(|variant| !text(&variant["case"]).starts_with("x-")) {
            let case = text(&variant["case"]);
            let same = find(&qemu["variants"], "case", case).unwrap_or_else(|| panic!("{path} {case}"));
            self.types(&variant["type"], &same["type"], &format!("{path} {case}"));
        }
    }
}

/// Whether a command or event is our own.
pub fn is_own(root: &Value) -> bool {
    text(&root["name"]).starts_with(['x', 'X'])
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// The elements of a list; none of what is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The entry whose `key` is `wanted`.
pub fn find<'a>(entries: &'a Value, key: &str, wanted: &str) -> Option<&'a Value> {
    list(entries).iter().find(|entry| entry[key] == wanted)
}
