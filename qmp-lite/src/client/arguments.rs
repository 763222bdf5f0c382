//! Arguments as people type them: `name=value`, `outer.inner=value`, `list.0=value`, `name:=JSON`.
//!
//! What a value means (a number, a switch, a text) depends on the type the server gives the argument; knows no types
//! itself.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::ClientError;
use super::introspection::Introspection;
use crate::error::QmpError;
use crate::{keyval, wire};

/// The arguments of a command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arguments {
    members: Map<String, Value>,
}

impl Arguments {
    /// Reads the arguments of `command` from words. `name:=JSON` is taken as it is; `name=value` becomes what `server`
    /// says that the argument is, and without such knowledge JSON if it is JSON, else a string. A single word that
    /// begins with a brace is all arguments as JSON.
    ///
    /// # Errors
    /// [`ClientError::Argument`] for a word that is no argument.
    pub fn parse(words: &[String], command: &str, server: &Introspection) -> Result<Self, ClientError> {
        let wrong = |error: QmpError| ClientError::Argument(error.desc);
        if let [text] = words
            && text.starts_with('{')
        {
            return Self::of(wire::parse(text).map_err(wrong)?);
        }
        let mut json = BTreeSet::new();
        let mut option = String::new();
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                return Err(ClientError::Argument(format!("'{word}' is not ARGUMENT=VALUE")));
            };
            let path = name.strip_suffix(':').unwrap_or(name);
            if path.len() < name.len() {
                json.insert(path.to_owned());
            }
            if !option.is_empty() {
                option.push(',');
            }
            option.push_str(&format!("{path}={}", value.replace(',', ",,")));
        }
        let texts = keyval::parse(&option, None).map_err(wrong)?;
        let kind = server.arguments_of(command);
        Self::of(Typing { server, json: &json }.value(kind, texts, "").map_err(wrong)?)
    }

    fn of(value: Value) -> Result<Self, ClientError> {
        match value {
            Value::Object(members) => Ok(Self { members }),
            _ => Err(ClientError::Argument("arguments are a JSON object".into())),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn value(&self) -> Value {
        Value::Object(self.members.clone())
    }
}

/// Gives strings the types they are meant to have.
struct Typing<'a> {
    server: &'a Introspection,
    /// The arguments that are JSON whatever their type.
    json: &'a BTreeSet<String>,
}

impl Typing<'_> {
    /// `value` at `path` as a value of type `kind`, unknown if `None`.
    fn value(&self, kind: Option<&str>, value: Value, path: &str) -> Result<Value, QmpError> {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value {
            Value::Object(members) => {
                let tags = members.clone();
                let typed = members.into_iter().map(|(name, value)| {
                    let kind = kind.and_then(|kind| self.server.member(kind, &name, &tags));
                    let value = self.value(kind, value, &below(&name))?;
                    Ok((name, value))
                });
                typed.collect::<Result<_, _>>().map(Value::Object)
            }
            Value::Array(elements) => {
                let kind = kind.and_then(|kind| self.server.element(kind));
                let typed = elements.into_iter().enumerate();
                let typed = typed.map(|(index, value)| self.value(kind, value, &below(&index.to_string())));
                typed.collect::<Result<_, _>>().map(Value::Array)
            }
            Value::String(text) if self.json.contains(path) => wire::parse(&text),
            Value::String(text) => Ok(self.server.scalar(kind, text)),
            other => Ok(other),
        }
    }
}
