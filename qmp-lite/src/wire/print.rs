//! Values as QEMU prints them: ASCII, `", "` and `": "` between the parts, or one part per line.
//!
//! Knows no stream: the caller sends the text.

use std::fmt::Write;

use serde_json::Value;

/// The value on one line, ended by CRLF. Everything outside printable ASCII is `\uXXXX`.
pub fn to_line(value: &Value) -> String {
    let mut printer = Printer { text: String::new(), depth: None };
    printer.put(value);
    printer.text + "\r\n"
}

/// The value with every member and element on a line of its own, indented by four spaces.
pub fn to_pretty_lines(value: &Value) -> String {
    let mut printer = Printer { text: String::new(), depth: Some(0) };
    printer.put(value);
    printer.text + "\r\n"
}

/// The text so far, and the depth of indentation if it is indented.
struct Printer {
    text: String,
    depth: Option<usize>,
}

impl Printer {
    fn put(&mut self, value: &Value) {
        match value {
            Value::Null => self.text.push_str("null"),
            Value::Bool(true) => self.text.push_str("true"),
            Value::Bool(false) => self.text.push_str("false"),
            Value::Number(number) => self.text.push_str(&number.to_string()),
            Value::String(text) => put_string(&mut self.text, text),
            Value::Array(elements) => {
                let put = |printer: &mut Self, element| printer.put(element);
                self.put_parts(('[', ']'), elements, put);
            }
            Value::Object(members) => self.put_parts(('{', '}'), members, |printer, (name, member)| {
                put_string(&mut printer.text, name);
                printer.text.push_str(": ");
                printer.put(member);
            }),
        }
    }

    fn put_parts<T>(
        &mut self,
        (open, close): (char, char),
        parts: impl IntoIterator<Item = T>,
        put: impl Fn(&mut Self, T),
    ) {
        self.text.push(open);
        self.depth = self.depth.map(|depth| depth + 1);
        for (index, part) in parts.into_iter().enumerate() {
            if index > 0 {
                self.text.push_str(if self.depth.is_some() { "," } else { ", " });
            }
            self.new_line();
            put(self, part);
        }
        self.depth = self.depth.map(|depth| depth - 1);
        self.new_line();
        self.text.push(close);
    }

    fn new_line(&mut self) {
        if let Some(depth) = self.depth {
            self.text.push_str("\r\n");
            self.text.push_str(&"    ".repeat(depth));
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
