//! A value on its way into a type, with the path that leads to it, for the texts of errors.
//!
//! Knows two spellings of values, as QEMU's visitor does: JSON, and `key=value` options, whose
//! scalars are all strings. Knows no type of the schema.

use serde_json::{Map, Value};

use crate::error::QmpError;

/// How the values were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As JSON: numbers are numbers, booleans are booleans.
    Json,
    /// As `key=value` options: every scalar is a string.
    KeyVal,
}

/// One step from a value to a value inside it.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Member(&'a str),
    Element(usize),
}

/// The way from the outermost value to this one.
#[derive(Clone, Copy, Debug)]
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

/// A value to be decoded.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    value: &'a Value,
    mode: Mode,
    path: &'a Path<'a>,
}

impl<'a> Input<'a> {
    /// The outermost value.
    pub fn new(value: &'a Value, mode: Mode) -> Self {
        Self { value, mode, path: &ROOT }
    }

    /// The value itself.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// How it was written.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Its name alone, as QEMU puts it into some texts ("null" for list elements).
    pub fn name(&self) -> &'a str {
        match self.path.step {
            Step::Member(name) => name,
            Step::Root | Step::Element(_) => "null",
        }
    }

    /// Its name with the names of everything around it.
    pub fn full_name(&self) -> String {
        full_name(self.path, self.mode)
    }

    /// The error for a value that is no `expected`.
    pub fn wrong_type(&self, expected: &str) -> QmpError {
        let name = self.full_name();
        QmpError::generic(format!("Invalid parameter type for '{name}', expected: {expected}"))
    }

    /// The error for a value that is not what `expected` describes.
    pub fn expects(&self, expected: &str) -> QmpError {
        QmpError::generic(format!("Parameter '{}' expects {expected}", self.full_name()))
    }

    /// The error for a string that is none of an enum's values.
    pub fn unknown_value(&self) -> QmpError {
        let text = self.value.as_str().unwrap_or_default();
        QmpError::generic(format!("Parameter '{}' does not accept value '{text}'", self.name()))
    }

    /// The error for a value that QEMU knows and this program does not. `what` names its kind.
    pub fn unsupported(&self, what: &str) -> QmpError {
        let text = self.value.as_str().unwrap_or_default();
        QmpError::generic(format!("{what} '{text}' is not supported"))
    }

    /// The error for a value of a JSON type that none of an alternate's branches has.
    pub fn no_alternative(&self, alternate: &str) -> QmpError {
        let name = self.name();
        QmpError::generic(format!("Invalid parameter type for '{name}', expected: {alternate}"))
    }

    /// The text of a string, which is what every scalar is in [`Mode::KeyVal`].
    ///
    /// # Errors
    /// If it is none.
    pub fn string(&self) -> Result<&'a str, QmpError> {
        match (self.value, self.mode) {
            (Value::String(text), _) => Ok(text),
            (_, Mode::Json) => Err(self.wrong_type("string")),
            (_, Mode::KeyVal) => {
                let name = self.full_name();
                Err(QmpError::generic(format!("Parameters '{name}.*' are unexpected")))
            }
        }
    }

    /// The members of an object.
    ///
    /// # Errors
    /// If it is none.
    pub fn object(self) -> Result<Object<'a>, QmpError> {
        match self.value {
            Value::Object(members) => Ok(Object { input: self, members, claimed: Vec::new() }),
            _ => Err(self.wrong_type("object")),
        }
    }

    /// The elements of an array, decoded one after the other.
    ///
    /// # Errors
    /// If it is none, and those of `decode`.
    pub fn elements<T>(self, decode: impl Fn(Input<'_>) -> Result<T, QmpError>) -> Result<Vec<T>, QmpError> {
        let Value::Array(elements) = self.value else {
            return Err(self.wrong_type("array"));
        };
        let element = |(index, value)| {
            let path = Path { parent: Some(self.path), step: Step::Element(index) };
            decode(Input { value, mode: self.mode, path: &path })
        };
        elements.iter().enumerate().map(element).collect()
    }
}

/// An object on its way into a struct. What nobody claims is unexpected.
#[derive(Debug)]
pub struct Object<'a> {
    input: Input<'a>,
    members: &'a Map<String, Value>,
    claimed: Vec<&'static str>,
}

impl Object<'_> {
    /// Decodes the member `name`, if it is there.
    ///
    /// # Errors
    /// Those of `decode`.
    pub fn claim<T>(
        &mut self,
        name: &'static str,
        decode: impl FnOnce(Input<'_>) -> Result<T, QmpError>,
    ) -> Result<Option<T>, QmpError> {
        self.claimed.push(name);
        let Some(value) = self.members.get(name) else {
            return Ok(None);
        };
        let path = Path { parent: Some(self.input.path), step: Step::Member(name) };
        decode(Input { value, mode: self.input.mode, path: &path }).map(Some)
    }

    /// The error for a member that is not there.
    pub fn missing(&self, name: &str) -> QmpError {
        QmpError::generic(format!("Parameter '{}' is missing", self.full_name(name)))
    }

    /// Checks that every member was claimed.
    ///
    /// # Errors
    /// If one was not.
    pub fn finish(self) -> Result<(), QmpError> {
        match self.members.keys().find(|name| !self.claimed.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let name = self.full_name(name);
                Err(QmpError::generic(format!("Parameter '{name}' is unexpected")))
            }
        }
    }

    fn full_name(&self, name: &str) -> String {
        let path = Path { parent: Some(self.input.path), step: Step::Member(name) };
        full_name(&path, self.input.mode)
    }
}

fn full_name(path: &Path<'_>, mode: Mode) -> String {
    let mut name = match path.parent {
        Some(parent) => full_name(parent, mode),
        None => String::new(),
    };
    match path.step {
        Step::Root => {}
        Step::Member(member) => {
            name.push_str(if name.is_empty() { "" } else { "." });
            name.push_str(member);
        }
        Step::Element(index) if mode == Mode::KeyVal => name.push_str(&format!(".{index}")),
        Step::Element(index) => name.push_str(&format!("[{index}]")),
    }
    name
}
