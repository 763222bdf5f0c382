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
    for driver in ["vmdk", "vdi", "luks"] {
        let text = format!("Block driver '{driver}' is not supported");
        refused(&dispatcher, "blockdev-add", node(driver), &text);
    }
    for kind in ["secret", "tls-creds-anon"] {
        let text = format!("Object type '{kind}' is not supported");
        refused(&dispatcher, "object-add", json!({"qom-type": kind, "id": "x"}), &text);
    }
    let export = json!({"type": "fuse", "id": "x", "node-name": "n"});
    refused(&dispatcher, "block-export-add", export, "Export type 'fuse' is not supported");
    let inactive = json!({"driver": "null-co", "node-name": "n", "active": false});
    refused(&dispatcher, "blockdev-add", inactive, "Inactive nodes are not supported");
    assert_eq!(succeed(&dispatcher, "query-named-block-nodes", json!({})), json!([]));
}

#[test]
fn queries_are_answered_while_a_command_runs() {
    let dispatcher = dispatcher();
    let running = dispatcher.control.lock().unwrap();
    for query in commands().filter(|command| command.name.starts_with("query-")) {
        // Some want arguments: an answer all the same.
        let _ = dispatcher.execute(query.name, &json!({}));
    }
    assert_eq!(succeed(&dispatcher, "query-named-block-nodes", json!({})), json!([]));
    drop(running);
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

/// Two nodes of one size, and an export `e` of the first one.
fn disk_and_target(dispatcher: &Dispatcher, dir: &std::path::Path) {
    for name in ["disk", "target"] {
        let node = json!({"driver": "null-co", "node-name": name, "size": 1 << 20});
        succeed(dispatcher, "blockdev-add", node);
    }
    let address = json!({"type": "unix", "path": dir.join("s").display().to_string()});
    let export = json!({"type": "vhost-user-blk", "id": "e", "node-name": "disk", "addr": address});
    succeed(dispatcher, "block-export-add", export);
}

#[test]
fn closing_ends_jobs_that_would_never_end() {
    let dispatcher = dispatcher();
    let dir = tempfile::tempdir().unwrap();
    disk_and_target(&dispatcher, dir.path());
    let backup = json!({"device": "disk", "target": "target", "sync": "none"});
    succeed(&dispatcher, "blockdev-backup", backup);
    let jobs = succeed(&dispatcher, "query-block-jobs", json!({}));
    assert_eq!(jobs[0]["device"], "e", "called like the export of its source");
    dispatcher.close();
    assert!(dispatcher.context().graph.nodes().is_empty());
    assert!(dispatcher.context().exports.list().is_empty());
}

#[test]
fn a_grouped_transaction_of_anything_but_jobs_is_refused_before_it_begins() {
    let dispatcher = dispatcher();
    let dir = tempfile::tempdir().unwrap();
    disk_and_target(&dispatcher, dir.path());
    let bitmap = json!({"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "b"}});
    // The backup cannot be made either: its target is not there.
    let data = json!({"device": "disk", "target": "nowhere", "sync": "full"});
    let backup = json!({"type": "blockdev-backup", "data": data});
    let grouped = json!({"actions": [backup, bitmap], "properties": {"completion-mode": "grouped"}});
    let text = "Action 'block-dirty-bitmap-add' does not support transaction property completion-mode = grouped";
    refused(&dispatcher, "transaction", grouped, text);
}

#[test]
fn bitmaps_are_listed_with_their_node_and_nodes_without_bitmaps_list_none() {
    let dispatcher = dispatcher();
    let dir = tempfile::tempdir().unwrap();
    disk_and_target(&dispatcher, dir.path());
    let add = |name: &str, disabled| json!({"node": "disk", "name": name, "granularity": 4096, "disabled": disabled});
    succeed(&dispatcher, "block-dirty-bitmap-add", add("first", false));
    succeed(&dispatcher, "block-dirty-bitmap-add", add("second", true));
    let nodes = succeed(&dispatcher, "query-named-block-nodes", json!({}));
    let info = |name: &str, recording: bool| json!({"name": name, "count": 0, "granularity": 4096, "recording": recording, "busy": false, "persistent": false});
    let mut listed = nodes[1]["dirty-bitmaps"].clone();
    for bitmap in listed.as_array_mut().unwrap() {
        bitmap.as_object_mut().unwrap().remove("x-change-id");
    }
    assert_eq!(listed, json!([info("second", false), info("first", true)]));
    assert_eq!(nodes[0].get("dirty-bitmaps"), None);
}

#[test]
fn a_job_that_is_not_there_has_another_error_class_in_each_family() {
    let dispatcher = dispatcher();
    let class = |command: &str, key: &str| dispatcher.execute(command, &json!({key: "j"})).unwrap_err().class.name();
    assert_eq!(class("job-pause", "id"), "GenericError");
    assert_eq!(class("block-job-pause", "device"), "DeviceNotActive");
    assert_eq!(class("block-job-dismiss", "id"), "DeviceNotActive");
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
