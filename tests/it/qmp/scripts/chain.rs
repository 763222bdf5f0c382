//! Chains of images for scripts: made and looked at by QEMU's tools. Knows no daemon.

use std::path::Path;
use std::process::Command;

use qmp_lite::wire::{Value, parse};

use super::content;

/// Bytes that each image of a chain has of its own.
const OWN: u64 = 1 << 20;

fn tool(dir: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(dir).output().expect("a tool of QEMU's");
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Makes images `n0.img`, `n1.img` and so on, each over the one before. Each has a MiB of its own in a place of its own,
/// a zero cluster and a data cluster that hide what is below.
pub fn create(dir: &Path, images: usize, len: u64) {
    for number in 0..images {
        let (name, below) = (format!("n{number}.img"), format!("n{}.img", number.wrapping_sub(1)));
        let size = len.to_string();
        let mut create = vec!["create", "-q", "-f", "qcow2", "-o", "cluster_size=64k"];
        if number > 0 {
            create.extend(["-b", &below, "-F", "qcow2"]);
        }
        create.extend([name.as_str(), size.as_str()]);
        tool(dir, "qemu-img", &create);
        let at = number as u64 * OWN;
        let own = format!("write -q -P {} {at} {OWN}", number + 1);
        let shared = format!("write -q -P {} {} 64k", 0x40 + number, len - (1 << 18));
        let zeroes = format!("write -q -z {} 64k", at.saturating_sub(OWN));
        let mut commands = vec!["-f", "qcow2", "-c", &own, "-c", &shared];
        if number > 0 {
            commands.extend(["-c", &zeroes]);
        }
        commands.push(&name);
        tool(dir, "qemu-io", &commands);
    }
}

/// The node of an image of a chain, as `blockdev-add` takes it.
pub fn node(number: usize, read_only: bool) -> String {
    let backing = if number == 0 { "null".to_owned() } else { format!("n{}", number - 1) };
    format!(
        "{{driver: qcow2, node-name: n{number}, read-only: {read_only}, backing: {backing}, discard: unmap, \
         file: {{driver: file, node-name: f{number}, filename: n{number}.img, auto-read-only: true}}}}"
    )
}

/// What the header of an image says is below it.
pub fn header(path: &Path) -> String {
    let arguments = ["info", "-U", "--output", "json", path.to_str().expect("a path")];
    let info: Value = parse(&tool(Path::new("/"), "qemu-img", &arguments)).expect("JSON");
    format!("{} {}", info["backing-filename"], info["backing-filename-format"])
}

/// What an image shows, with all that is below it; QEMU finds nothing wrong with it.
pub fn shown(path: &Path) -> String {
    let dir = path.parent().expect("a directory");
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    tool(dir, "qemu-img", &["check", "-q", name]);
    tool(dir, "qemu-img", &["convert", "-f", "qcow2", "-O", "raw", name, "shown.raw"]);
    content::shown(&dir.join("shown.raw"))
}
