//! TLS: who is let in and who is not, with certificates made here. Each client is tried on both daemons.

use std::thread;

use super::site::Site;
use super::wire::{ERR_TLS_REQD, EXPORT_NAME, GO, INFO, LIST, STARTTLS, STRUCTURED_REPLY, Wire, named, option};
use crate::cli::process::{QEMU, TIDEMARK};

/// Directories as those of `tls-creds-x509`: `server`, `client`, `stranger` (whose certificate is of another authority),
/// `anonymous` (has none), `expired`, `credulous` (believes the other authority, has the right certificate) and
/// `impostor` (shows a server's certificate as a client).
pub const CERTIFICATES: &str = "
    set -e
    key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out $1 2>/dev/null; }
    authority() {
        mkdir $1; key $1/key
        openssl req -x509 -new -key $1/key -out $1/ca-cert.pem -subj /CN=$1 -days 2 \
            -addext keyUsage=critical,keyCertSign
    }
    certificate() {
        mkdir -p $2; key $2/$3-key.pem
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=%s\n' $4 >$2/extensions
        printf 'keyUsage=critical,digitalSignature,keyEncipherment\nbasicConstraints=critical,CA:FALSE\n' >>$2/extensions
        openssl req -new -key $2/$3-key.pem -subj /CN=$2 |
            openssl x509 -req -CA $1/ca-cert.pem -CAkey $1/key -CAcreateserial -days $5 -extfile $2/extensions \
                -out $2/$3-cert.pem 2>/dev/null
        cp $1/ca-cert.pem $2
    }
    authority ours
    authority others
    certificate ours server server serverAuth 2
    certificate ours client client clientAuth 2
    certificate others stranger client clientAuth 2
    certificate ours expired client clientAuth -1
    certificate ours impostor client serverAuth 2
    cp ours/ca-cert.pem stranger
    mkdir anonymous credulous
    cp ours/ca-cert.pem anonymous
    cp client/*.pem credulous
    cp others/ca-cert.pem credulous";

/// How each reply to an option begins (NBD proto.md).
const REPLY: [u8; 8] = 0x0003_e889_0455_65a9_u64.to_be_bytes();

/// A client by its directory, and whether it is let in by a server that looks at certificates.
const CLIENTS: [(&str, bool); 5] =
    [("client", true), ("stranger", false), ("anonymous", false), ("expired", false), ("credulous", false)];

fn site(program: &'static str, verify: bool) -> (Site, u16) {
    let mut site = Site::new(program);
    site.succeed(CERTIFICATES);
    site.succeed("dd if=/dev/urandom of=disk bs=1M seek=1 count=3 conv=notrunc status=none");
    let creds = format!("'qom-type': 'tls-creds-x509', 'id': 'tls', 'endpoint': 'server', 'verify-peer': {verify}");
    site.run("object-add", &format!("{creds}, 'dir': '{}'", site.file("server").display()));
    let port = site.serve_tcp(", 'tls-creds': 'tls'");
    site.export("n", "");
    (site, port)
}

/// Whether libnbd (GnuTLS) and QEMU read the disk as this client.
fn gets_in(site: &Site, port: u16, client: &str) -> [bool; 2] {
    let dir = site.file(client);
    let dir = dir.display();
    let uri = format!("nbds://localhost:{port}/n?tls-certificates={dir}");
    let object = format!("--object tls-creds-x509,id=t,endpoint=client,dir={dir}");
    let image = format!("driver=nbd,host=localhost,port={port},export=n,tls-creds=t");
    let lines = [
        format!("rm -f copy && nbdcopy '{uri}' copy && cmp copy disk"),
        format!("rm -f copy && qemu-img convert {object} --image-opts {image} -O raw copy && cmp copy disk"),
    ];
    lines.map(|line| site.shell(&line).status.success())
}

fn check(program: &'static str) {
    let (site, port) = site(program, true);
    for (client, is_let_in) in CLIENTS {
        assert_eq!(gets_in(&site, port, client), [is_let_in; 2], "{program}: {client}");
    }
    // QEMU does not ask what a certificate is for.
    assert_eq!(gets_in(&site, port, "impostor"), [program == QEMU; 2], "{program}: impostor");
    assert_eq!(gets_in(&site, port, "client"), [true; 2], "{program}: others have changed nothing");
    let plain = site.shell(&format!("nbdcopy nbd://localhost:{port}/n -"));
    assert!(!plain.status.success() && plain.stdout.is_empty(), "{program}: without TLS");
}

#[test]
fn clients_without_a_good_certificate_are_let_in_by_nobody() {
    thread::scope(|scope| {
        [QEMU, TIDEMARK].map(|program| scope.spawn(move || check(program))).map(|one| one.join().unwrap())
    });
}

#[test]
fn clients_need_no_certificate_if_the_server_does_not_look_but_look_at_the_servers() {
    for program in [QEMU, TIDEMARK] {
        let (site, port) = site(program, false);
        assert_eq!(gets_in(&site, port, "anonymous"), [true; 2], "{program}");
        assert_eq!(gets_in(&site, port, "credulous"), [false; 2], "{program}");
    }
}

/// What a server with TLS answers to plain bytes on its socket, up to the end of the connection.
fn plain_answers(program: &'static str) -> Vec<Vec<u8>> {
    let mut site = Site::new(program);
    site.succeed(CERTIFICATES);
    let dir = site.file("server");
    let dir = dir.display();
    let creds = "'qom-type': 'tls-creds-x509', 'id': 'tls', 'endpoint': 'server'";
    site.run("object-add", &format!("{creds}, 'dir': '{dir}'"));
    site.serve(", 'tls-creds': 'tls'");
    site.export("n", "");
    let go = option(GO, &named("n"));
    let asked = [
        vec![go.clone(), option(INFO, &named("n")), option(LIST, &[]), option(STRUCTURED_REPLY, &[])],
        vec![option(EXPORT_NAME, b"n")],
        vec![option(77, b"data")],
        vec![option(STARTTLS, b"data")],
    ];
    let mut answers: Vec<Vec<u8>> = Vec::new();
    for options in asked {
        let mut wire = Wire::connect(&site.file("nbd"));
        wire.send(&options.concat());
        wire.send(&option(2, &[]));
        answers.push(wire.rest());
    }
    // What comes in the clear after the word for TLS is no option, however early it comes.
    for late in [false, true] {
        let mut wire = Wire::connect(&site.file("nbd"));
        wire.send(&option(STARTTLS, &[]));
        let mut answer = if late { wire.take(20) } else { Vec::new() };
        wire.send(&[&go[..], &[0; 64]].concat());
        answer.extend(wire.rest());
        answer.truncate(20);
        answers.push(answer);
    }
    answers
}

#[test]
fn nothing_is_said_in_the_clear_by_a_server_with_tls() {
    let [theirs, ours] = [QEMU, TIDEMARK].map(plain_answers);
    assert_eq!(theirs, ours);
    let kinds: Vec<&[u8]> =
        ours[0].windows(20).filter(|head| head.starts_with(&REPLY)).map(|head| &head[12..16]).collect();
    assert_eq!(kinds, [ERR_TLS_REQD.to_be_bytes(); 5]);
    assert_eq!(ours[1], b"", "an old client is told nothing");
}
