//! `key=value,key.sub=value,list.0=value` option texts become the value tree that JSON would give,
//! with strings for scalars.
//!
//! Knows no type. What a string means (a number, on or off) is decided when it is decoded, in
//! [`Mode::KeyVal`]. The grammar and the texts are those of QEMU's keyval options.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use crate::error::QmpError;
use crate::schema::Mode;
use crate::wire;

/// The longest part of a key between dots, in bytes, as in QEMU.
const FRAGMENT_BYTES: usize = 127;

/// Reads an option's argument: JSON if it begins with a brace, else `key=value` pairs. `implied` is
/// the key of a first value without one.
///
/// # Errors
/// QEMU's text for what is wrong with it.
pub fn parse_option(text: &str, implied: Option<&str>) -> Result<(Value, Mode), QmpError> {
    if text.starts_with('{') {
        return wire::parse(text).map(|value| (value, Mode::Json));
    }
    parse(text, implied).map(|value| (value, Mode::KeyVal))
}

/// Reads `key=value` pairs.
///
/// # Errors
/// QEMU's text for what is wrong with them.
pub fn parse(text: &str, implied: Option<&str>) -> Result<Value, QmpError> {
    let mut root = Map::new();
    let mut rest = text;
    if let Some(implied) = implied {
        let (first, after) = text.split_once(',').unwrap_or((text, ""));
        if !first.is_empty() && !first.contains('=') {
            root.insert(implied.to_owned(), Value::from(first));
            rest = after;
        }
    }
    while !rest.is_empty() {
        let (key, after) = key(rest)?;
        let (value, next) = value(after);
        insert(&mut root, &key, value)?;
        rest = next;
    }
    listify(root, &mut String::new())
}

/// The key at the start of `text` and what follows its `=`.
fn key(text: &str) -> Result<(Vec<&str>, &str), QmpError> {
    let len = text.find(['=', ',']).unwrap_or(text.len());
    let (key, rest) = text.split_at(len);
    let parts = fragments(key)?;
    match rest.strip_prefix('=') {
        Some(after) => Ok((parts, after)),
        None => Err(QmpError::generic(format!("Expected '=' after parameter '{key}'"))),
    }
}

/// The value at the start of `text`, with doubled commas halved, and what follows its comma.
fn value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once(',').unwrap_or((rest, ""));
        value.push_str(part);
        match after.strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, after),
        }
    }
}

/// The names and list indices that a key consists of. It begins with a name.
fn fragments(key: &str) -> Result<Vec<&str>, QmpError> {
    let mut parts = Vec::new();
    let mut rest = key;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let len = if parts.is_empty() || digits == 0 { name_len(rest) } else { digits };
        let (part, after) = rest.split_at(len);
        if len == 0 || !(after.is_empty() || after.starts_with('.')) {
            return Err(QmpError::generic(format!("Invalid parameter '{key}'")));
        }
        if len > FRAGMENT_BYTES {
            let fragment = if part == key { "" } else { " fragment" };
            let text = format!("Parameter{fragment} '{part}' is too long");
            return Err(QmpError::generic(text));
        }
        parts.push(part);
        match after.strip_prefix('.') {
            Some(after) => rest = after,
            None => return Ok(parts),
        }
    }
}

/// The length of the QAPI name at the start of `text`, 0 if there is none. A downstream prefix
/// (`__org.example_`) is part of the name, with its dots.
fn name_len(text: &str) -> usize {
    let run = |text: &str, also: &[u8]| {
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || also.contains(byte);
        text.bytes().take_while(fits).count()
    };
    let mut prefix = 0;
    if let Some(downstream) = text.strip_prefix("__") {
        let domain = run(downstream, b"-.");
        if domain == 0 || !downstream.get(domain..).is_some_and(|rest| rest.starts_with('_')) {
            return 0;
        }
        prefix = 2 + domain + 1;
    }
    let name = text.get(prefix..).unwrap_or_default();
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return 0;
    }
    prefix + run(name, b"-_")
}

fn is_index(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_digit())
}

/// Puts a value where its key says, making the objects on the way. Of two values for one key the
/// last one counts; a key that is both a value and an object is an error.
fn insert(root: &mut Map<String, Value>, key: &[&str], text: String) -> Result<(), QmpError> {
    let mut members = root;
    for (depth, part) in key.iter().enumerate() {
        let inconsistent = || {
            let prefix = key.get(..=depth).unwrap_or(key).join(".");
            QmpError::generic(format!("Parameters '{prefix}.*' used inconsistently"))
        };
        // 00 is the same index as 0.
        let name = match part.trim_start_matches('0') {
            "" => "0",
            digits if is_index(part) => digits,
            _ => part,
        };
        if depth + 1 == key.len() {
            return match members.insert(name.to_owned(), Value::String(text)) {
                Some(Value::Object(_)) => Err(inconsistent()),
                _ => Ok(()),
            };
        }
        let inner = members.entry(name).or_insert_with(|| Value::Object(Map::new()));
        members = inner.as_object_mut().ok_or_else(inconsistent)?;
    }
    Ok(())
}

/// Objects whose members all have numbers for names become lists. `path` is the key so far.
fn listify(members: Map<String, Value>, path: &mut String) -> Result<Value, QmpError> {
    let len = path.len();
    let mut inner = Map::new();
    for (name, value) in members {
        path.truncate(len);
        path.push_str(if len > 0 { "." } else { "" });
        path.push_str(&name);
        let value = match value {
            Value::Object(members) => listify(members, path)?,
            scalar => scalar,
        };
        inner.insert(name, value);
    }
    path.truncate(len);
    let indices = inner.keys().filter(|name| is_index(name)).count();
    if indices == 0 {
        return Ok(Value::Object(inner));
    }
    if indices < inner.len() {
        return Err(QmpError::generic(format!("Parameters '{path}.*' used inconsistently")));
    }
    let element = |index: usize| {
        inner
            .get(&index.to_string())
            .cloned()
            .ok_or_else(|| QmpError::generic(format!("Parameter '{path}.{index}' missing")))
    };
    (0..indices).map(element).collect::<Result<Vec<_>, _>>().map(Value::Array)
}
