//! Credentials that are believed and credentials that are not: sessions of both ends, byte for byte in memory.

pub(crate) mod authority;

use super::*;
use authority::{Authority, Identity, directory};
use rustls::Connection;
use std::fs;
use tempfile::TempDir;

/// Hands each end what the other one says, until both are through or one refuses.
fn shake(server: ServerConnection, client: ClientConnection) -> Result<(), String> {
    let (mut server, mut client) = (Connection::Server(server), Connection::Client(client));
    let pass = |from: &mut Connection, to: &mut Connection| {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            to.read_tls(&mut bytes).unwrap();
            to.process_new_packets().map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(())
    };
    // A client of TLS 1.3 is through before the server has looked at its certificate.
    for _ in 0..4 {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

fn server(dir: &TempDir) -> Server {
    Server::open(dir.path(), X509::default()).unwrap()
}

fn client(dir: &TempDir) -> Client {
    Client::open(dir.path(), X509::default()).unwrap()
}

fn meet(server: &Server, client: &Client, hostname: Option<&str>) -> Result<(), String> {
    shake(server.session().unwrap(), client.session(hostname).unwrap())
}

#[test]
fn ends_with_certificates_of_one_authority_believe_each_other() {
    let authority = Authority::new("ours");
    let (s, c) =
        (directory(&authority, Identity::server("disk.example")), directory(&authority, Identity::client("vm")));
    assert_eq!(meet(&server(&s), &client(&c), Some("disk.example")), Ok(()));
    assert_eq!(meet(&server(&s), &client(&c), None), Ok(()), "no name is asked for");
}

#[test]
fn a_server_of_another_name_is_refused_if_a_name_was_asked_for() {
    let authority = Authority::new("ours");
    let (s, c) =
        (directory(&authority, Identity::server("disk.example")), directory(&authority, Identity::client("vm")));
    let refused = meet(&server(&s), &client(&c), Some("other.example")).unwrap_err();
    assert!(refused.contains("not valid for name \"other.example\""), "{refused}");
    let named = client(&c).session(Some("not a name")).unwrap_err().to_string();
    assert!(named.contains("'not a name'") && named.contains("tls-hostname"), "{named}");
}

#[test]
fn a_server_of_another_authority_is_refused_whether_a_name_was_asked_for_or_not() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (s, c) = (directory(&theirs, Identity::server("disk.example")), directory(&ours, Identity::client("vm")));
    for name in [None, Some("disk.example"), Some("other.example")] {
        assert!(meet(&server(&s), &client(&c), name).unwrap_err().contains("UnknownIssuer"));
    }
    let anybody = Client::open(c.path(), X509 { verify_peer: false, ..X509::default() }).unwrap();
    let open = Server::open(s.path(), X509 { verify_peer: false, ..X509::default() }).unwrap();
    assert_eq!(meet(&open, &anybody, Some("other.example")), Ok(()), "verify-peer=off believes everybody");
}

#[test]
fn a_client_without_a_certificate_or_with_a_foreign_one_is_refused_unless_anybody_is_let_in() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let s = directory(&ours, Identity::server("disk.example"));
    let none = TempDir::new().unwrap();
    fs::copy(s.path().join("ca-cert.pem"), none.path().join("ca-cert.pem")).unwrap();
    assert!(meet(&server(&s), &client(&none), None).unwrap_err().contains("no certificate"));
    let foreign = directory(&theirs, Identity::client("vm"));
    let believing = Client::open(foreign.path(), X509 { verify_peer: false, ..X509::default() }).unwrap();
    assert!(meet(&server(&s), &believing, None).is_err());
    let open = Server::open(s.path(), X509 { verify_peer: false, ..X509::default() }).unwrap();
    assert_eq!(meet(&open, &client(&none), None), Ok(()));
    assert_eq!(meet(&open, &believing, None), Ok(()));
}

#[test]
fn a_client_that_is_not_on_the_list_is_refused() {
    let authority = Authority::new("ours");
    let (s, c) =
        (directory(&authority, Identity::server("disk.example")), directory(&authority, Identity::client("vm")));
    let only = |wanted: &'static str| server(&s).authorized(Arc::new(move |name: &str| name == wanted)).unwrap();
    assert_eq!(meet(&only("CN=vm"), &client(&c), None), Ok(()));
    assert!(meet(&only("CN=other"), &client(&c), None).is_err());
    let open = Server::open(s.path(), X509 { verify_peer: false, ..X509::default() }).unwrap();
    assert!(matches!(open.authorized(Arc::new(|_| true)), Err(TlsError::Anonymous)));
}

#[test]
fn a_revoked_client_is_refused_and_others_are_not() {
    let authority = Authority::new("ours");
    let s = directory(&authority, Identity::server("disk.example"));
    let (good, bad) = (Identity::client("good"), Identity { serial: Some(77), ..Identity::client("bad") });
    let (good, bad) = (directory(&authority, good), directory(&authority, bad));
    fs::write(s.path().join("ca-crl.pem"), authority.revoke(77)).unwrap();
    assert_eq!(meet(&server(&s), &client(&good), None), Ok(()));
    assert!(meet(&server(&s), &client(&bad), None).unwrap_err().contains("Revoked"));
}

#[test]
fn what_is_missing_or_unusable_is_named_with_its_file() {
    let authority = Authority::new("ours");
    let whole = || directory(&authority, Identity::server("disk.example"));
    let refused = |dir: &TempDir| Server::open(dir.path(), X509::default()).unwrap_err().to_string();
    for name in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
        let dir = whole();
        let path = dir.path().join(name);
        fs::remove_file(&path).unwrap();
        let expected = format!("Unable to access credentials {}: No such file or directory", path.display());
        assert_eq!(refused(&dir), expected);
        fs::write(&path, "nothing of use").unwrap();
        let text = refused(&dir);
        assert!(text.starts_with("Unable to import ") && text.contains(name), "{text}");
    }
    let dir = whole();
    let other = directory(&authority, Identity::server("disk.example"));
    fs::copy(other.path().join("server-key.pem"), dir.path().join("server-key.pem")).unwrap();
    assert!(refused(&dir).starts_with("Cannot load certificate '"));
    fs::write(dir.path().join("server-key.pem"), "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();
    assert!(refused(&dir).contains("is encrypted"));
    fs::write(dir.path().join("ca-crl.pem"), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").unwrap();
    let half = directory(&authority, Identity::client("vm"));
    fs::remove_file(half.path().join("client-key.pem")).unwrap();
    let text = Client::open(half.path(), X509::default()).unwrap_err().to_string();
    assert!(text.contains("client-key.pem"), "{text}");
}

#[test]
fn ones_own_certificate_is_checked_before_it_is_used() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let refused = |identity: Identity| {
        let dir = directory(&ours, identity);
        let lax = Server::open(dir.path(), X509 { sanity_check: false, ..X509::default() });
        assert!(lax.is_ok(), "sanity-check=off uses what there is");
        Server::open(dir.path(), X509::default()).unwrap_err().to_string()
    };
    let old = Identity { years: (2001, 2002), ..Identity::server("disk.example") };
    assert!(refused(old).ends_with("server-cert.pem has expired"));
    let early = Identity { years: (3001, 3002), ..Identity::server("disk.example") };
    assert!(refused(early).ends_with("server-cert.pem is not yet active"));
    let wrong = refused(Identity::client("disk.example"));
    assert!(wrong.starts_with("Our own certificate ") && wrong.contains("server authentication"), "{wrong}");
    let dir = directory(&ours, Identity::server("disk.example"));
    fs::write(dir.path().join("ca-cert.pem"), theirs.certificate()).unwrap();
    let stray = Server::open(dir.path(), X509::default()).unwrap_err().to_string();
    assert!(stray.contains("failed validation against") && stray.contains("UnknownIssuer"), "{stray}");
}
