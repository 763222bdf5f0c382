//! `tidemark bitmap` beside `qemu-img bitmap`: what comes to be in the image, what is refused and how.

mod chain;
mod damaged;
mod interop;
mod refused;
mod room;

use super::process::{Place, TIDEMARK};

/// Runs a script in a place; it has to succeed. Returns what it prints.
pub fn shell(place: &Place, script: &str) -> String {
    let output = place.run("bash", &["-ec", script]);
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs our program, which has to succeed. Returns what it prints.
pub fn tidemark(place: &Place, arguments: &[&str]) -> String {
    let output = place.run(TIDEMARK, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What QEMU says of the bitmaps of an image: from `"bitmaps"` to the end of that list.
pub fn told_by_qemu(place: &Place, image: &str) -> String {
    let info = shell(place, &format!("qemu-img info -U --output json '{image}'"));
    let Some(start) = info.find("\"bitmaps\": [") else { return String::new() };
    let list = &info[start..];
    // Flags are lists in that list, and end on lines that are further in.
    let indent = info[..start].rsplit('\n').next().unwrap().len();
    let end = list.find(&format!("\n{}]", " ".repeat(indent))).unwrap_or(list.len());
    list[..end].to_owned()
}

/// What a bitmap of an image marks, as QEMU hands it out: dirty is shown as no data.
pub fn map(place: &Place, image: &str, bitmap: &str) -> String {
    shell(
        place,
        &format!(
            "socket=nbd.$$
             qemu-nbd --fork --pid-file=$socket.pid -r -k \"$PWD/$socket\" -B '{bitmap}' -f qcow2 '{image}'
             pid=$(cat $socket.pid)
             qemu-img map --output json --image-opts \
               \"driver=nbd,server.type=unix,server.path=$socket,x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}\"
             # By itself it would end a second later, and have the image until then.
             kill -9 $pid || :; while [ -e /proc/$pid/exe ]; do sleep 0.01; done"
        ),
    )
}
