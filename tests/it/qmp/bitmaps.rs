//! Persistent bitmaps of qcow2 images by commands, beside `qemu-storage-daemon`: what is answered to each, what queries
//! tell of the bitmaps then, and what the image has of them when the daemon has ended.

use std::process::Command;

use qmp_lite::wire::Value;

use super::daemon::{Client, Daemon, QEMU, TIDEMARK, displace};

fn shell(daemon: &Daemon, script: &str) -> String {
    let output = Command::new("bash").args(["-c", script]).current_dir(daemon.dir()).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes an image with two bitmaps that are right and one that is not.
const MAKE: &str = "
    set -e
    qemu-img create -q -f qcow2 kept 8M
    qemu-img bitmap --add kept lost
    qemu-io -f qcow2 -c 'write 0 64k' -c abort kept > aborted 2>&1 || true
    qemu-img bitmap --add -g 4096 kept a
    qemu-img bitmap --add --disable kept off
    qemu-io -f qcow2 -c 'write 1M 64k' kept > written
    qemu-img create -q -f qcow2 -o compat=0.10 old 1M
    cp kept below
    printf '\\000' | dd of=below bs=1 seek=95 conv=notrunc status=none
    mv below stale
";

fn add(image: &str, name: &str, more: &str) -> String {
    format!(
        "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'qcow2', 'node-name': '{name}', \
         'file': {{'driver': 'file', 'filename': 'DIR/{image}'}}{more}}}}}"
    )
}

fn bitmap(command: &str, node: &str, name: &str, more: &str) -> String {
    format!("{{'execute': 'block-dirty-bitmap-{command}', 'arguments': {{'node': '{node}', 'name': '{name}'{more}}}}}")
}

fn merge(node: &str, target: &str, source: &str) -> String {
    let arguments = format!("{{'node': '{node}', 'target': '{target}', 'bitmaps': ['{source}']}}");
    format!("{{'execute': 'block-dirty-bitmap-merge', 'arguments': {arguments}}}")
}

fn transaction(actions: &[(&str, &str)]) -> String {
    let action = |(kind, data): &(&str, &str)| format!("{{'type': '{kind}', 'data': {data}}}");
    let actions: Vec<_> = actions.iter().map(action).collect();
    format!("{{'execute': 'transaction', 'arguments': {{'actions': [{}]}}}}", actions.join(", "))
}

/// What is done to both daemons, in this order.
fn requests() -> Vec<String> {
    let long = "n".repeat(1024);
    let persistent = ", 'persistent': true";
    let remove = |name: &str| format!("{{'node': 'n', 'name': '{name}'}}");
    let mut requests = vec![add("kept", "n", ""), add("old", "v2", ""), add("stale", "s", "")];
    requests.extend(["enable", "disable", "clear"].map(|verb| bitmap(verb, "n", "lost", "")));
    requests.extend([
        merge("n", "a", "lost"),
        merge("n", "lost", "a"),
        bitmap("add", "n", "lost", persistent),
        bitmap("add", "n", "a", persistent),
        bitmap("add", "n", "a", ""),
        bitmap("add", "n", "", persistent),
        bitmap("add", "n", &long, persistent),
        bitmap("add", "n", &long, ""),
        bitmap("add", "n", "g", ", 'persistent': true, 'granularity': 256"),
        bitmap("add", "n", "g", ", 'persistent': true, 'granularity': 3000"),
        bitmap("add", "v2", "q", persistent),
        bitmap("add", "v2", "q", ""),
        bitmap("add", "n", "new", persistent),
        bitmap("add", "n", "quiet", ", 'persistent': true, 'disabled': true, 'granularity': 512"),
        bitmap("add", "n", "passing", ""),
        bitmap("add", "s", "fresh", persistent),
        merge("n", "new", "a"),
        bitmap("clear", "n", "a", ""),
        bitmap("enable", "n", "off", ""),
        bitmap("disable", "n", "new", ""),
        // The bitmap stays: it is stored again when the image is closed.
        transaction(&[("block-dirty-bitmap-remove", &remove("off")), ("abort", "{}")]),
        transaction(&[("block-dirty-bitmap-remove", &remove("quiet")), ("block-dirty-bitmap-clear", &remove("quiet"))]),
        transaction(&[
            ("block-dirty-bitmap-add", "{'node': 'n', 'name': 'two', 'persistent': true}"),
            ("block-dirty-bitmap-merge", "{'node': 'n', 'target': 'two', 'bitmaps': ['new']}"),
        ]),
        "{'execute': 'block_resize', 'arguments': {'node-name': 'n', 'size': 16777216}}".to_owned(),
        bitmap("remove", "n", "lost", ""),
        bitmap("remove", "n", "lost", ""),
        bitmap("remove", "n", "quiet", ""),
    ]);
    requests
}

/// What is asked of an image that is open for reading only.
fn read_only_requests() -> Vec<String> {
    let mut requests = vec![add("kept", "r", ", 'read-only': true")];
    requests.extend(["clear", "remove", "enable", "disable"].map(|verb| bitmap(verb, "r", "a", "")));
    requests.extend([merge("r", "a", "off"), bitmap("add", "r", "passing", ""), merge("r", "passing", "a")]);
    requests
}

/// What a daemon tells of the bitmaps of a node.
type Told = (String, Value);

/// The replies of a daemon to a request, and what it tells of all bitmaps then.
fn state(daemon: &Daemon, client: &mut Client, request: &str) -> (Vec<String>, Vec<Told>) {
    let reply = |reply: &Value| displace(&reply.get("error").unwrap_or(&reply["return"]).to_string(), daemon.dir());
    let replies = client.ask(request).iter().map(reply).collect();
    let nodes = client.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
    let mut told: Vec<_> = nodes.as_array().unwrap().iter().filter_map(bitmaps_of).collect();
    told.sort_by(|one, other| one.0.cmp(&other.0));
    (replies, told)
}

fn bitmaps_of(node: &Value) -> Option<Told> {
    let mut bitmaps = node.get("dirty-bitmaps")?.clone();
    // Members of our own begin with `x-`.
    let members = bitmaps.as_array_mut()?.iter_mut().filter_map(Value::as_object_mut);
    members.for_each(|members| members.retain(|name, _| !name.starts_with("x-")));
    Some((node["node-name"].to_string(), bitmaps))
}

fn both() -> [(Daemon, Client); 2] {
    [QEMU, TIDEMARK].map(|program| {
        let mut daemon = Daemon::start(program, &[]);
        shell(&daemon, MAKE);
        let client = daemon.negotiate();
        (daemon, client)
    })
}

fn compare(requests: &[String], [(qemu, qemu_client), (ours, our_client)]: &mut [(Daemon, Client); 2]) {
    let mut different = Vec::new();
    for request in requests {
        let (expected, found) = (state(qemu, qemu_client, request), state(ours, our_client, request));
        if expected != found {
            different.push(format!("{request}\n  QEMU: {expected:?}\n  ours: {found:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Flags, name and granularity of the bitmaps that `qemu-img info` lists, in whatever order.
fn stored(info: &str) -> Vec<String> {
    let Some((_, listed)) = info.split_once("bitmaps:\n") else { return Vec::new() };
    let listed = listed.split("    refcount bits").next().unwrap_or_default();
    let bitmap = |text: &str| {
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.ends_with("]:"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut bitmaps: Vec<_> = listed.split("flags:\n").skip(1).map(bitmap).collect();
    bitmaps.sort();
    bitmaps
}

#[test]
fn persistent_bitmaps_are_what_they_are_for_qemu_storage_daemon_and_so_is_the_image_afterwards() {
    let mut daemons = both();
    compare(&requests(), &mut daemons);
    let mut left = Vec::new();
    for (mut daemon, client) in daemons {
        client.ask_last("{'execute': 'quit'}");
        assert!(daemon.wait().success());
        shell(&daemon, "qemu-img check -q kept && qemu-img check -q old");
        let info = |image| shell(&daemon, &format!("qemu-img info {image}"));
        let bitmaps = ["kept", "stale", "old"].map(|image| stored(&info(image)));
        left.push(bitmaps);
    }
    assert_eq!(left[1], left[0]);
    assert_eq!(left[0].each_ref().map(Vec::len), [4, 1, 0], "{left:?}");
}

#[test]
fn bitmaps_of_an_image_for_reading_are_what_they_are_for_qemu_storage_daemon() {
    let mut daemons = both();
    compare(&read_only_requests(), &mut daemons);
}

/// The names of an image's bitmaps in the order of a query, and in that of its directory. They are stored when the image
/// is closed, as by QEMU; those that survive more are stored one after the other as they are made.
fn orders(program: &str) -> Vec<String> {
    let mut daemon = Daemon::start(program, &[]);
    shell(&daemon, "qemu-img create -q -f qcow2 listed 1M");
    let mut client = daemon.negotiate();
    let mut orders = Vec::new();
    for names in ["cab", "d", "fe"] {
        client.succeed(&add("listed", "n", if program == QEMU { "" } else { ", 'x-crash-safe': 'off'" }));
        for name in names.chars() {
            client.succeed(&bitmap("add", "n", &name.to_string(), ", 'persistent': true"));
        }
        let nodes = client.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
        let node = nodes.as_array().unwrap().iter().find(|node| node["node-name"] == "n").unwrap();
        let queried = node["dirty-bitmaps"].as_array().unwrap().iter().map(|bitmap| bitmap["name"].as_str().unwrap());
        orders.push(queried.collect());
        client.succeed("{'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}");
        orders.push(shell(&daemon, "qemu-img info listed | sed -n 's/^ *name: *//p' | tr -d '\\n'"));
    }
    orders
}

#[test]
fn bitmaps_are_in_the_order_in_which_qemu_storage_daemon_has_them() {
    let expected = orders(QEMU);
    assert_eq!(expected[1], "bac", "the newest first");
    assert_eq!(orders(TIDEMARK), expected);
}
