//! Addresses of NBD exports, as NetworkBlockDevice/nbd, doc/uri.md has them. Knows text only.

use anyhow::{Context as _, Result, bail};
use std::os::unix::ffi::OsStringExt as _;
use tidemark_backend::node::nbd::NbdServer;

/// The port of servers that name none.
const PORT: &str = "10809";

/// An export of a server.
#[derive(Debug, PartialEq, Eq)]
pub struct Export {
    /// Where the server is.
    pub server: NbdServer,
    /// The export's name.
    pub name: String,
    /// Whether the server is spoken to through TLS.
    pub tls: bool,
}

/// Reads an address.
///
/// # Errors
/// It is none that can be used; the text says why.
pub fn parse(uri: &str) -> Result<Export> {
    let (scheme, rest) =
        uri.split_once("://").with_context(|| format!("'{uri}' is no address such as nbd://HOST/EXPORT"))?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, name) = place.split_once('/').unwrap_or((place, ""));
    let name =
        String::from_utf8(unescaped(name)?).with_context(|| format!("'{uri}': the export's name is no UTF-8"))?;
    let (scheme, tls) = match scheme {
        "nbds" => ("nbd", true),
        "nbds+unix" => ("nbd+unix", true),
        other => (other, false),
    };
    let server = match scheme {
        "nbd" if host.is_empty() => bail!("'{uri}' names no host"),
        "nbd" => {
            let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((host, port)) => (host, port.strip_prefix(':')),
                None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
            };
            NbdServer::Tcp { host: host.to_owned(), port: port.unwrap_or(PORT).to_owned() }
        }
        "nbd+unix" => {
            let socket = query.split('&').find_map(|part| part.strip_prefix("socket="));
            let socket = socket.with_context(|| format!("'{uri}' names no socket: nbd+unix:///EXPORT?socket=PATH"))?;
            NbdServer::Unix(std::ffi::OsString::from_vec(unescaped(socket)?).into())
        }
        _ => bail!(
            "'{uri}' is no address of an NBD server: nbd:// and nbd+unix:// are, and with TLS nbds:// and nbds+unix://"
        ),
    };
    Ok(Export { server, name, tls })
}

/// The bytes that a text with %XX stands for.
fn unescaped(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let value = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match (first, value) {
            (b'%', Some(value)) => {
                bytes.push(value);
                after.get(2..).unwrap_or_default()
            }
            (b'%', None) => bail!("'{text}' has a % without two digits"),
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_specification_has_them() {
        let tcp = |host: &str, port: &str| NbdServer::Tcp { host: host.to_owned(), port: port.to_owned() };
        let unix = |path: &str| NbdServer::Unix(path.into());
        for (uri, server, name, tls) in [
            ("nbd://host", tcp("host", "10809"), "", false),
            ("nbd://host:1/vm/0", tcp("host", "1"), "vm/0", false),
            ("nbd://[::1]:7/a%20b", tcp("::1", "7"), "a b", false),
            ("nbd://[::1]/a", tcp("::1", "10809"), "a", false),
            ("nbd+unix:///sda?socket=/run/a%26b", unix("/run/a&b"), "sda", false),
            ("nbds://host/a", tcp("host", "10809"), "a", true),
            ("nbds+unix:///a?socket=/run/s", unix("/run/s"), "a", true),
        ] {
            assert_eq!(parse(uri).unwrap(), Export { server, name: name.to_owned(), tls }, "{uri}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_way_out() {
        for (uri, words) in [
            ("disk.raw", "nbd://HOST/EXPORT"),
            ("http://host/", "nbd:// and nbd+unix://"),
            ("nbd:///x", "names no host"),
            ("nbd+unix:///x", "names no socket"),
            ("nbds:///x", "names no host"),
            ("nbd://host/%4", "without two digits"),
            ("nbd://host/%ff", "no UTF-8"),
        ] {
            let error = format!("{:#}", parse(uri).unwrap_err());
            assert!(error.contains(words), "{uri}: {error}");
        }
    }
}
