//! A [`Schema`] as `query-qmp-schema` shows it.
//!
//! Knows the format of `SchemaInfo`. As in QEMU types have numbers there, not names, so that nobody
//! comes to depend on how a type is called; members whose names begin with `x-` are marked unstable.

use serde_json::{Map, Value, json};

use super::types::{Branch, Member, Members, Schema, Shape, Type, TypeId};

/// The entry of every type in the schema.
pub fn types(schema: &Schema) -> Vec<Value> {
    schema.types().map(|(id, entry)| type_info(schema, id, entry)).collect()
}

/// The entry of a command.
pub fn command(schema: &Schema, name: &str, arguments: TypeId, result: TypeId) -> Value {
    let mut info = json!({
        "name": name,
        "meta-type": "command",
        "arg-type": reference(schema, arguments),
        "ret-type": reference(schema, result),
    });
    mark_unstable(name, &mut info);
    info
}

/// The entry of an event.
pub fn event(schema: &Schema, name: &str, data: TypeId) -> Value {
    json!({"name": name, "meta-type": "event", "arg-type": reference(schema, data)})
}

/// How other entries refer to a type: builtins by name, `[..]` for arrays, the rest by number.
fn reference(schema: &Schema, id: TypeId) -> String {
    match schema.get(id) {
        Type { name, shape: Shape::Builtin(_), .. } => name.clone(),
        Type { shape: Shape::Array(element), .. } => format!("[{}]", reference(schema, *element)),
        Type { .. } => schema.number(id).to_string(),
    }
}

fn type_info(schema: &Schema, id: TypeId, entry: &Type) -> Value {
    let mut info = Map::new();
    info.insert("name".into(), reference(schema, id).into());
    let mut put = |name: &str, value: Value| info.insert(name.into(), value);
    match &entry.shape {
        Shape::Builtin(json_type) => {
            put("meta-type", "builtin".into());
            put("json-type", Value::from(*json_type));
        }
        Shape::Array(element) => {
            put("meta-type", "array".into());
            put("element-type", reference(schema, *element).into());
        }
        Shape::Enum(choices) => {
            let texts = || choices.iter().map(|choice| choice.text);
            put("meta-type", "enum".into());
            put("members", texts().map(|text| json!({"name": text})).collect());
            put("values", texts().collect());
        }
        Shape::Object(Members { members, branches }) => {
            put("meta-type", "object".into());
            put("members", members.iter().map(|it| member(schema, it)).collect());
            if let Some((tag, branches)) = branches {
                put("tag", Value::from(*tag));
                put("variants", branches.iter().map(|it| variant(schema, it)).collect());
            }
        }
        Shape::Alternate(alternatives) => {
            let one = |it: &Member| json!({"type": reference(schema, it.type_id)});
            put("meta-type", "alternate".into());
            put("members", alternatives.iter().map(one).collect());
        }
    }
    Value::Object(info)
}

fn member(schema: &Schema, member: &Member) -> Value {
    let mut info = json!({"name": member.name, "type": reference(schema, member.type_id)});
    if member.optional {
        info["default"] = Value::Null;
    }
    mark_unstable(member.name, &mut info);
    info
}

fn variant(schema: &Schema, branch: &Branch) -> Value {
    json!({"case": branch.case, "type": reference(schema, branch.type_id)})
}

fn mark_unstable(name: &str, info: &mut Value) {
    if name.starts_with("x-") {
        info["features"] = json!(["unstable"]);
    }
}
