//! The commands: name, arguments, result, documentation and the function, declared together.
//!
//! Knows no connection. `query-commands`, `query-qmp-schema` and the reference are printed from this
//! table, so a command cannot be in one and not in the others.

use serde_json::Value;

use crate::context::Context;
use crate::error::QmpError;
use crate::schema::{Doc, Input, Schema, TypeId};
use crate::{bitmap, block, chain, changed, export, internal, job, object, qmp, snapshot, transaction};

/// One command.
#[derive(Clone, Copy)]
pub struct Command {
    /// The name on the wire.
    pub name: &'static str,
    /// What it does.
    pub doc: Doc,
    /// Describes the arguments.
    pub arguments: fn(&mut Schema) -> TypeId,
    /// Describes the result.
    pub result: fn(&mut Schema) -> TypeId,
    /// Decodes the arguments, then does it.
    pub run: fn(&Context, Input<'_>) -> Result<Value, QmpError>,
}

impl Command {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        self.name.starts_with("query-")
    }
}

/// All commands, in the order of the reference.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    let families = [
        qmp::COMMANDS,
        block::COMMANDS,
        export::COMMANDS,
        export::nbd::COMMANDS,
        object::COMMANDS,
        object::qom::COMMANDS,
        bitmap::COMMANDS,
        changed::COMMANDS,
        chain::COMMANDS,
        snapshot::COMMANDS,
        internal::COMMANDS,
        transaction::COMMANDS,
        job::COMMANDS,
    ];
    families.into_iter().flatten()
}

/// The command called `name`.
pub fn find(name: &str) -> Option<&'static Command> {
    commands().find(|command| command.name == name)
}

/// Declares a family's commands: documentation, then `"name" => function: (Arguments) -> Result;`.
macro_rules! declare_commands {
    ($($(#[doc = $doc:literal])+
       $name:literal => $function:path: ($arguments:ty) -> $result:ty;)+) => {
        /// The commands of this family.
        pub const COMMANDS: &[$crate::command::Command] = &[$($crate::command::Command {
            name: $name,
            doc: &[$($doc),+],
            arguments: <$arguments as $crate::schema::Qapi>::type_of,
            result: <$result as $crate::schema::Qapi>::type_of,
            run: |context, input| {
                let arguments = <$arguments as $crate::schema::Qapi>::decode(input)?;
                let result: $result = $function(context, arguments)?;
                Ok($crate::schema::Qapi::encode(&result))
            },
        },)+];
    };
}

pub(crate) use declare_commands;
