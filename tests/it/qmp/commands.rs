//! What commands do, as a management client sees it.

use std::os::unix::net::UnixStream;

use qmp_lite::wire::Value;

use super::daemon::{Client, Daemon, TIDEMARK};

/// A daemon with a node `disk` on its image and an export `vda` of it.
fn exported() -> (Daemon, Client) {
    let mut daemon = Daemon::start(
        TIDEMARK,
        &[
            "--blockdev",
            "driver=raw,node-name=disk,file.driver=file,file.filename=DIR/disk.img",
            "--export",
            "vhost-user-blk,id=vda,node-name=disk,addr.type=unix,addr.path=DIR/vda.sock,writable=on",
        ],
    );
    let client = daemon.negotiate();
    (daemon, client)
}

fn names(list: &Value, member: &str) -> Vec<String> {
    let name = |entry: &Value| entry[member].as_str().expect("a name").to_owned();
    list.as_array().expect("a list").iter().map(name).collect()
}

#[test]
fn quit_ends_exports_first_then_answers_then_exits() {
    let (mut daemon, client) = exported();
    let mut second = UnixStream::connect(daemon.dir().join("vda.sock"));
    let replies = client.ask_last("{'execute': 'quit', 'id': 1}{'execute': 'query-version'}");
    assert_eq!(replies[0]["event"], "BLOCK_EXPORT_DELETED");
    assert_eq!(replies[0]["data"]["id"], "vda");
    assert_eq!(replies[1]["id"], 1);
    assert!(replies[1].get("return").is_some());
    assert_eq!(replies.len(), 2, "nothing is answered after quit");
    assert!(daemon.wait().success());
    assert!(!daemon.dir().join("qmp.sock").exists(), "the monitor's socket is gone");
    assert!(second.as_mut().is_ok(), "the export could be connected to");
}

#[test]
fn quit_cancels_jobs_before_it_ends_exports() {
    let (mut daemon, mut client) = exported();
    client
        .succeed("{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 't', 'size': 1048576}}");
    client.succeed("{'execute': 'blockdev-backup', 'arguments': {'device': 'disk', 'target': 't', 'sync': 'none'}}");
    let replies = client.ask_last("{'execute': 'quit', 'id': 1}");
    let told = |reply: &Value| reply["event"].as_str().unwrap_or("return").to_owned();
    let told: Vec<_> = replies.iter().map(told).filter(|event| event != "JOB_STATUS_CHANGE").collect();
    assert_eq!(told, ["BLOCK_JOB_CANCELLED", "BLOCK_EXPORT_DELETED", "return"]);
    let last = replies.iter().rfind(|reply| reply["event"] == "JOB_STATUS_CHANGE").expect("a job that ended");
    assert_eq!((&last["data"]["id"], &last["data"]["status"]), (&Value::from("vda"), &Value::from("null")));
    assert!(daemon.wait().success());
}

#[test]
fn a_job_without_an_id_is_called_like_the_export_of_its_source() {
    let (_daemon, mut client) = exported();
    client
        .succeed("{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 't', 'size': 1048576}}");
    client.succeed("{'execute': 'blockdev-backup', 'arguments': {'device': 'disk', 'target': 't', 'sync': 'none'}}");
    let jobs = client.succeed("{'execute': 'query-block-jobs'}");
    assert_eq!(names(&jobs, "device"), ["vda"]);
    client.succeed("{'execute': 'block-job-cancel', 'arguments': {'device': 'vda'}}");
    let action = "{'type': 'blockdev-backup', 'data': {'device': 'disk', 'target': 't', 'sync': 'none'}}";
    while client.succeed("{'execute': 'query-jobs'}") != Value::Array(Vec::new()) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    client.succeed(&format!("{{'execute': 'transaction', 'arguments': {{'actions': [{action}]}}}}"));
    assert_eq!(names(&client.succeed("{'execute': 'query-jobs'}"), "id"), ["vda"]);
}

#[test]
fn an_exported_source_of_a_job_is_in_use_by_its_export() {
    let (_daemon, mut client) = exported();
    client
        .succeed("{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 't', 'size': 1048576}}");
    client.succeed("{'execute': 'blockdev-backup', 'arguments': {'device': 'disk', 'target': 't', 'sync': 'none'}}");
    let refused = |client: &mut Client, request: &str| {
        let replies = client.ask(request);
        replies[0]["error"]["desc"].as_str().expect("a text").to_owned()
    };
    let text = refused(&mut client, "{'execute': 'blockdev-del', 'arguments': {'node-name': 'disk'}}");
    assert_eq!(text, "Node disk is in use");
    let text = refused(&mut client, "{'execute': 'block_resize', 'arguments': {'device': 'vda', 'size': 2097152}}");
    let (start, end) = text.split_once(" and unshared by node '#block").expect("a permission conflict");
    assert_eq!(
        start,
        "Permission conflict on node 'disk': permissions 'resize' are both required by an unnamed block device \
         (uses node 'disk' as 'root' child)"
    );
    assert!(end.ends_with("' (uses node 'disk' as 'file' child)."), "{text}");
}

#[test]
fn nodes_and_exports_of_the_command_line_are_listed() {
    let (_daemon, mut client) = exported();
    let nodes = client.succeed("{'execute': 'query-named-block-nodes'}");
    assert_eq!(names(&nodes, "drv"), ["raw", "file"]);
    assert_eq!(nodes[0]["node-name"], "disk");
    assert_eq!(nodes[0]["image"]["virtual-size"], 1 << 20);
    assert_eq!(nodes[1]["image"]["actual-size"], 0, "the image is one hole");
    let exports = client.succeed("{'execute': 'query-block-exports'}");
    assert_eq!(names(&exports, "id"), ["vda"]);
    assert_eq!(exports[0]["node-name"], "disk");
    let devices = client.succeed("{'execute': 'query-block'}");
    assert_eq!(names(&devices, "device"), ["vda"]);
    let nodes = client.succeed("{'execute': 'query-blockstats', 'arguments': {'query-nodes': true}}");
    assert_eq!(nodes.as_array().expect("a list").len(), 2);
}

#[test]
fn a_node_can_be_resized_by_its_name_and_by_its_export() {
    let (daemon, mut client) = exported();
    let len = || std::fs::metadata(daemon.dir().join("disk.img")).unwrap().len();
    client.succeed("{'execute': 'block_resize', 'arguments': {'node-name': 'disk', 'size': 2097152}}");
    assert_eq!(len(), 2 << 20);
    client.succeed("{'execute': 'block_resize', 'arguments': {'device': 'vda', 'size': 4194304}}");
    assert_eq!(len(), 4 << 20);
    let nodes = client.succeed("{'execute': 'query-named-block-nodes'}");
    assert_eq!(nodes[0]["image"]["virtual-size"], 4 << 20);
}

#[test]
fn removed_exports_and_nodes_leave_nothing_behind() {
    let (daemon, mut client) = exported();
    client.succeed("{'execute': 'block-export-del', 'arguments': {'id': 'vda'}}");
    assert!(!daemon.dir().join("vda.sock").exists());
    client.succeed("{'execute': 'blockdev-del', 'arguments': {'node-name': 'disk'}}");
    assert_eq!(client.succeed("{'execute': 'query-named-block-nodes'}").as_array().map(Vec::len), Some(0));
    assert_eq!(names(&Value::Array(client.events().to_vec()), "event"), ["BLOCK_EXPORT_DELETED"]);
    client.succeed(
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'file', 'node-name': 'disk', 'filename': 'DIR/disk.img'}}",
    );
}

#[test]
fn who_connects_at_once_finds_what_all_options_make_also_those_after_the_monitor() {
    let image = "driver=qcow2,read-only=on,file.driver=file,file.filename=DIR/image,file.locking=off";
    let options: Vec<String> =
        (0..200).flat_map(|number| ["--blockdev".into(), format!("{image},node-name=n{number}")]).collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut daemon = Daemon::start(TIDEMARK, &options);
    let found = daemon.negotiate().succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
    let found = names(&found, "node-name");
    assert!((0..200).all(|number| found.contains(&format!("n{number}"))), "{found:?}");
}
