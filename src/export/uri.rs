//! Addresses of NBD exports as their clients take them (NetworkBlockDevice/nbd, doc/uri.md). Knows text only.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A UNIX socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// A name or an address of this machine; empty for all.
        host: String,
        /// The port's number.
        port: String,
    },
}

/// The address of the export `name` there, for a client that speaks TLS if it has to be `secure`.
pub fn uri(place: &Place, secure: bool, name: &str) -> String {
    let scheme = if secure { "nbds" } else { "nbd" };
    let name = escaped(name.as_bytes());
    match place {
        Place::Unix(path) => format!("{scheme}+unix:///{name}?socket={}", escaped(path.as_os_str().as_bytes())),
        Place::Tcp { host, port } if host.contains(':') => format!("{scheme}://[{host}]:{port}/{name}"),
        Place::Tcp { host, port } if host.is_empty() => format!("{scheme}://localhost:{port}/{name}"),
        Place::Tcp { host, port } => format!("{scheme}://{host}:{port}/{name}"),
    }
}

/// What RFC 3986 lets stand in paths and queries stays; everything else becomes its bytes.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_specification() {
        let unix = |path: &str| Place::Unix(path.into());
        let tcp = |host: &str| Place::Tcp { host: host.into(), port: "10809".into() };
        assert_eq!(uri(&unix("/run/nbd.sock"), false, ""), "nbd+unix:///?socket=/run/nbd.sock");
        assert_eq!(uri(&unix("/run/a b&c"), true, "vm/0"), "nbds+unix:///vm/0?socket=/run/a%20b%26c");
        assert_eq!(uri(&tcp(""), false, "disk"), "nbd://localhost:10809/disk");
        assert_eq!(uri(&tcp("127.0.0.1"), true, "ä?"), "nbds://127.0.0.1:10809/%C3%A4%3F");
        assert_eq!(uri(&tcp("::1"), false, "disk"), "nbd://[::1]:10809/disk");
    }
}
