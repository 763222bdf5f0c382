//! qcow2 images as nodes: what queries tell of them, what keeps them from being opened and others from their files,
//! beside `qemu-storage-daemon`; and where names in their headers do not lead.

use std::os::unix::fs::symlink;
use std::process::Command;

use qmp_lite::wire::{self, Value};

use super::daemon::{Client, Daemon, QEMU, TIDEMARK, differs, displace};

/// Makes the images that this is about in the daemon's directory.
fn prepare(daemon: &Daemon) {
    let script = "
        set -e
        mk() { qemu-img create -q -f qcow2 \"$@\"; }
        mk -o compression_type=zstd,cluster_size=4k,refcount_bits=64,lazy_refcounts=on zstd 1M
        mk -o compat=0.10 old 1M
        mk -b disk.img -F raw middle
        mk -b middle -F qcow2 top
        mk -o data_file=$PWD/data,data_file_raw=on apart 1M
        mk -u -b nope -F raw missing 1M
        cp image dirty; printf '\\001' | dd of=dirty bs=1 seek=79 conv=notrunc status=none
        cp image corrupt; printf '\\002' | dd of=corrupt bs=1 seek=79 conv=notrunc status=none
        cp image unknown; printf '\\100' | dd of=unknown bs=1 seek=79 conv=notrunc status=none
        head -c 4 image > short
        mk --object secret,id=s,data=secret -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 locked 1M
        cp zstd marked
        qemu-img bitmap --add marked recording
        qemu-img bitmap --add --disable -g 128k marked resting
        qemu-img snapshot -c one marked
        qemu-img snapshot -c two marked
        cp --sparse=never marked whole && mv whole marked
        for entry in 16 88; do
            at=$(($(od -An -tu8 --endian=big -j64 -N8 marked) + entry))
            printf 'date' | dd of=marked bs=1 seek=$at conv=notrunc status=none
            printf '\\001\\002\\003\\004' | dd of=marked bs=1 seek=$((at + 4)) conv=notrunc status=none
        done
    ";
    shell(daemon, script);
}

fn shell(daemon: &Daemon, script: &str) {
    let status = Command::new("bash").args(["-c", script]).current_dir(daemon.dir()).status().unwrap();
    assert!(status.success(), "{script}");
}

fn add(image: &str, more: &str) -> String {
    format!(
        "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'qcow2', 'node-name': 'n', \
         'file': {{'driver': 'file', 'filename': 'DIR/{image}'}}{more}}}}}"
    )
}

/// Both daemons with the images.
fn both() -> [(Daemon, Client); 2] {
    [QEMU, TIDEMARK].map(|program| {
        let mut daemon = Daemon::start(program, &[]);
        prepare(&daemon);
        let client = daemon.negotiate();
        (daemon, client)
    })
}

/// The first member of ours that is not QEMU's too; names of nodes are made up.
fn difference(path: &str, ours: &Value, qemu: &Value) -> Option<String> {
    match (ours, qemu) {
        (Value::Object(ours), Value::Object(_)) => ours
            .iter()
            .filter(|(name, _)| *name != "node-name")
            .find_map(|(name, value)| difference(&format!("{path}.{name}"), value, &qemu[name])),
        _ if ours == qemu => None,
        _ => Some(format!("{path}\n  QEMU: {qemu}\n  ours: {ours}")),
    }
}

/// All nodes, by what they are.
fn nodes(daemon: &Daemon, client: &mut Client, flat: bool) -> Vec<Value> {
    let request = format!("{{'execute': 'query-named-block-nodes', 'arguments': {{'flat': {flat}}}}}");
    let text = displace(&client.succeed(&request).to_string(), daemon.dir());
    let mut nodes: Vec<Value> = wire::parse(&text).unwrap().as_array().unwrap().clone();
    nodes.sort_by_key(|node| (node["file"].to_string(), node["drv"].to_string()));
    nodes
}

#[test]
fn images_are_described_as_by_qemu_storage_daemon() {
    let [(qemu, qemu_client), (ours, our_client)] = &mut both();
    let read_only = ", 'read-only': true";
    for (image, more) in [
        ("image", ""),
        ("zstd", ", 'discard': 'unmap', 'detect-zeroes': 'unmap'"),
        ("old", read_only),
        ("top", ""),
        ("apart", ""),
        ("dirty", read_only),
        ("corrupt", read_only),
        ("marked", read_only),
        ("marked", ""),
    ] {
        let request = add(image, more);
        for client in [&mut *qemu_client, &mut *our_client] {
            client.succeed(&request);
        }
        for flat in [false, true] {
            let (expected, found) = (nodes(qemu, qemu_client, flat), nodes(ours, our_client, flat));
            assert_eq!(expected.len(), found.len(), "{image}");
            for (expected, found) in expected.iter().zip(&found) {
                assert_eq!(difference(image, found, expected), None);
            }
            let image_of = |nodes: &[Value]| {
                let node = nodes.iter().find(|node| node["node-name"] == "n").unwrap();
                node["image"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
            };
            let (mut expected, mut found) = (image_of(&expected), image_of(&found));
            expected.sort();
            found.sort();
            assert_eq!(expected, found, "{image}: members");
        }
        for client in [&mut *qemu_client, &mut *our_client] {
            client.succeed("{'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}");
        }
        assert!(nodes(ours, our_client, true).is_empty(), "{image}: its files are gone with it");
    }
}

fn text(daemon: &Daemon, replies: &[Value]) -> String {
    let [reply] = replies else { panic!("{replies:?}") };
    reply.get("error").map_or("ok".to_owned(), |error| displace(error["desc"].as_str().unwrap(), daemon.dir()))
}

#[test]
fn what_keeps_an_image_from_being_opened_is_said_in_the_words_of_qemu_storage_daemon() {
    let [(qemu, qemu_client), (ours, our_client)] = &mut both();
    let mut wrong = Vec::new();
    for (image, more) in [
        ("nope", ""),
        ("short", ""),
        ("disk.img", ""),
        ("unknown", ""),
        ("corrupt", ""),
        ("missing", ""),
        ("image", ", 'backing': 'nope'"),
        ("image", ", 'backing': {}"),
        ("image", ", 'backing': 5"),
        ("image", ", 'data-file': 'nope'"),
        ("image", ", 'data-file': {'driver': 'null-co'}"),
        ("image", ", 'l2-cache-size': -1"),
        ("image", ", 'l2-cache-entry-size': 256"),
        ("image", ", 'l2-cache-entry-size': 1000"),
        ("image", ", 'l2-cache-entry-size': 65536"),
        ("image", ", 'cache-size': 65536, 'l2-cache-size': 32768, 'refcount-cache-size': 32768"),
        ("image", ", 'cache-size': 65536, 'l2-cache-size': 65537"),
        ("image", ", 'cache-size': 65536, 'refcount-cache-size': 65537"),
        ("image", ", 'refcount-cache-size': 9223372036854775807"),
        ("image", ", 'cache-clean-interval': 4294967296"),
        ("image", ", 'cache-clean-interval': -1"),
        ("image", ", 'overlap-check': 'some'"),
        ("image", ", 'overlap-check': {'template': 'some'}"),
        ("image", ", 'overlap-check': 1"),
        ("image", ", 'lazy-refcounts': 'yes'"),
        ("image", ", 'encrypt': {'format': 'luks', 'key-secret': 's'}"),
        ("image", ", 'encrypt': {'format': 'aes'}"),
        ("image", ", 'encrypt': {}"),
        ("image", ", 'force-share': true"),
        ("old", ", 'lazy-refcounts': true"),
        ("old", ", 'discard-no-unref': true"),
    ] {
        let request = add(image, more);
        let (expected, found) = (text(qemu, &qemu_client.ask(&request)), text(ours, &our_client.ask(&request)));
        assert_ne!(expected, "ok", "{request}");
        if expected != found {
            wrong.push(format!("{request}\n  QEMU: {expected}\n  ours: {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(nodes(ours, our_client, true).is_empty(), "nothing stays open");
}

#[test]
fn an_image_has_its_files_to_itself_as_with_qemu_storage_daemon() {
    let [(qemu, qemu_client), (ours, our_client)] = &mut both();
    let file = |name: &str, image: &str| {
        format!(
            "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'file', 'node-name': '{name}', \
             'filename': 'DIR/{image}'}}}}"
        )
    };
    let over = |name: &str, file: &str, more: &str| {
        format!(
            "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'qcow2', 'node-name': '{name}', \
             'file': '{file}'{more}}}}}"
        )
    };
    let export = |name: &str, writable: bool| {
        format!(
            "{{'execute': 'block-export-add', 'arguments': {{'type': 'vhost-user-blk', 'id': '{name}', \
             'node-name': '{name}', 'writable': {writable}, 'addr': {{'type': 'unix', 'path': 'DIR/{name}.sock'}}}}}}"
        )
    };
    let del = |name: &str| format!("{{'execute': 'blockdev-del', 'arguments': {{'node-name': '{name}'}}}}");
    let resize = "{'execute': 'block_resize', 'arguments': {'node-name': 'f', 'size': 524288}}".to_owned();
    let read_only = ", 'read-only': true";
    for request in [
        file("f", "image"),
        over("q", "f", ""),
        over("second", "f", ""),
        over("second", "f", read_only),
        add("image", ""),
        add("image", read_only),
        export("f", true),
        resize,
        del("f"),
        export("q", true),
        del("q"),
        file("t", "top"),
        over("chain", "t", ""),
        add("middle", ""),
        add("middle", read_only),
    ] {
        let (expected, found) = (text(qemu, &qemu_client.ask(&request)), text(ours, &our_client.ask(&request)));
        assert_eq!(found, expected, "{request}");
    }
}

#[test]
fn names_in_headers_lead_nowhere_but_below_the_directory_of_the_image() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("secret"), vec![1; 1 << 20]).unwrap();
    let secret = place.path().join("secret").display().to_string();
    let mut daemon = Daemon::start(TIDEMARK, &[]);
    let mut client = daemon.negotiate();
    symlink(&secret, daemon.dir().join("link")).unwrap();
    let above = format!("../{}/secret", place.path().file_name().unwrap().to_str().unwrap());
    for name in [&secret, &above, "link", "nbd://localhost/x", "json:{\"driver\":\"null-co\"}", "file:disk.img"] {
        let create = ["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", name, "top", "1M"];
        let status = Command::new("qemu-img").args(create).current_dir(daemon.dir()).status().unwrap();
        assert!(status.success(), "{name}");
        let found = text(&daemon, &client.ask(&add("top", "")));
        let why = if name.starts_with(['/', '.', 'l']) { "outside of the image's directory" } else { "no path" };
        assert!(found.starts_with("Could not open backing file: ") && found.contains(why), "{name}: {found}");
    }
    shell(
        &daemon,
        "qemu-img create -q -f qcow2 -u -b a -F qcow2 b 1M; qemu-img create -q -f qcow2 -u -b b -F qcow2 a 1M",
    );
    let found = text(&daemon, &client.ask(&add("a", ", 'read-only': true")));
    assert!(found.contains("part of its own backing chain"), "{found}");
    for (format, why) in [("vmdk", "Unknown driver 'vmdk'"), ("", "does not say which format")] {
        let unsaid = "f = open('top', 'r+b'); d = f.read(65536); at = d.find(b'\\xe2\\x79\\x2a\\xca'); \
                      f.seek(at); f.write(b'\\x11\\x22\\x33\\x44')";
        shell(&daemon, "qemu-img create -q -f qcow2 -u -b disk.img -F vmdk top 1M");
        if format.is_empty() {
            shell(&daemon, &format!("python3 -c \"{unsaid}\""));
        }
        let found = text(&daemon, &client.ask(&add("top", "")));
        assert!(found.contains(why), "{format}: {found}");
    }
    assert!(nodes(&daemon, &mut client, true).is_empty(), "nothing stays open");
}

#[test]
fn an_allowed_directory_and_a_named_node_are_followed() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("base"), vec![1; 1 << 20]).unwrap();
    let base = place.path().join("base").display().to_string();
    let allowed = place.path().display().to_string();
    let mut daemon = Daemon::start(TIDEMARK, &["--backing-dir", &allowed]);
    let mut client = daemon.negotiate();
    shell(&daemon, &format!("qemu-img create -q -f qcow2 -u -b {base} -F raw top 1M"));
    client.succeed(&add("top", ""));
    let mut other = Daemon::start(TIDEMARK, &[]);
    let mut client = other.negotiate();
    shell(&other, &format!("qemu-img create -q -f qcow2 -u -b {base} -F raw top 1M"));
    let named = format!(", 'backing': {{'driver': 'raw', 'file': {{'driver': 'file', 'filename': '{base}'}}}}");
    client.succeed(&add("top", &named));
}

#[test]
fn an_image_left_dirty_is_repaired_and_one_that_cannot_be_is_refused_to_writers_with_the_way_out() {
    let mut daemon = Daemon::start(TIDEMARK, &[]);
    prepare(&daemon);
    // Its L1 table, which is the fourth cluster, has an entry that leads to the refcount table.
    let put = "conv=notrunc status=none bs=1 of=hopeless";
    shell(
        &daemon,
        &format!(
            "qemu-img create -q -f qcow2 hopeless 1M; printf '\\001' | dd {put} seek=79; \
             printf '\\200\\0\\0\\0\\0\\001\\0\\0' | dd {put} seek=196608"
        ),
    );
    let mut client = daemon.negotiate();
    client.succeed(&add("dirty", ""));
    client.succeed("{'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}");
    shell(&daemon, "qemu-img info --output json dirty | grep -q '\"dirty-flag\": false'");
    let found = text(&daemon, &client.ask(&add("hopeless", "")));
    for part in ["Could not repair dirty image", "'DIR/hopeless'", "tidemark check --repair all", "read-only"] {
        assert!(found.contains(part), "{found}");
    }
    client.succeed(&add("hopeless", ", 'read-only': true"));
}

#[test]
fn what_stands_over_an_image_tells_of_it_what_qemu_storage_daemon_tells() {
    differs("query-named-block-nodes: file names of filters and of `null-co`");
    let [(qemu, qemu_client), (ours, our_client)] = &mut both();
    let image = |name: &str| {
        format!("{{'driver': 'qcow2', 'read-only': true, 'file': {{'driver': 'file', 'filename': 'DIR/{name}'}}}}")
    };
    for (driver, child) in [("raw", "file"), ("blkdebug", "image")] {
        for name in ["marked", "top", "apart", "corrupt", "old"] {
            let members = format!("'driver': '{driver}', 'node-name': 'n', '{child}': {}", image(name));
            let request = format!("{{'execute': 'blockdev-add', 'arguments': {{'read-only': true, {members}}}}}");
            let mut described = [(&*qemu, &mut *qemu_client), (&*ours, &mut *our_client)].map(|(daemon, client)| {
                client.succeed(&request);
                let nodes = [false, true].map(|flat| nodes(daemon, client, flat));
                client.succeed("{'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}");
                nodes.map(|nodes| nodes.into_iter().find(|node| node["node-name"] == "n").unwrap())
            });
            let [expected, found] = &mut described;
            for (expected, found) in expected.iter_mut().zip(found.iter_mut()) {
                // QEMU has a description of all nodes in the place of a name here.
                for node in [&mut *expected, &mut *found] {
                    node["file"] = Value::Null;
                    node["image"]["filename"] = Value::Null;
                }
                assert_eq!(difference(name, found, expected), None, "{driver}");
                assert_eq!(members_of(found), members_of(expected), "{driver} over {name}");
            }
        }
    }
}

/// The names of what is told of a node's image.
fn members_of(node: &Value) -> Vec<String> {
    let mut names: Vec<String> = node["image"].as_object().unwrap().keys().cloned().collect();
    names.sort();
    names
}

#[test]
fn nodes_of_an_image_have_the_counters_that_those_of_qemu_storage_daemon_have() {
    let [(_qemu, qemu_client), (_ours, our_client)] = &mut both();
    for image in ["top", "apart", "marked"] {
        let described = [&mut *qemu_client, &mut *our_client].map(|client| {
            client.succeed(&add(image, ""));
            let all = client.succeed("{'execute': 'query-blockstats', 'arguments': {'query-nodes': true}}");
            let devices = ["query-block", "query-blockstats"]
                .map(|query| client.succeed(&format!("{{'execute': '{query}'}}")).as_array().unwrap().len());
            assert_eq!(devices, [0, 0], "nothing is exported");
            client.succeed("{'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}");
            all.as_array().unwrap().iter().find(|node| node["node-name"] == "n").unwrap().clone()
        });
        let [expected, found] = &described;
        assert_eq!(shape(found), shape(expected), "{image}");
    }
}

/// The names of all members, with those inside of them.
fn shape(value: &Value) -> Vec<String> {
    let members = value.as_object().into_iter().flatten();
    let mut names: Vec<String> = members
        .flat_map(|(name, value)| {
            let inner = shape(value).into_iter().map(move |inner| format!("{name}.{inner}"));
            std::iter::once(name.clone()).chain(inner)
        })
        .collect();
    names.sort();
    names
}

/// QEMU asks for the key; here there is no way to read it.
#[test]
fn an_encrypted_image_is_refused() {
    let [(qemu, qemu_client), (ours, our_client)] = &mut both();
    for more in ["", ", 'read-only': true"] {
        let request = add("locked", more);
        assert_ne!(text(qemu, &qemu_client.ask(&request)), "ok");
        assert_eq!(text(ours, &our_client.ask(&request)), "qcow2 encryption (LUKS) is not supported");
    }
    assert!(nodes(ours, our_client, true).is_empty(), "nothing stays open");
}
