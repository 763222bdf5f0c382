//! `x-query-changed-extents` as a backup tool sees it: names of points in time, what is refused, and what a persistent
//! bitmap is good for when the names of before are not.

use qmp_lite::wire::Value;

use super::daemon::{Client, Daemon, TIDEMARK};

const IMAGE: &str = "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'n', \
                     'file': {'driver': 'file', 'filename': 'DIR/image'}}}";
const CLOSE: &str = "{'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}";

/// A daemon with the image as `n`, which keeps a bitmap `daily`, and a node `other`.
fn daemon() -> (Daemon, Client) {
    let mut daemon = Daemon::start(TIDEMARK, &["--blockdev", "null-co,node-name=other,size=1048576"]);
    let mut client = daemon.negotiate();
    client.succeed(IMAGE);
    client.succeed(
        "{'execute': 'block-dirty-bitmap-add', 'arguments': {'node': 'n', 'name': 'daily', 'persistent': true}}",
    );
    (daemon, client)
}

fn bitmap(client: &mut Client, verb: &str, node: &str, name: &str) {
    let arguments = format!("{{'node': '{node}', 'name': '{name}'}}");
    client.succeed(&format!("{{'execute': 'block-dirty-bitmap-{verb}', 'arguments': {arguments}}}"));
}

fn query(more: &str) -> String {
    format!("{{'execute': 'x-query-changed-extents', 'arguments': {{'node': 'n'{more}}}}}")
}

fn refused(client: &mut Client, more: &str) -> String {
    let replies = client.ask(&query(more));
    replies[0]["error"]["desc"].as_str().unwrap_or_else(|| panic!("{more}: {replies:?}")).to_owned()
}

fn node(client: &mut Client, name: &str) -> Value {
    let nodes = client.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
    nodes.as_array().unwrap().iter().find(|node| node["node-name"] == name).unwrap().clone()
}

fn point(client: &mut Client, name: &str) -> String {
    node(client, name)["x-change-id"].as_str().unwrap().to_owned()
}

#[test]
fn every_point_in_time_of_a_node_has_a_name_of_its_own() {
    let (_daemon, mut client) = daemon();
    assert_eq!(node(&mut client, "other").get("x-change-id"), None, "there was none");
    let mut names = vec![point(&mut client, "n")];
    assert_eq!(node(&mut client, "n")["dirty-bitmaps"][0]["x-change-id"], names[0].as_str());
    for verb in ["add", "disable", "enable", "clear", "remove"] {
        bitmap(&mut client, verb, "n", "b");
        names.push(point(&mut client, "n"));
    }
    client.succeed(
        "{'execute': 'blockdev-backup', \
         'arguments': {'device': 'n', 'target': 'other', 'sync': 'none', 'job-id': 'j'}}",
    );
    names.push(point(&mut client, "n"));
    assert_eq!(node(&mut client, "other").get("x-change-id"), None, "it is no point in time of the target");
    let clear = "{'type': 'block-dirty-bitmap-clear', 'data': {'node': 'n', 'name': 'daily'}}";
    let abort = "{'type': 'abort', 'data': {}}";
    client.ask(&format!("{{'execute': 'transaction', 'arguments': {{'actions': [{clear}, {abort}]}}}}"));
    let last = names[6].clone();
    assert_eq!(point(&mut client, "n"), last, "nothing has happened");
    let reply = client.succeed(&query(&format!(", 'since': '{}'", names[0])));
    assert_eq!((&reply["extents"], &reply["change-id"]), (&Value::Array(Vec::new()), &Value::from(last)));
    assert_eq!(reply.get("next"), None);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 7);
}

#[test]
fn what_cannot_be_answered_is_refused_with_the_reason() {
    let (_daemon, mut client) = daemon();
    let first = point(&mut client, "n");
    let one = "Exactly one of 'since' and 'bitmap' is needed";
    assert_eq!(refused(&mut client, ""), one);
    assert_eq!(refused(&mut client, ", 'since': 'x', 'bitmap': 'daily'"), one);
    assert_eq!(refused(&mut client, ", 'since': 'x'"), "'x' is no change ID");
    assert_eq!(refused(&mut client, ", 'bitmap': 'x'"), "Dirty bitmap 'x' not found");
    for limit in ["0", "65537"] {
        let text = refused(&mut client, &format!(", 'since': '{first}', 'limit': {limit}"));
        assert_eq!(text, "Parameter 'limit' expects a value from 1 to 65536");
    }
    bitmap(&mut client, "add", "other", "b");
    let others = point(&mut client, "other");
    let text = refused(&mut client, &format!(", 'since': '{others}'"));
    assert_eq!(text, format!("Change ID '{others}' is of node 'other', not of node 'n'"));
    bitmap(&mut client, "remove", "n", "daily");
    let (text, last) = (refused(&mut client, &format!(", 'since': '{first}'")), point(&mut client, "n"));
    let why = format!("bitmap 'daily', which had it, was removed at '{last}'");
    assert_eq!(
        text,
        format!("Node 'n': No bitmap has all that was changed since '{first}': {why}; copy the whole disk")
    );
}

#[test]
fn names_end_when_the_node_is_closed_and_the_persistent_bitmap_is_named_instead() {
    let (_daemon, mut client) = daemon();
    let before = point(&mut client, "n");
    client.succeed(CLOSE);
    client.succeed(IMAGE);
    assert_eq!(node(&mut client, "n").get("x-change-id"), None);
    let text = refused(&mut client, &format!(", 'since': '{before}'"));
    let over = "is of no node that is open, but of a node that was closed or a daemon that has ended";
    let way = "ask for what a persistent bitmap marks ('daily'), which is what has changed since it was added, cleared \
               or used up, or copy the whole disk";
    assert_eq!(text, format!("Change ID '{before}' {over}: {way}"));
    let reply = client.succeed(&query(", 'bitmap': 'daily'"));
    assert_eq!((&reply["extents"], &reply["bitmaps"][0]), (&Value::Array(Vec::new()), &Value::from("daily")));
    // From here on names are good again, and the bitmap that was there before answers.
    bitmap(&mut client, "enable", "n", "daily");
    let since = point(&mut client, "n");
    let reply = client.succeed(&query(&format!(", 'since': '{since}'")));
    assert_eq!((&reply["bitmaps"][0], &reply["change-id"]), (&Value::from("daily"), &Value::from(since.as_str())));
}
