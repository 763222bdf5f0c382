//! `tidemark bitmap recover` on an image whose daemon was killed: then QEMU may use it, and its bitmaps.

use std::fs;
use std::path::{Path, PathBuf};

use super::{
    Daemon, GRANULARITY, MIB, PLAIN, RAW, bitmaps, check_left_in_order, kill, restart, run, serve, shell, write,
};
use crate::cli::process::Place;

const ADD: &str = "qemu-img bitmap --add disk a; qemu-img bitmap --add --disable disk off";

fn directory(daemon: &Daemon) -> PathBuf {
    daemon.file("disk").parent().unwrap().to_owned()
}

/// A daemon that has been killed after a guest wrote to its disk.
fn crashed(options: &str, make: &str) -> Daemon {
    let mut daemon = serve(options, &format!("{make}; {ADD}; truncate -s 32M copy"));
    write(&daemon, &[MIB, 5 * MIB]);
    kill(&mut daemon);
    daemon
}

/// Why the program does not do it; nothing changes.
fn refusal(directory: &Path, arguments: &str) -> String {
    let files = || run(directory, "sha256sum disk*; ls");
    let before = files();
    let said = run(directory, &format!("\"$TIDEMARK\" bitmap {arguments} 2>&1 > nothing && exit 9; rm nothing"));
    assert_eq!(files(), before, "{said}");
    said
}

#[test]
fn bitmaps_recovered_offline_are_those_that_qemu_goes_on_with() {
    for (options, make) in [("", PLAIN), (",x-crash-safe=process", PLAIN), ("", RAW), (",x-crash-safe=process", RAW)] {
        let mut daemon = crashed(options, make);
        let told = shell(&daemon, "\"$TIDEMARK\" bitmap recover disk");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 2, "{told}");
        assert!(lines[0].starts_with("a: recovered, marks at most "), "{told}");
        assert_eq!(lines[1], "off: recovered, marks at most 0 bytes too many", "{told}");
        check_left_in_order(&daemon, &["a", "off"]);
        // QEMU writes, and its backup by the bitmap is the disk.
        shell(
            &daemon,
            "qemu-io -f qcow2 -c 'write -q -P 3 9M 64k' disk
             touch log; qemu-img convert -f qcow2 -O raw disk now
             printf '%s\\n' '{\"execute\": \"qmp_capabilities\"}' \\
               '{\"execute\": \"blockdev-backup\", \"arguments\": {\"job-id\": \"j\", \"device\": \"n\", \"target\": \"t\",
                 \"sync\": \"incremental\", \"bitmap\": \"a\"}}' > commands
             (cat commands; sleep 2; echo '{\"execute\": \"quit\"}') | qemu-storage-daemon --chardev stdio,id=m --monitor m \\
               --blockdev driver=qcow2,node-name=n,file.driver=file,file.filename=disk \\
               --blockdev driver=file,node-name=t,filename=copy > told
             grep -q BLOCK_JOB_COMPLETED told; cmp now copy",
        );
        restart(&mut daemon);
        let found = bitmaps(&mut daemon.qmp());
        assert!(found.iter().all(|bitmap| !bitmap.inconsistent), "{found:?}");
        assert_eq!(found[0].count, 0, "QEMU has backed up all");
        daemon.stop();
    }
}

#[test]
fn what_was_recovered_is_told_to_programs_as_well() {
    let daemon = crashed("", PLAIN);
    let told = shell(&daemon, "\"$TIDEMARK\" bitmap recover --output json disk | tee told; jq -e '.' told > parsed");
    let of = |filter: &str| shell(&daemon, &format!("jq -c '{filter}' told"));
    assert_eq!(of("[.[] | [.name, .recording, .inconsistent]]"), "[[\"a\",true,false],[\"off\",false,false]]\n");
    let more: u64 = of(".[0].more").trim().parse().unwrap();
    assert!((2 * GRANULARITY..32 * MIB).contains(&more), "{told}");
    // It was not in use: there is nothing to recover.
    let told = shell(&daemon, "\"$TIDEMARK\" bitmap recover disk");
    assert_eq!(told, "a: was stored in order\noff: was stored in order\n");
}

#[test]
fn bitmaps_that_stay_inconsistent_are_told_with_the_reason() {
    let daemon = crashed("", PLAIN);
    shell(&daemon, "qemu-io -f qcow2 -c 'write -q 9M 64k' disk");
    let told = shell(&daemon, "\"$TIDEMARK\" bitmap recover disk");
    for (line, name) in told.lines().zip(["a", "off"]) {
        assert!(line.starts_with(&format!("{name}: inconsistent: ")) && line.contains("another program"), "{told}");
    }
    let json = shell(&daemon, "\"$TIDEMARK\" bitmap recover --output json disk | jq -r '.[0].reason'");
    assert!(json.contains("another program"), "{json}");
}

#[test]
fn an_image_whose_journal_is_elsewhere_is_left_alone_until_that_is_named() {
    let daemon = crashed(",x-journal=elsewhere", PLAIN);
    let said = refusal(&directory(&daemon), "recover disk");
    assert!(said.contains("disk.journal") && said.contains("--journal"), "{said}");
    shell(&daemon, "\"$TIDEMARK\" bitmap recover disk --journal elsewhere > told; ! grep inconsistent told");
    assert!(!daemon.file("elsewhere").exists());
    shell(&daemon, "! qemu-img info disk | grep in-use");
}

#[test]
fn bitmaps_of_an_image_that_was_not_closed_are_not_changed_before_they_are_recovered() {
    let daemon = crashed("", PLAIN);
    for command in ["add disk b", "clear disk a", "remove disk a", "merge disk a off", "enable disk off"] {
        let said = refusal(&directory(&daemon), command);
        assert!(said.contains("tidemark bitmap recover"), "{command}: {said}");
    }
    shell(&daemon, "\"$TIDEMARK\" bitmap recover disk > told; \"$TIDEMARK\" bitmap clear disk a");
    check_left_in_order(&daemon, &["a", "off"]);
}

#[test]
fn an_image_in_use_and_a_raw_disk_are_refused() {
    let daemon = serve("", &format!("{PLAIN}; {ADD}"));
    let said = run(&directory(&daemon), "\"$TIDEMARK\" bitmap recover disk 2>&1 && exit 9; true");
    assert!(said.contains("lock"), "{said}");
    daemon.stop();
    let place = Place::new();
    let said = place.refusal(&["bitmap", "recover", "disk"]);
    assert!(said.contains("'disk' is a raw disk"), "{said}");
    assert_eq!(fs::read(place.file("disk")).unwrap(), vec![0; 1 << 20]);
}
