//! Properties of objects: looked at and changed while the object is there.
//!
//! Knows paths as QEMU writes them. What can be changed are the limits of throttle groups.

use serde_json::Value;

use super::{Object, throttle};
use crate::command::declare_commands;
use crate::context::Context;
use crate::error::{ErrorClass, QmpError};
use crate::schema::{Empty, qapi_struct};

declare_commands! {
    /// Tells a property of an object: `type` of any, and those of a `throttle-group`.
    "qom-get" => qom_get: (QomGet) -> Value;
    /// Changes a property of an object: `limits` of a `throttle-group`, also while guests use it. Limits that nothing is said
    /// of stay, and what was used already counts.
    "qom-set" => qom_set: (QomSet) -> Empty;
}

qapi_struct! {
    /// Arguments of `qom-get`.
    pub struct QomGet "qom-get-arg" {
        /// The object: its name, or `/objects/` and its name.
        "path" path: String,
        /// The property.
        "property" property: String,
    }
}

qapi_struct! {
    /// Arguments of `qom-set`.
    pub struct QomSet "qom-set-arg" {
        /// The object: its name, or `/objects/` and its name.
        "path" path: String,
        /// The property.
        "property" property: String,
        /// What it is to be. Of `limits` an object whose members are limits.
        "value" value: Value,
    }
}

impl Object {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Iothread(_) => "iothread",
            Self::TlsServer(_) | Self::TlsClient(_) => "tls-creds-x509",
            Self::AuthzSimple(_) => "authz-simple",
            Self::AuthzList(_) => "authz-list",
            Self::Throttle(_) => "throttle-group",
        }
    }

    fn missing(&self, property: &str) -> QmpError {
        QmpError::generic(format!("Property '{}.{property}' not found", self.type_name()))
    }
}

fn find(context: &Context, path: &str) -> Result<Object, QmpError> {
    let rest = path.strip_prefix('/').unwrap_or(path);
    let id = rest.strip_prefix("objects/").unwrap_or(rest);
    let text = || format!("Device '{path}' not found");
    let missing = || QmpError { class: ErrorClass::DeviceNotFound, ..QmpError::generic(text()) };
    context.objects.find(id).ok_or_else(missing)
}

fn qom_get(context: &Context, arguments: QomGet) -> Result<Value, QmpError> {
    let (object, property) = (find(context, &arguments.path)?, arguments.property.as_str());
    let value = match &object {
        object if property == "type" => Some(Value::from(object.type_name())),
        Object::Throttle(group) => throttle::get(group, property),
        _ => None,
    };
    value.ok_or_else(|| object.missing(property))
}

fn qom_set(context: &Context, arguments: QomSet) -> Result<Empty, QmpError> {
    let (object, property) = (find(context, &arguments.path)?, arguments.property.as_str());
    if property == "type" {
        let text = format!("Property '{}.type' is not writable", object.type_name());
        return Err(QmpError::generic(text));
    }
    let changed = match &object {
        Object::Throttle(group) => throttle::set(group, property, &arguments.value),
        _ => None,
    };
    changed.ok_or_else(|| object.missing(property))?.map(|()| Empty {})
}
