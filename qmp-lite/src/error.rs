//! What a command answers when it fails: a class a program can match on and a text for people.
//!
//! Knows neither JSON nor sockets. The texts are QEMU's, since scripts match on them.

use std::fmt;

/// The classes of QMP errors. Nearly everything is [`ErrorClass::GenericError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// No class of its own; the text says what happened.
    GenericError,
    /// No such device, or object.
    DeviceNotFound,
    /// No block job of that id.
    DeviceNotActive,
    /// No such command, or not one for this state of the connection.
    CommandNotFound,
}

impl ErrorClass {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::CommandNotFound => "CommandNotFound",
        }
    }
}

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpError {
    /// What kind of failure.
    pub class: ErrorClass,
    /// One line of text, sent as `desc`.
    pub desc: String,
    /// A second line for people at a terminal; never sent over QMP.
    pub hint: Option<String>,
}

impl QmpError {
    /// An error of class `GenericError`.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::GenericError, desc: desc.into(), hint: None }
    }

    /// An error of class `CommandNotFound`.
    pub fn command_not_found(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::CommandNotFound, desc: desc.into(), hint: None }
    }

    /// The same error with a hint for people.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for QmpError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.desc)
    }
}

impl std::error::Error for QmpError {}
