//! QAPI types: one declaration gives the Rust type, its decoding, its encoding, its entry in
//! `query-qmp-schema` and its paragraph in the reference.
//!
//! Knows no command and no block device. Decoding follows QEMU's visitor: members in the order of
//! their declaration, then the branch of a union, then what is left over, with QEMU's texts, and
//! all of it before a command has any effect.

mod input;
pub mod introspect;
mod macros;
pub mod markdown;
mod scalar;
mod types;

#[cfg(test)]
mod tests;

pub use input::{Input, Mode, Object};
pub(crate) use macros::{qapi_alternate, qapi_enum, qapi_object, qapi_struct, qapi_union};
pub use scalar::{Null, Size};
pub use types::{Branch, Choice, Doc, Member, Members, Schema, Shape, Type, TypeId};

use serde_json::{Map, Value};

use crate::error::QmpError;

/// A type that can stand in a command, a result or an event.
pub trait Qapi: Sized + 'static {
    /// The type's entry, added to `schema` if it is not there yet.
    fn type_of(schema: &mut Schema) -> TypeId;

    /// The value of what somebody sent.
    ///
    /// # Errors
    /// QEMU's text for what is missing, unexpected, of another type or out of range.
    fn decode(input: Input<'_>) -> Result<Self, QmpError>;

    /// The value as JSON.
    fn encode(&self) -> Value;
}

/// A type whose members can stand inside another object: structs and flat unions.
pub trait Fields: Sized + 'static {
    /// The members and branches for the schema.
    fn members_of(schema: &mut Schema) -> Members;

    /// Claims the members from an object.
    ///
    /// # Errors
    /// As [`Qapi::decode`].
    fn claim(object: &mut Object<'_>) -> Result<Self, QmpError>;

    /// Adds the members to an object.
    fn put(&self, members: &mut Map<String, Value>);
}

/// A member of a struct: any QAPI type, or `Option` of one for a member that may be absent.
pub trait Field: Sized {
    /// Whether the member may be absent.
    const OPTIONAL: bool;

    /// The type of the value when it is present.
    fn type_of(schema: &mut Schema) -> TypeId;

    /// Claims the member from an object.
    ///
    /// # Errors
    /// As [`Qapi::decode`]; a member that is not there and not optional is missing.
    fn claim(object: &mut Object<'_>, name: &'static str) -> Result<Self, QmpError>;

    /// Adds the member to an object, unless it is absent.
    fn put(&self, name: &'static str, members: &mut Map<String, Value>);
}

impl<T: Qapi> Field for T {
    const OPTIONAL: bool = false;

    fn type_of(schema: &mut Schema) -> TypeId {
        T::type_of(schema)
    }

    fn claim(object: &mut Object<'_>, name: &'static str) -> Result<Self, QmpError> {
        match object.claim(name, T::decode)? {
            Some(value) => Ok(value),
            None => Err(object.missing(name)),
        }
    }

    fn put(&self, name: &'static str, members: &mut Map<String, Value>) {
        members.insert(name.to_owned(), self.encode());
    }
}

impl<T: Qapi> Field for Option<T> {
    const OPTIONAL: bool = true;

    fn type_of(schema: &mut Schema) -> TypeId {
        T::type_of(schema)
    }

    fn claim(object: &mut Object<'_>, name: &'static str) -> Result<Self, QmpError> {
        object.claim(name, T::decode)
    }

    fn put(&self, name: &'static str, members: &mut Map<String, Value>) {
        if let Some(value) = self {
            members.insert(name.to_owned(), value.encode());
        }
    }
}

qapi_struct! {
    /// Nothing.
    #[derive(Default)]
    pub struct Empty "q_empty" {}
}
