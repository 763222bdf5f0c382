//! Objects: named settings that other commands refer to.
//!
//! Knows I/O threads, of which only the polling time means something here (every queue has a thread of its own anyway),
//! TLS credentials, lists of who is let in, and limits that nodes share.

mod authz;
pub mod qom;
mod throttle;
mod tls;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemark_backend::export::vhost::Polling;
use tidemark_backend::node::ThrottleGroup;
use tidemark_backend::tls::{Client, Server};

use crate::command::declare_commands;
use crate::context::Context;
use crate::error::QmpError;
use crate::schema::{Empty, qapi_enum, qapi_struct, qapi_union};
use authz::{AuthZListProperties, AuthZSimpleProperties};
use throttle::ThrottleGroupProperties;
use tls::TlsCredsX509Properties;

declare_commands! {
    /// Creates an object.
    "object-add" => object_add: (ObjectOptions) -> Empty;
    /// Deletes an object. Exports that were made with it keep its settings; a throttle group that a node is in stays.
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
        /// `throttle-group`
        ThrottleGroup(ThrottleGroupProperties),
        /// `tls-creds-x509`
        TlsCredsX509(TlsCredsX509Properties),
        /// `authz-simple`
        AuthzSimple(AuthZSimpleProperties),
        /// `authz-list`
        AuthzList(AuthZListProperties),
    }
}

qapi_enum! {
    /// The types of object.
    pub enum ObjectType "ObjectType" {
        /// How the threads of an export wait for work.
        Iothread = "iothread",
        /// Limits that nodes share.
        ThrottleGroup = "throttle-group",
        /// Certificates and keys.
        TlsCredsX509 = "tls-creds-x509",
        /// One who is let in.
        AuthzSimple = "authz-simple",
        /// A list of who is let in and who is not.
        AuthzList = "authz-list",
    }
    unsupported "Object type" [
        "acpi-generic-initiator", "acpi-generic-port", "authz-listfile", "authz-pam",
        "can-bus", "can-host-socketcan", "colo-compare", "cryptodev-backend",
        "cryptodev-backend-builtin", "cryptodev-backend-lkcf", "cryptodev-vhost-user",
        "dbus-vmstate", "filter-buffer", "filter-dump", "filter-mirror", "filter-redirector",
        "filter-replay", "filter-rewriter", "input-barrier", "input-linux", "iommufd", "main-loop",
        "memory-backend-epc", "memory-backend-file", "memory-backend-memfd", "memory-backend-ram",
        "memory-backend-shm", "pef-guest", "pr-manager-helper", "qtest", "rng-builtin", "rng-egd",
        "rng-random", "secret", "secret_keyring", "sev-guest", "sev-snp-guest", "thread-context",
        "s390-pv-guest", "tls-creds-anon", "tls-cipher-suites",
        "x-remote-object", "x-vfio-user-server",
    ]
    because ["tls-creds-psk" => "the TLS library has no pre-shared keys; use tls-creds-x509"]
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

/// What an object is.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    Iothread(Polling),
    TlsServer(Arc<Server>),
    TlsClient(Arc<Client>),
    AuthzSimple(String),
    AuthzList(Arc<AuthZListProperties>),
    Throttle(Arc<ThrottleGroup>),
}

/// The objects there are.
#[derive(Debug, Default)]
pub struct Objects {
    objects: Mutex<BTreeMap<String, Object>>,
}

impl Objects {
    /// The settings of an I/O thread.
    ///
    /// # Errors
    /// If there is none with this name.
    pub fn iothread(&self, id: &str) -> Result<Polling, QmpError> {
        match self.find(id) {
            Some(Object::Iothread(polling)) => Ok(polling),
            _ => Err(QmpError::generic(format!("iothread \"{id}\" not found"))),
        }
    }

    /// Whether an object lets somebody in. One that there is not lets nobody in.
    pub fn lets_in(&self, id: &str, name: &str) -> bool {
        match self.find(id) {
            Some(Object::AuthzSimple(identity)) => identity == name,
            Some(Object::AuthzList(list)) => list.allows(name),
            _ => false,
        }
    }

    fn check_new(&self, id: &str) -> Result<(), QmpError> {
        let text = || format!("attempt to add duplicate property '{id}' to object (type 'container')");
        if self.lock().contains_key(id) { Err(QmpError::generic(text())) } else { Ok(()) }
    }

    fn find(&self, id: &str) -> Option<Object> {
        self.lock().get(id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn object_add(context: &Context, options: ObjectOptions) -> Result<Empty, QmpError> {
    let id = options.id;
    if !is_identifier(&id) {
        let hint = "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.";
        return Err(QmpError::generic("Parameter 'id' expects an identifier").with_hint(hint));
    }
    let objects = &context.objects;
    // In QEMU's order: what is wrong with the name is said before files are read.
    let object = match options.branch {
        ObjectTypeOptions::Iothread(iothread) => {
            let polling = polling(&iothread)?;
            objects.check_new(&id).map(|()| Object::Iothread(polling))
        }
        ObjectTypeOptions::ThrottleGroup(group) => objects.check_new(&id).and_then(|()| group.create(&id)),
        ObjectTypeOptions::TlsCredsX509(creds) => objects.check_new(&id).and_then(|()| tls::open(&creds)),
        ObjectTypeOptions::AuthzSimple(authz) => objects.check_new(&id).map(|()| Object::AuthzSimple(authz.identity)),
        ObjectTypeOptions::AuthzList(list) => objects.check_new(&id).map(|()| Object::AuthzList(Arc::new(list))),
    };
    objects.lock().insert(id, object?);
    Ok(Empty {})
}

fn polling(iothread: &IothreadProperties) -> Result<Polling, QmpError> {
    let mut polling = Polling::default();
    if let Some(max_ns) = iothread.poll_max_ns {
        polling.max_ns = u64::try_from(max_ns).map_err(|_| {
            let text = "poll-max-ns value must be in range [0, 9223372036854775807]";
            QmpError::generic(text)
        })?;
    }
    Ok(polling)
}

fn object_del(context: &Context, arguments: ObjectDel) -> Result<Empty, QmpError> {
    let (id, mut objects) = (arguments.id, context.objects.lock());
    if matches!(objects.get(&id), Some(Object::Throttle(group)) if group.is_used()) {
        return Err(QmpError::generic(format!("object '{id}' is in use, can not be deleted")));
    }
    match objects.remove(&id) {
        Some(_) => Ok(Empty {}),
        None => Err(QmpError::generic(format!("object '{id}' not found"))),
    }
}

/// Whether a name has the form that names of objects and nodes have. Those of objects may be of any length.
pub(crate) fn is_identifier(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}
