//! Commands as the monitors and the command line run them.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Dispatcher;
use crate::command::commands;
use crate::context::Context;

fn dispatcher() -> Arc<Dispatcher> {
    Dispatcher::new(Context::new())
}

#[track_caller]
fn succeed(dispatcher: &Dispatcher, command: &str, arguments: Value) -> Value {
    dispatcher.execute(command, &arguments).unwrap()
}

#[track_caller]
fn refused(dispatcher: &Dispatcher, command: &str, arguments: Value, text: &str) {
    assert_eq!(dispatcher.execute(command, &arguments).unwrap_err().desc, text, "{arguments}");
}

#[test]
fn features_of_qemu_that_are_not_built_are_refused_by_name() {
    let dispatcher = dispatcher();
    let node = |driver: &str| json!({"driver": driver, "node-name": "n", "file": "x"});
    for driver in ["qcow2", "nbd", "throttle", "copy-on-read", "luks"] {
        let text = format!("Block driver '{driver}' is not supported");
        refused(&dispatcher, "blockdev-add", node(driver), &text);
    }
    for kind in ["secret", "throttle-group", "tls-creds-x509"] {
        let text = format!("Object type '{kind}' is not supported");
        refused(&dispatcher, "object-add", json!({"qom-type": kind, "id": "x"}), &text);
    }
    let export = json!({"type": "nbd", "id": "x", "node-name": "n"});
    refused(&dispatcher, "block-export-add", export, "Export type 'nbd' is not supported");
    let inactive = json!({"driver": "null-co", "node-name": "n", "active": false});
    refused(&dispatcher, "blockdev-add", inactive, "Inactive nodes are not supported");
    assert_eq!(succeed(&dispatcher, "query-named-block-nodes", json!({})), json!([]));
}

#[test]
fn options_of_the_command_line_mean_what_their_commands_mean() {
    let dispatcher = dispatcher();
    let option = |command, option, implied| dispatcher.execute_option(command, option, Some(implied));
    option("blockdev-add", "raw,node-name=a,file.driver=null-co,file.size=4096,offset=0x200", "driver").unwrap();
    option("blockdev-add", "{'driver': 'null-co', 'node-name': 'b', 'size': 512}", "driver").unwrap();
    option("object-add", "iothread,id=io,poll-max-ns=0", "qom-type").unwrap();
    let nodes = succeed(&dispatcher, "query-named-block-nodes", json!({}));
    let sizes: Vec<_> = nodes.as_array().unwrap().iter().map(|node| &node["image"]["virtual-size"]).collect();
    assert_eq!(sizes, [512, 3584, 4096]);
    let error = option("blockdev-add", "null-co,node-name=c,size=1k", "driver").unwrap_err();
    assert_eq!(error.desc, "Parameter 'size' expects integer");
    let error = option("object-add", "iothread,id=1", "qom-type").unwrap_err();
    assert_eq!(error.desc, "Parameter 'id' expects an identifier");
    assert!(error.hint.unwrap().starts_with("Identifiers consist of"));
}

#[test]
fn descriptors_may_be_named_on_the_command_line_only() {
    let dispatcher = dispatcher();
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    // What an inherited descriptor looks like: open, not close-on-exec, and nobody's.
    let number = std::mem::ManuallyDrop::new(rustix::io::dup(&listener).unwrap()).as_raw_fd();
    succeed(&dispatcher, "blockdev-add", json!({"driver": "null-co", "node-name": "n"}));
    let fd = json!({"type": "fd", "str": number.to_string()});
    let export = json!({"type": "vhost-user-blk", "id": "e", "node-name": "n", "addr": fd});
    refused(&dispatcher, "block-export-add", export, "only QEMU supports file descriptor passing");
    let option = format!("vhost-user-blk,id=e,node-name=n,addr.type=fd,addr.str={number}");
    dispatcher.execute_option("block-export-add", &option, Some("type")).unwrap();
    let exports = succeed(&dispatcher, "query-block-exports", json!({}));
    assert_eq!(exports[0]["id"], "e");
    let option = "vhost-user-blk,id=f,node-name=n,addr.type=fd,addr.str=999";
    let error = dispatcher.execute_option("block-export-add", option, Some("type")).unwrap_err();
    assert_eq!(error.desc, "File descriptor '999' is not a socket");
}

#[test]
fn closing_removes_exports_and_nodes_whatever_depends_on_what() {
    let dispatcher = dispatcher();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s").display().to_string();
    succeed(&dispatcher, "blockdev-add", json!({"driver": "null-co", "node-name": "low"}));
    succeed(&dispatcher, "blockdev-add", json!({"driver": "raw", "node-name": "high", "file": "low"}));
    let address = json!({"type": "unix", "path": path});
    let export = json!({"type": "vhost-user-blk", "id": "e", "node-name": "high", "addr": address});
    succeed(&dispatcher, "block-export-add", export);
    refused(&dispatcher, "blockdev-del", json!({"node-name": "low"}), "Block device low is in use");
    refused(&dispatcher, "blockdev-del", json!({"node-name": "high"}), "Node high is in use");
    dispatcher.close();
    dispatcher.close();
    let context = dispatcher.context();
    assert!(context.exports.list().is_empty());
    assert!(context.graph.nodes().is_empty());
    assert!(context.quit.is_requested());
    let node = json!({"driver": "null-co", "node-name": "late"});
    refused(&dispatcher, "blockdev-add", node, "The daemon is ending");
}

#[test]
fn every_listed_command_is_described_and_documented() {
    let dispatcher = dispatcher();
    let listed = succeed(&dispatcher, "query-commands", json!({}));
    let listed: Vec<_> = listed.as_array().unwrap().iter().map(|entry| entry["name"].clone()).collect();
    let schema = succeed(&dispatcher, "query-qmp-schema", json!({}));
    for command in commands() {
        assert!(listed.contains(&json!(command.name)));
        assert!(!command.doc.is_empty());
        let described = |entry: &&Value| entry["name"] == command.name && entry["meta-type"] == "command";
        assert_eq!(schema.as_array().unwrap().iter().filter(described).count(), 1, "{}", command.name);
    }
    assert_eq!(listed.len(), commands().count());
}
