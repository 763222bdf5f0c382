//! Nodes that are disks of servers with TLS, ours and QEMU's, opened by our daemon with certificates made here.

use super::start;
use crate::cli::process::{QEMU, Running, TIDEMARK};
use crate::nbd::site::Site;
use crate::nbd::tls::CERTIFICATES;

/// A server with the disk `far`, in a directory that has everybody's certificates; it looks at those of clients.
struct Server {
    site: Site,
    _qemu: Option<Running>,
}

impl Server {
    /// The NBD server of our daemon, or `qemu-nbd`.
    fn new(program: &'static str) -> Self {
        let mut site = Site::new(TIDEMARK);
        site.succeed(CERTIFICATES);
        site.succeed("truncate -s 4M far.img");
        if program == QEMU {
            let dir = site.file("disk").parent().unwrap().to_owned();
            let creds = "--object tls-creds-x509,id=t,endpoint=server,dir=server,verify-peer=on --tls-creds t";
            let qemu = start(&dir, "qemu-nbd", &format!("-t -e 0 -k remote.sock {creds} -f raw -x far far.img"));
            return Self { site, _qemu: Some(qemu) };
        }
        let creds = "'qom-type': 'tls-creds-x509', 'id': 't', 'endpoint': 'server', 'verify-peer': true";
        site.run("object-add", &format!("{creds}, 'dir': '{}'", site.file("server").display()));
        let address = "'type': 'unix', 'data': {'path': 'remote.sock'}";
        site.run("nbd-server-start", &format!("'addr': {{{address}}}, 'tls-creds': 't'"));
        site.run("blockdev-add", "'driver': 'file', 'node-name': 'far', 'filename': 'far.img'");
        site.export("far", ", 'writable': true");
        Self { site, _qemu: None }
    }

    /// Has a daemon open the disk as this client, who wants to talk to `host`; whether it does.
    fn is_opened(&self, client: &mut Site, directory: &str, host: &str) -> bool {
        let creds = "'qom-type': 'tls-creds-x509', 'id': 't', 'endpoint': 'client'";
        let object = format!("{creds}, 'dir': '{}'", self.site.file(directory).display());
        let made = client.client.ask(&format!("{{'execute': 'object-add', 'arguments': {{{object}}}}}"));
        // A certificate that is not of the authority beside it, or is too old, is not even tried.
        if made[0].get("error").is_some() {
            return false;
        }
        let opened = self.open(client, &format!(", 'tls-creds': 't', 'tls-hostname': '{host}'"));
        if opened {
            client.run("blockdev-del", "'node-name': 'far'");
        }
        client.run("object-del", "'id': 't'");
        opened
    }

    fn open(&self, client: &mut Site, more: &str) -> bool {
        let server = format!("'type': 'unix', 'path': '{}'", self.site.file("remote.sock").display());
        let node = format!("'driver': 'nbd', 'node-name': 'far', 'server': {{{server}}}, 'export': 'far' {more}");
        let replies = client.client.ask(&format!("{{'execute': 'blockdev-add', 'arguments': {{{node}}}}}"));
        replies[0].get("error").is_none()
    }
}

/// Who is believed, from both ends.
const CLIENTS: [(&str, &str, bool); 6] = [
    ("client", "localhost", true),
    ("client", "elsewhere", false),
    ("stranger", "localhost", false),
    ("anonymous", "localhost", false),
    ("expired", "localhost", false),
    ("credulous", "localhost", false),
];

#[test]
fn a_disk_is_opened_by_whom_its_server_believes_if_the_server_is_believed() {
    // QEMU's daemon as a client is not asked: now and then it waits for ever for the handshake of a thread of its own.
    for server_program in [QEMU, TIDEMARK] {
        let server = Server::new(server_program);
        let mut client = Site::new(TIDEMARK);
        for (directory, host, is_opened) in CLIENTS {
            let opened = server.is_opened(&mut client, directory, host);
            assert_eq!(opened, is_opened, "as {directory} to {host} of {server_program}");
        }
        assert!(!server.open(&mut client, ""), "without TLS, of {server_program}");
    }
}

#[test]
fn what_is_written_through_tls_is_on_the_servers_disk() {
    for server_program in [QEMU, TIDEMARK] {
        let server = Server::new(server_program);
        let mut client = Site::new(TIDEMARK);
        let creds = "'qom-type': 'tls-creds-x509', 'id': 't', 'endpoint': 'client'";
        client.run("object-add", &format!("{creds}, 'dir': '{}'", server.site.file("client").display()));
        assert!(server.open(&mut client, ", 'tls-creds': 't', 'tls-hostname': 'localhost'"), "{server_program}");
        client.serve("");
        client.export("far", ", 'writable': true");
        client.succeed("dd if=/dev/urandom of=data bs=1M count=4 status=none");
        let uri = "'nbd+unix:///far?socket=nbd'";
        client.succeed(&format!("nbdcopy --requests=16 data {uri} && nbdcopy {uri} back && cmp data back"));
        let there = std::fs::read(server.site.file("far.img")).unwrap();
        assert!(there == std::fs::read(client.file("data")).unwrap(), "{server_program}");
    }
}
