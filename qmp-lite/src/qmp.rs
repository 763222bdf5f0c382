//! Commands about the protocol and the program itself.
//!
//! Knows no block device.

use serde_json::Value;

use crate::command::{self, declare_commands};
use crate::context::Context;
use crate::error::QmpError;
use crate::event::EVENTS;
use crate::schema::{Empty, Schema, introspect, qapi_enum, qapi_struct};

/// The QEMU release whose storage daemon this program stands in for: clients choose by it what to
/// ask of us.
const QEMU: (i64, i64, i64) = (10, 0, 2);

declare_commands! {
    /// Ends the negotiation that a connection begins with. Must be the first command of a
    /// connection, and is refused afterwards.
    "qmp_capabilities" => qmp_capabilities: (QmpCapabilities) -> Empty;
    /// Says which QEMU release's semantics the commands have, and which program answers.
    "query-version" => query_version: (Empty) -> VersionInfo;
    /// Lists the commands.
    "query-commands" => query_commands: (Empty) -> Vec<CommandInfo>;
    /// Lists commands, events and all types they use, as far as this program supports them.
    "query-qmp-schema" => query_qmp_schema: (Empty) -> Vec<SchemaInfo>;
    /// Ends the daemon: cancels all jobs, removes all exports, closes all nodes, then answers and exits.
    "quit" => quit: (Empty) -> Empty;
}

qapi_struct! {
    /// What a client wants to use beyond the basic protocol.
    pub struct QmpCapabilities "qmp_capabilities-arg" {
        /// The capabilities to use. None are offered, so only an empty list is accepted.
        "enable" enable: Option<Vec<QmpCapability>>,
    }
}

qapi_enum! {
    /// Extensions of the protocol that QEMU knows.
    pub enum QmpCapability "QMPCapability" {
        /// Commands outside the order; not offered here.
        Oob = "oob",
    }
}

qapi_struct! {
    /// The version of the program.
    pub struct VersionInfo "VersionInfo" {
        /// The QEMU release it corresponds to.
        "qemu" qemu: VersionTriple,
        /// The program's own name and version.
        "package" package: String,
    }
}

qapi_struct! {
    /// A version number in three parts.
    pub struct VersionTriple "VersionTriple" {
        /// The first.
        "major" major: i64,
        /// The second.
        "minor" minor: i64,
        /// The third.
        "micro" micro: i64,
    }
}

qapi_struct! {
    /// A command that can be run.
    pub struct CommandInfo "CommandInfo" {
        /// Its name.
        "name" name: String,
    }
}

/// What `query-qmp-schema` answers for one type, command or event. The members depend on the kind of
/// entry; they are built where the schema is printed, not decoded from anywhere.
#[derive(Debug)]
pub struct SchemaInfo(Value);

impl crate::schema::Qapi for SchemaInfo {
    fn type_of(schema: &mut Schema) -> crate::schema::TypeId {
        SchemaInfoBase::type_of(schema)
    }

    fn decode(input: crate::schema::Input<'_>) -> Result<Self, QmpError> {
        Ok(Self(input.value().clone()))
    }

    fn encode(&self) -> Value {
        self.0.clone()
    }
}

qapi_struct! {
    /// An entry of the schema; its other members depend on `meta-type`, as QEMU documents them.
    pub struct SchemaInfoBase "SchemaInfo" {
        /// The name of a command or event, or what other entries call this type.
        "name" name: String,
        /// What kind of entry it is.
        "meta-type" meta_type: SchemaMetaType,
        /// Peculiarities that clients may look for.
        "features" features: Option<Vec<String>>,
    }
}

qapi_enum! {
    /// The kinds of entry in the schema.
    pub enum SchemaMetaType "SchemaMetaType" {
        /// A type of JSON.
        Builtin = "builtin",
        /// One of some strings.
        Enum = "enum",
        /// A list.
        Array = "array",
        /// An object, possibly with members that depend on one of them.
        Object = "object",
        /// One of several types.
        Alternate = "alternate",
        /// A command.
        Command = "command",
        /// An event.
        Event = "event",
    }
}

/// The text for a second `qmp_capabilities`, which is also the text for one without a connection.
fn qmp_capabilities(_: &Context, _: QmpCapabilities) -> Result<Empty, QmpError> {
    let text = "Capabilities negotiation is already complete, command ignored";
    Err(QmpError::command_not_found(text))
}

/// Whether everything a client wants to use is offered.
pub(crate) fn check_capabilities(arguments: &QmpCapabilities) -> Result<(), QmpError> {
    match arguments.enable.iter().flatten().next() {
        None => Ok(()),
        Some(wanted) => {
            let text = format!("Capability {} not available", wanted.text());
            Err(QmpError::generic(text))
        }
    }
}

/// The version as the greeting and `query-version` give it.
pub(crate) fn version() -> VersionInfo {
    let (major, minor, micro) = QEMU;
    let package = concat!("tidemark ", env!("CARGO_PKG_VERSION")).to_owned();
    VersionInfo { qemu: VersionTriple { major, minor, micro }, package }
}

fn query_version(_: &Context, _: Empty) -> Result<VersionInfo, QmpError> {
    Ok(version())
}

fn query_commands(_: &Context, _: Empty) -> Result<Vec<CommandInfo>, QmpError> {
    let info = |command: &command::Command| CommandInfo { name: command.name.to_owned() };
    Ok(command::commands().map(info).collect())
}

fn query_qmp_schema(_: &Context, _: Empty) -> Result<Vec<SchemaInfo>, QmpError> {
    let mut schema = Schema::default();
    let mut entries = Vec::new();
    let mut ids = Vec::new();
    for command in command::commands() {
        ids.push(((command.arguments)(&mut schema), (command.result)(&mut schema)));
    }
    for (command, (arguments, result)) in command::commands().zip(ids) {
        entries.push(introspect::command(&schema, command.name, arguments, result));
    }
    for event in EVENTS {
        let data = (event.data)(&mut schema);
        entries.push(introspect::event(&schema, event.name, data));
    }
    entries.extend(introspect::types(&schema));
    Ok(entries.into_iter().map(SchemaInfo).collect())
}

fn quit(context: &Context, _: Empty) -> Result<Empty, QmpError> {
    context.close();
    context.quit.request();
    Ok(Empty {})
}
