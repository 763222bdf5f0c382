//! What a server says of its commands: their names, their arguments, the types of these.
//!
//! Reads `query-commands` and `query-qmp-schema`; a server that has neither is one of which nothing is known.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::wire;

/// How deep types are followed. They may contain themselves.
const DEPTH: u32 = 4;

/// A server's commands and types.
#[derive(Debug, Default)]
pub struct Introspection {
    commands: BTreeSet<String>,
    entries: BTreeMap<String, Value>,
}

impl Introspection {
    /// From the results of `query-commands` and `query-qmp-schema`.
    pub(super) fn new(commands: &Value, schema: Value) -> Self {
        let name = |entry: &Value| text(entry, "name").map(str::to_owned);
        let commands = list(commands).filter_map(name).collect();
        let entries = match schema {
            Value::Array(entries) => entries.into_iter().filter_map(|entry| Some((name(&entry)?, entry))).collect(),
            _ => BTreeMap::new(),
        };
        Self { commands, entries }
    }

    /// The names of all commands, sorted.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        self.commands.iter().map(String::as_str)
    }

    /// The arguments of `command`, those inside others with dots.
    pub fn arguments(&self, command: &str) -> Vec<String> {
        let mut found = BTreeSet::new();
        if let Some(kind) = self.arguments_of(command) {
            self.collect(kind, "", DEPTH, &mut found);
        }
        found.into_iter().collect()
    }

    /// The values that an argument of `command` can have, if they are few.
    pub fn values(&self, command: &str, argument: &str) -> Vec<&str> {
        let mut kind = self.arguments_of(command);
        for name in argument.split('.') {
            kind = kind.and_then(|kind| self.member(kind, name, &Map::new()).or_else(|| self.element(kind)));
        }
        let Some(entry) = kind.and_then(|kind| self.entries.get(kind)) else { return Vec::new() };
        match (text(entry, "meta-type"), text(entry, "json-type")) {
            (Some("enum"), _) => list(&entry["values"]).filter_map(Value::as_str).collect(),
            (_, Some("boolean")) => vec!["on", "off"],
            _ => Vec::new(),
        }
    }

    /// The type of all arguments of a command.
    pub(super) fn arguments_of(&self, command: &str) -> Option<&str> {
        let entry = self.entries.get(command)?;
        (text(entry, "meta-type") == Some("command")).then(|| text(entry, "arg-type"))?
    }

    /// The type of a member of an object type, or of the object type among alternatives. `values` are the object's
    /// members, one of which may say which variant it is.
    pub(super) fn member(&self, kind: &str, name: &str, values: &Map<String, Value>) -> Option<&str> {
        let object = self.object(kind)?;
        let own = list(&object["members"]).find(|member| text(member, "name") == Some(name));
        if let Some(member) = own {
            return text(member, "type");
        }
        let tag = text(object, "tag").and_then(|tag| values.get(tag)).and_then(Value::as_str);
        let fits = |variant: &&Value| tag.is_none() || text(variant, "case") == tag;
        let mut variants = list(&object["variants"]).filter(fits).filter_map(|variant| text(variant, "type"));
        variants.find_map(|variant| self.member(variant, name, values))
    }

    /// The type of a list's elements.
    pub(super) fn element(&self, kind: &str) -> Option<&str> {
        self.alternatives(kind).find_map(|entry| text(entry, "element-type"))
    }

    /// A text as a value of type `kind`; one that does not fit stays a text, so that the server can say what is wrong.
    pub(super) fn scalar(&self, kind: Option<&str>, value: String) -> Value {
        let parsed = || wire::parse(&value).ok();
        let Some(kind) = kind.filter(|kind| self.entries.contains_key(*kind)) else {
            return parsed().unwrap_or(Value::String(value));
        };
        let is = |name: &str| self.alternatives(kind).any(|entry| text(entry, "json-type") == Some(name));
        let typed = match value.as_str() {
            "on" | "yes" | "true" if is("boolean") => Some(Value::Bool(true)),
            "off" | "no" | "false" if is("boolean") => Some(Value::Bool(false)),
            "null" if is("null") => Some(Value::Null),
            number if is("int") || is("number") => {
                integer(number).map(Value::from).or_else(|| parsed().filter(Value::is_number))
            }
            structure if structure.starts_with(['{', '[']) => {
                parsed().filter(|_| self.object(kind).is_some() || self.element(kind).is_some())
            }
            anything if is("value") => wire::parse(anything).ok(),
            _ => None,
        };
        typed.unwrap_or(Value::String(value))
    }

    fn collect(&self, kind: &str, prefix: &str, depth: u32, found: &mut BTreeSet<String>) {
        let Some(object) = self.object(kind).filter(|_| depth > 0) else { return };
        for member in list(&object["members"]) {
            let (Some(name), Some(kind)) = (text(member, "name"), text(member, "type")) else { continue };
            let name = format!("{prefix}{name}");
            if self.object(kind).is_some() {
                self.collect(kind, &format!("{name}."), depth - 1, found);
            }
            if self.alternatives(kind).any(|entry| text(entry, "meta-type") != Some("object")) {
                found.insert(name);
            }
        }
        for variant in list(&object["variants"]).filter_map(|variant| text(variant, "type")) {
            self.collect(variant, prefix, depth - 1, found);
        }
    }

    /// The object type that `kind` is or has among its alternatives.
    fn object(&self, kind: &str) -> Option<&Value> {
        self.alternatives(kind).find(|entry| text(entry, "meta-type") == Some("object"))
    }

    /// The types that a value of type `kind` may have: itself, unless it is several.
    fn alternatives<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Value> {
        let entry = self.entries.get(kind);
        let several = entry.filter(|entry| text(entry, "meta-type") == Some("alternate"));
        let members = several.into_iter().flat_map(|entry| list(&entry["members"]));
        let members = members.filter_map(|member| self.entries.get(text(member, "type")?));
        entry.filter(|_| several.is_none()).into_iter().chain(members)
    }
}

/// A whole number, possibly with QEMU's suffix for a power of 1024.
fn integer(text: &str) -> Option<i64> {
    let powers = [('K', 10), ('M', 20), ('G', 30), ('T', 40), ('P', 50), ('E', 60)];
    let suffix =
        |(letter, power): (char, u32)| Some((text.strip_suffix([letter, letter.to_ascii_lowercase()])?, power));
    let (digits, power) = powers.into_iter().find_map(suffix).unwrap_or((text, 0));
    digits.parse::<i64>().ok()?.checked_mul(1i64.checked_shl(power)?)
}

fn text<'a>(entry: &'a Value, member: &str) -> Option<&'a str> {
    entry.get(member).and_then(Value::as_str)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
