//! Values as QEMU prints them: one line of ASCII, `", "` and `": "` between the parts.
//!
//! Knows no stream: the caller sends the line.

use std::fmt::Write;

use serde_json::Value;

/// The value on one line, ended by CRLF. Everything outside printable ASCII is `\uXXXX`.
pub fn to_line(value: &Value) -> String {
    let mut line = String::new();
    put(&mut line, value);
    line.push_str("\r\n");
    line
}

fn put(line: &mut String, value: &Value) {
    match value {
        Value::Null => line.push_str("null"),
        Value::Bool(true) => line.push_str("true"),
        Value::Bool(false) => line.push_str("false"),
        Value::Number(number) => line.push_str(&number.to_string()),
        Value::String(text) => put_string(line, text),
        Value::Array(elements) => {
            line.push('[');
            for (index, element) in elements.iter().enumerate() {
                line.push_str(if index > 0 { ", " } else { "" });
                put(line, element);
            }
            line.push(']');
        }
        Value::Object(members) => {
            line.push('{');
            for (index, (name, member)) in members.iter().enumerate() {
                line.push_str(if index > 0 { ", " } else { "" });
                put_string(line, name);
                line.push_str(": ");
                put(line, member);
            }
            line.push('}');
        }
    }
}

fn put_string(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\u{8}' => line.push_str("\\b"),
            '\u{c}' => line.push_str("\\f"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            ' '..='~' => line.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(line, "\\u{unit:04X}");
                }
            }
        }
    }
    line.push('"');
}
