//! Where a journal goes: beside the image, into a file that was named, into memory, nowhere; and what is said where it
//! cannot go there.

use std::fs;
use std::path::Path;

use super::{Daemon, GRANULARITY, INCONSISTENT, MIB, PLAIN, bitmaps, crash, kill, node, restart, run, serve, write};
use crate::cli::grown::Loop;
use crate::cli::process::Place;

const ADD: &str = "qemu-img bitmap --add disk a";

/// The daemon over an image on a loop device, which has the name `device`.
pub fn on_device(more: &str, make: &str) -> (Daemon, Loop) {
    let mut device = None;
    let daemon = Daemon::with_image(&on("device", more), |place| device = Some(attach(place, make)));
    (daemon, device.unwrap())
}

fn attach(place: &Place, make: &str) -> Loop {
    run(place.path(), &format!("{make}; {ADD}; truncate -s 64M disk"));
    let device = Loop::attach(place, &[]);
    std::os::unix::fs::symlink(&device.0, place.file("device")).unwrap();
    device
}

/// Options of the node over a block device.
fn on(device: &str, more: &str) -> String {
    format!("driver=qcow2,node-name=n,file.driver=host_device,file.filename={device}{more}")
}

/// Whether a bitmap has survived a crash.
fn survives(daemon: &mut Daemon) -> bool {
    write(daemon, &[5 * MIB]);
    crash(daemon);
    let found = bitmaps(&mut daemon.qmp());
    assert!(found[0].inconsistent || found[0].count >= GRANULARITY, "{found:?}");
    !found[0].inconsistent
}

/// Why the program does not open a node over files made by a script.
fn refusal(node: &str, place: &Place, script: &str) -> String {
    run(place.path(), script);
    place.refusal(&["--blockdev", node])
}

fn has(directory: &Path, name: &str) -> bool {
    fs::symlink_metadata(directory.join(name)).is_ok()
}

#[test]
fn without_crash_safety_a_crash_makes_bitmaps_inconsistent_as_in_qemu() {
    let mut daemon = serve(",x-crash-safe=off", &format!("{PLAIN}; {ADD}"));
    assert!(!daemon.file("disk.journal").exists());
    assert!(!survives(&mut daemon), "nothing keeps it");
    daemon.wait_logged(INCONSISTENT, 1);
    daemon.stop();
}

#[test]
fn what_a_journal_has_is_recovered_also_by_a_daemon_that_is_not_to_keep_one() {
    let mut daemon = serve("", &format!("{PLAIN}; {ADD}"));
    write(&daemon, &[5 * MIB]);
    kill(&mut daemon);
    let directory = daemon.file("disk").parent().unwrap().to_owned();
    let mut next = Daemon::with_image(&node(",x-crash-safe=off"), |place| {
        run(place.path(), &format!("mv '{0}'/disk '{0}'/disk.journal .", directory.display()));
    });
    let found = bitmaps(&mut next.qmp());
    assert!(found[0].count >= GRANULARITY && !found[0].inconsistent, "{found:?}");
    assert!(!next.file("disk.journal").exists(), "nobody needs it any more");
    assert!(!survives(&mut next), "nothing keeps it");
    next.stop();
}

#[test]
fn a_journal_that_nobody_has_asked_for_and_that_cannot_be_made_is_a_warning() {
    let mut daemon = serve("", &format!("{PLAIN}; {ADD}; mkdir disk.journal"));
    daemon.wait_logged("will not survive a crash", 1);
    assert!(daemon.log().contains("disk.journal"), "{}", daemon.log());
    assert!(!survives(&mut daemon), "nothing keeps it");
    daemon.terminate();
    assert!(has(daemon.file("disk").parent().unwrap(), "disk.journal"), "it is not ours");
}

#[test]
fn a_journal_that_was_asked_for_and_cannot_be_made_is_an_error_that_names_it() {
    let place = Place::new();
    let make = format!("{PLAIN}; {ADD}; mkdir disk.journal");
    let said = refusal(&node(",x-crash-safe=power"), &place, &make);
    assert!(said.contains("disk.journal' is no regular file"), "{said}");
    let said = refusal(&node(",x-crash-safe=power,x-journal=nowhere/journal"), &place, "true");
    assert!(said.contains("nowhere/journal") && said.contains("No such file"), "{said}");
    // The image is as it was.
    assert!(!run(place.path(), "qemu-img info disk").contains("in-use"));
}

#[test]
fn a_file_that_is_no_journal_is_not_taken_for_one_and_stays_as_it_is() {
    let place = Place::new();
    let make = format!("{PLAIN}; {ADD}; seq 10000 > precious; cp precious before");
    let said = refusal(&node(",x-crash-safe=power,x-journal=precious"), &place, &make);
    assert!(said.contains("precious") && said.contains("no change journal"), "{said}");
    run(place.path(), "cmp precious before");
    // Nor is it when the image was not closed, and its journal is elsewhere.
    let mut daemon = serve("", &format!("{PLAIN}; {ADD}; seq 10000 > precious"));
    kill(&mut daemon);
    let directory = daemon.file("disk").parent().unwrap().to_owned();
    let wrong = node(",x-journal=precious");
    let line = format!("\"$TIDEMARK\" --blockdev {wrong} 2> said && exit 9; seq 10000 | cmp - precious; cat said");
    assert!(run(&directory, &line).contains("no change journal"));
    let said = refusal(&node(",x-crash-safe=power,x-journal=disk"), &place, "true");
    assert!(said.contains("'disk'"), "{said}");
    run(place.path(), "qemu-img check -q disk");
    assert!(!run(place.path(), "qemu-img info disk").contains("in-use"));
}

#[test]
fn two_images_do_not_share_a_journal() {
    let mut daemon = serve(",x-journal=journal", &format!("{PLAIN}; {ADD}; cp disk other"));
    write(&daemon, &[5 * MIB]);
    let other = "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'other', 'file': {'driver': \
                 'file', 'filename': 'DIR/other'}, 'x-crash-safe': 'power', 'x-journal': 'DIR/journal'}}";
    let replies = daemon.qmp().ask(other);
    let said = replies[0]["error"]["desc"].as_str().unwrap_or_else(|| panic!("{replies:?}")).to_owned();
    assert!(said.contains("journal"), "{said}");
    assert!(survives(&mut daemon), "nobody else had its journal");
    daemon.stop();
}

#[test]
fn bitmaps_of_an_image_on_a_block_device_survive_the_process() {
    for more in ["", ",x-crash-safe=process"] {
        let (mut daemon, _device) = on_device(more, PLAIN);
        assert!(survives(&mut daemon), "{more}");
        daemon.stop();
    }
}

#[test]
fn bitmaps_of_an_image_on_a_block_device_survive_a_power_cut_with_a_journal_in_a_file() {
    let (mut daemon, _device) = on_device(",x-crash-safe=power,x-journal=elsewhere", PLAIN);
    assert!(daemon.file("elsewhere").exists());
    assert!(survives(&mut daemon));
    daemon.terminate();
    assert!(!daemon.file("elsewhere").exists(), "a journal that nobody needs");
    // The file alone says what is wanted.
    let (mut daemon, _device) = on_device(",x-journal=elsewhere", PLAIN);
    assert!(daemon.file("elsewhere").exists() && survives(&mut daemon));
    daemon.stop();
}

#[test]
fn without_a_file_for_it_a_block_device_has_no_journal_that_survives_a_power_cut() {
    let place = Place::new();
    let _device = attach(&place, PLAIN);
    let said = place.refusal(&["--blockdev", &on("device", ",x-crash-safe=power")]);
    assert!(said.contains("'device' is no regular file") && said.contains("x-journal"), "{said}");
}

#[test]
fn a_disk_too_large_for_a_journal_in_memory_is_served_without_one_unless_it_was_asked_for() {
    let huge = "qemu-img create -q -f qcow2 -o cluster_size=2M disk 40T";
    let add = "{'execute': 'block-dirty-bitmap-add', 'arguments': {'node': 'n', 'name': 'a', 'persistent': true, \
               'granularity': 16777216}}";
    let place = |place: &Place| {
        run(place.path(), &format!("{huge}; truncate -s 64M disk"));
        let device = Loop::attach(place, &[]);
        std::os::unix::fs::symlink(&device.0, place.file("device")).unwrap();
        device
    };
    for (more, fails) in [("", false), (",x-crash-safe=process", true)] {
        let mut device = None;
        let daemon = Daemon::with_image(&on("device", more), |at| device = Some(place(at)));
        let replies = daemon.qmp().ask(add);
        assert_eq!(replies[0].get("error").is_some(), fails, "'{more}': {replies:?}");
        if !fails {
            daemon.wait_logged("will not survive a crash", 1);
        }
        daemon.stop();
    }
}

#[test]
fn without_memory_that_outlives_it_a_journal_that_was_asked_for_is_an_error() {
    let place = Place::new();
    run(place.path(), &format!("{PLAIN}; {ADD}"));
    let line = "mount -t tmpfs -o ro none /dev/shm; exec \"$@\"";
    let node = node(",x-crash-safe=process");
    let tidemark = crate::cli::process::TIDEMARK;
    let arguments = ["--user", "--map-root-user", "--mount", "sh", "-ec", line, "sh", tidemark, "--blockdev", &node];
    let output = place.run("unshare", &arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/dev/shm") && said.contains("x-crash-safe"), "{said}");
}

#[test]
fn who_adds_an_image_that_was_not_closed_is_told_what_was_recovered() {
    let mut crashed = serve("", &format!("{PLAIN}; {ADD}"));
    write(&crashed, &[5 * MIB]);
    kill(&mut crashed);
    let daemon = Daemon::with_node("driver=null-co,node-name=n,size=1048576", "");
    let mut client = daemon.qmp();
    client.succeed(&format!(
        "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'qcow2', 'node-name': 'added', \
         'file': {{'driver': 'file', 'filename': '{}'}}}}}}",
        crashed.file("disk").display()
    ));
    let told: Vec<_> = client.events().iter().filter(|event| event["event"] == "X_BITMAPS_RECOVERED").collect();
    assert_eq!(told.len(), 1, "{:?}", client.events());
    let data = &told[0]["data"];
    assert_eq!((data["node-name"].as_str(), data["bitmaps"][0]["name"].as_str()), (Some("added"), Some("a")), "{data}");
    let more = data["bitmaps"][0]["more"].as_u64().unwrap();
    assert!((GRANULARITY..32 * MIB).contains(&more), "{data}");
    daemon.stop();
}

#[test]
fn a_journal_is_found_again_after_its_image_has_another_name() {
    let mut daemon = serve("", &format!("{PLAIN}; {ADD}"));
    write(&daemon, &[5 * MIB]);
    kill(&mut daemon);
    let directory = daemon.file("disk").parent().unwrap().to_owned();
    run(&directory, "mkdir moved; mv disk disk.journal moved; ln -s moved/disk disk");
    restart(&mut daemon);
    let found = bitmaps(&mut daemon.qmp());
    assert!(!found[0].inconsistent && found[0].count >= GRANULARITY, "{found:?}");
    daemon.stop();
}
