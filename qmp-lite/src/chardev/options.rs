//! The options of `--chardev`: QEMU's older `key=value` form, in which a key alone is a switch.
//!
//! Knows which options a socket has; opens nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

use crate::error::QmpError;

/// Where a socket is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A UNIX socket with a file.
    Path(String),
    /// A UNIX socket with a name in the abstract namespace.
    Abstract(String),
    /// A TCP port.
    Inet(String, String),
    /// A descriptor that the daemon was started with.
    Fd(String),
}

/// A socket device as asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) id: String,
    pub(super) address: Address,
    pub(super) server: bool,
    pub(super) wait: bool,
}

/// The options of QEMU's socket devices that mean something here.
const KNOWN: [&str; 9] = ["backend", "id", "path", "abstract", "host", "port", "fd", "server", "wait"];

/// Options that QEMU has, for sockets or other devices, and this program refuses.
const UNSUPPORTED: [&str; 17] = [
    "delay",
    "nodelay",
    "reconnect",
    "reconnect-ms",
    "telnet",
    "tn3270",
    "tls-creds",
    "tls-authz",
    "websocket",
    "to",
    "ipv4",
    "ipv6",
    "mptcp",
    "tight",
    "mux",
    "logfile",
    "logappend",
];

/// Device kinds of QEMU other than `socket`.
const OTHER_KINDS: [&str; 16] = [
    "null", "udp", "file", "pipe", "pty", "stdio", "serial", "tty", "parallel", "hub", "mux", "msmouse", "wctablet",
    "testdev", "ringbuf", "vc",
];

impl Options {
    /// Reads the argument of `--chardev`.
    ///
    /// # Errors
    /// QEMU's text for what is wrong with it.
    pub(super) fn parse(option: &str) -> Result<Self, QmpError> {
        let values = values(option);
        let get = |key: &str| values.get(key).cloned();
        let error = |text: String| Err(QmpError::generic(text));
        let Some(id) = get("id") else {
            return error("chardev: no id specified".into());
        };
        match get("backend").as_deref() {
            Some("socket") => {}
            None => return error("chardev: \"backend\" missing".into()),
            Some(kind) if OTHER_KINDS.contains(&kind) => {
                return error(format!("Character device '{kind}' is not supported"));
            }
            Some(kind) => return error(format!("'{kind}' is not a valid char driver name")),
        }
        if let Some(key) = values.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return match UNSUPPORTED.contains(&key.as_str()) {
                true => error(format!("Option '{key}' of chardev is not supported")),
                false => error(format!("Invalid parameter '{key}'")),
            };
        }
        let switch = |key: &str| switch(key, values.get(key));
        let server = switch("server")?.unwrap_or(false);
        let wait = switch("wait")?;
        if wait.is_some() && !server {
            return error("'wait' option is incompatible with socket in client connect mode".into());
        }
        let address = address(&get, switch("abstract")?.unwrap_or(false))?;
        Ok(Self { id, address, server, wait: wait.unwrap_or(true) })
    }
}

fn address(get: &impl Fn(&str) -> Option<String>, is_abstract: bool) -> Result<Address, QmpError> {
    let error = |text: &str| Err(QmpError::generic(text));
    match (get("path"), get("host"), get("fd")) {
        (Some(path), None, None) if is_abstract => Ok(Address::Abstract(path)),
        (Some(path), None, None) => Ok(Address::Path(path)),
        (None, Some(host), None) => match get("port") {
            Some(port) => Ok(Address::Inet(host, port)),
            None => error("chardev: socket: no port given"),
        },
        (None, None, Some(number)) => Ok(Address::Fd(number)),
        (None, None, None) => error("chardev: socket: no path, host or fd given"),
        _ => error("None or one of 'path', 'fd' or 'host' option required."),
    }
}

/// `key=value` pairs; a key alone means on, `nokey` means off; a first word is the backend.
fn values(option: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    // A doubled comma is one that belongs to the value.
    let escaped = option.replace(",,", "\0");
    for (index, pair) in escaped.split(',').filter(|pair| !pair.is_empty()).enumerate() {
        let (key, value) = match pair.split_once('=') {
            Some(pair) => pair,
            None if index == 0 => ("backend", pair),
            None => match pair.strip_prefix("no").filter(|key| KNOWN.contains(key)) {
                Some(key) => (key, "off"),
                None => (pair, "on"),
            },
        };
        values.insert(key.to_owned(), value.replace('\0', ","));
    }
    values
}

fn switch(key: &str, value: Option<&String>) -> Result<Option<bool>, QmpError> {
    match value.map(String::as_str) {
        None => Ok(None),
        Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
        Some("off" | "no" | "false" | "n") => Ok(Some(false)),
        Some(_) => Err(QmpError::generic(format!("Parameter '{key}' expects 'on' or 'off'"))),
    }
}

/// The addresses of a host and port.
///
/// # Errors
/// If there are none.
pub(super) fn resolve(host: &str, port: &str) -> Result<Vec<SocketAddr>, QmpError> {
    let failed = |reason: &str| QmpError::generic(format!("address resolution failed for {host}:{port}: {reason}"));
    let number = port.parse::<u16>().map_err(|_| failed("Servname not supported for ai_socktype"))?;
    let found = (host, number).to_socket_addrs();
    let addresses: Vec<_> = found.map_err(|_| failed("Name or service not known"))?.collect();
    match addresses.is_empty() {
        true => Err(failed("Name or service not known")),
        false => Ok(addresses),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) | Self::Abstract(path) => out.write_str(path),
            Self::Inet(host, port) => write!(out, "{host}:{port}"),
            Self::Fd(number) => write!(out, "fd {number}"),
        }
    }
}
