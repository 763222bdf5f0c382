//! A [`Schema`] for people, in Markdown.
//!
//! Knows headings and lists. Everything it says comes from the declarations, so it cannot be wrong
//! about a name or a type.

use super::types::{Doc, Member, Members, Schema, Shape, Type, TypeId};

/// The type of which there is nothing to tell.
const NOTHING: &str = "q_empty";

/// The lines of a documentation comment as a paragraph.
pub fn paragraph(doc: Doc) -> String {
    let lines: Vec<_> = doc.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    lines.join("\n")
}

/// A list of an object's members, one line each; empty if it has none.
pub fn members(schema: &Schema, id: TypeId) -> String {
    let mut text = String::new();
    if let Shape::Object(Members { members, branches }) = &schema.get(id).shape {
        for member in members {
            put_member(&mut text, schema, member);
        }
        if let Some((tag, branches)) = branches {
            for branch in branches.iter().filter(|branch| !is_empty(schema, branch.type_id)) {
                let shown = type_name(schema, branch.type_id);
                text.push_str(&format!("* when `{tag}` is `{}`: the members of {shown}\n", branch.case));
            }
        }
    }
    text
}

/// The name of a type as a link to its section; builtins have none.
pub fn type_name(schema: &Schema, id: TypeId) -> String {
    match schema.get(id) {
        Type { name, shape: Shape::Builtin(_), .. } => name.clone(),
        Type { shape: Shape::Array(element), .. } => {
            format!("list of {}", type_name(schema, *element))
        }
        Type { name, .. } if name == NOTHING => "an empty object".to_owned(),
        Type { name, .. } => format!("[{name}](#{})", name.to_lowercase()),
    }
}

/// Whether a type is an object without members.
pub fn is_empty(schema: &Schema, id: TypeId) -> bool {
    match &schema.get(id).shape {
        Shape::Object(object) => object.members.is_empty() && object.branches.is_none(),
        _ => false,
    }
}

/// A section for every type that has something to tell, by name. The arguments of commands and the
/// data of events are told where those are.
pub fn types(schema: &Schema) -> String {
    let named = |(_, entry): &(TypeId, &Type)| {
        let plain = matches!(entry.shape, Shape::Builtin(_) | Shape::Array(_));
        let told = entry.name.ends_with("-arg") || entry.name.ends_with("-data");
        !plain && !told && entry.name != NOTHING
    };
    let mut sorted: Vec<_> = schema.types().filter(named).collect();
    sorted.sort_by_key(|(_, entry)| entry.name.to_lowercase());
    let mut text = String::new();
    for (id, entry) in sorted {
        text.push_str(&format!("### {}\n\n{}\n\n", entry.name, paragraph(entry.doc)));
        match &entry.shape {
            Shape::Enum(choices) => {
                for choice in choices {
                    put_item(&mut text, &format!("`\"{}\"`", choice.text), choice.doc);
                }
            }
            Shape::Alternate(alternatives) => {
                for one in alternatives {
                    put_item(&mut text, &type_name(schema, one.type_id), one.doc);
                }
            }
            _ => text.push_str(&members(schema, id)),
        }
        text.push('\n');
    }
    text
}

fn put_member(text: &mut String, schema: &Schema, member: &Member) {
    let optional = if member.optional { ", optional" } else { "" };
    let kind = type_name(schema, member.type_id);
    put_item(text, &format!("`{}` ({kind}{optional})", member.name), member.doc);
}

fn put_item(text: &mut String, head: &str, doc: Doc) {
    let tail = paragraph(doc).replace('\n', " ");
    let colon = if tail.is_empty() { "" } else { ": " };
    text.push_str(&format!("* {head}{colon}{tail}\n"));
}
