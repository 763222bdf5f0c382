//! Objects: named settings that other commands refer to.
//!
//! Knows I/O threads, of which only the polling time means something here: every queue has a thread
//! of its own anyway.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidemark_backend::export::vhost::Polling;

use crate::command::declare_commands;
use crate::context::Context;
use crate::error::QmpError;
use crate::schema::{Empty, qapi_enum, qapi_struct, qapi_union};

declare_commands! {
    /// Creates an object.
    "object-add" => object_add: (ObjectOptions) -> Empty;
    /// Deletes an object. Exports that were made with it keep its settings.
    "object-del" => object_del: (ObjectDel) -> Empty;
}

qapi_union! {
    /// An object.
    pub struct ObjectOptions "ObjectOptions" {
        /// What it is.
        "qom-type" qom_type: ObjectType,
        /// Its name: a letter, then letters, digits, `-`, `.` and `_`.
        "id" id: String,
    }
    /// The members of its type.
    pub enum ObjectTypeOptions by "qom-type" qom_type: ObjectType {
        /// `iothread`
        Iothread(IothreadProperties),
    }
}

qapi_enum! {
    /// The types of object.
    pub enum ObjectType "ObjectType" {
        /// How the threads of an export wait for work.
        Iothread = "iothread",
    }
    unsupported "Object type" [
        "acpi-generic-initiator", "acpi-generic-port", "authz-list", "authz-listfile", "authz-pam",
        "authz-simple", "can-bus", "can-host-socketcan", "colo-compare", "cryptodev-backend",
        "cryptodev-backend-builtin", "cryptodev-backend-lkcf", "cryptodev-vhost-user",
        "dbus-vmstate", "filter-buffer", "filter-dump", "filter-mirror", "filter-redirector",
        "filter-replay", "filter-rewriter", "input-barrier", "input-linux", "iommufd", "main-loop",
        "memory-backend-epc", "memory-backend-file", "memory-backend-memfd", "memory-backend-ram",
        "memory-backend-shm", "pef-guest", "pr-manager-helper", "qtest", "rng-builtin", "rng-egd",
        "rng-random", "secret", "secret_keyring", "sev-guest", "sev-snp-guest", "thread-context",
        "s390-pv-guest", "throttle-group", "tls-creds-anon", "tls-creds-psk", "tls-creds-x509",
        "tls-cipher-suites", "x-remote-object", "x-vfio-user-server",
    ]
}

qapi_struct! {
    /// Settings of threads.
    pub struct IothreadProperties "IothreadProperties" {
        /// The most nanoseconds that a thread polls before it sleeps; 0 is no polling, 8192 if absent.
        "poll-max-ns" poll_max_ns: Option<i64>,
    }
}

qapi_struct! {
    /// Arguments of `object-del`.
    pub struct ObjectDel "object-del-arg" {
        /// The object's name.
        "id" id: String,
    }
}

/// The objects there are.
#[derive(Debug, Default)]
pub struct Objects {
    iothreads: Mutex<BTreeMap<String, Polling>>,
}

impl Objects {
    /// The settings of an I/O thread.
    ///
    /// # Errors
    /// If there is none with this name.
    pub fn iothread(&self, id: &str) -> Result<Polling, QmpError> {
        let iothread = self.lock().get(id).copied();
        iothread.ok_or_else(|| QmpError::generic(format!("iothread \"{id}\" not found")))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Polling>> {
        self.iothreads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn object_add(context: &Context, options: ObjectOptions) -> Result<Empty, QmpError> {
    let ObjectOptions { id, branch: ObjectTypeOptions::Iothread(iothread), .. } = options;
    if !is_identifier(&id) {
        let hint = "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.";
        return Err(QmpError::generic("Parameter 'id' expects an identifier").with_hint(hint));
    }
    let mut polling = Polling::default();
    if let Some(max_ns) = iothread.poll_max_ns {
        polling.max_ns = u64::try_from(max_ns).map_err(|_| {
            let text = "poll-max-ns value must be in range [0, 9223372036854775807]";
            QmpError::generic(text)
        })?;
    }
    let mut iothreads = context.objects.lock();
    if iothreads.contains_key(&id) {
        let text = format!("attempt to add duplicate property '{id}' to object (type 'container')");
        return Err(QmpError::generic(text));
    }
    iothreads.insert(id, polling);
    Ok(Empty {})
}

fn object_del(context: &Context, arguments: ObjectDel) -> Result<Empty, QmpError> {
    match context.objects.lock().remove(&arguments.id) {
        Some(_) => Ok(Empty {}),
        None => Err(QmpError::generic(format!("object '{}' not found", arguments.id))),
    }
}

/// Whether a name has the form that names of objects and nodes have. Those of objects may be of any length.
pub(crate) fn is_identifier(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}
