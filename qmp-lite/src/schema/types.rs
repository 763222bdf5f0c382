//! The description of types: what `query-qmp-schema` and the reference are printed from.
//!
//! Knows neither values nor decoding. A type is listed once, under its QAPI name, in the order in
//! which it was first needed.

use std::collections::HashMap;

/// Lines of documentation, as they stand in the declaration.
pub type Doc = &'static [&'static str];

/// A type's place in its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeId(usize);

/// A described type.
#[derive(Debug)]
pub struct Type {
    /// The QAPI name; `[name]` for arrays.
    pub name: String,
    /// What it is for; nothing for builtins and arrays.
    pub doc: Doc,
    /// What it looks like.
    pub shape: Shape,
}

/// The kinds of type.
#[derive(Debug)]
pub enum Shape {
    /// A JSON scalar, with the name of its JSON type.
    Builtin(&'static str),
    /// A list of one type.
    Array(TypeId),
    /// One of some strings.
    Enum(Vec<Choice>),
    /// A struct or a flat union.
    Object(Members),
    /// One of several types that differ in their JSON type, each with its name in the declaration.
    Alternate(Vec<Member>),
}

/// The members of an object.
#[derive(Debug, Default)]
pub struct Members {
    /// Those that are always possible.
    pub members: Vec<Member>,
    /// The member that selects a branch, and the branches.
    pub branches: Option<(&'static str, Vec<Branch>)>,
}

/// One member of an object or one branch of an alternate.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub doc: Doc,
    /// Whether it may be absent.
    pub optional: bool,
    /// Its type.
    pub type_id: TypeId,
}

/// What a flat union's object contains in addition for one value of the selecting member.
#[derive(Debug)]
pub struct Branch {
    /// The value.
    pub case: &'static str,
    /// An object type.
    pub type_id: TypeId,
}

/// One value of an enum.
#[derive(Debug)]
pub struct Choice {
    /// The string.
    pub text: &'static str,
    /// What it means.
    pub doc: Doc,
}

/// A set of types that is closed: whatever a type refers to is in it.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<Type>,
    by_name: HashMap<String, TypeId>,
}

impl Schema {
    /// The type called `name`, described by `shape` if it is new. The name is entered before its
    /// shape is asked for, so that types may refer to each other in circles.
    pub fn define(&mut self, name: &str, doc: Doc, shape: impl FnOnce(&mut Self) -> Shape) -> TypeId {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let id = TypeId(self.types.len());
        self.by_name.insert(name.to_owned(), id);
        let open = Shape::Object(Members::default());
        self.types.push(Type { name: name.to_owned(), doc, shape: open });
        let shape = shape(self);
        if let Some(entry) = self.types.get_mut(id.0) {
            entry.shape = shape;
        }
        id
    }

    /// The type with this id, which must come from this schema.
    ///
    /// # Panics
    /// If the id is another schema's.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0]
    }

    /// All types with their ids.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        self.types.iter().enumerate().map(|(index, entry)| (TypeId(index), entry))
    }

    /// A number for the type, unique in this schema: `query-qmp-schema` shows no type names.
    pub fn number(&self, id: TypeId) -> usize {
        id.0
    }
}
