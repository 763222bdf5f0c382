//! An image of this machine over a server's disk: what a guest reads is there or here, what it writes is here.

use std::fs;
use std::path::Path;
use std::process::Command;

use tidemark_frontend::DeviceOptions;

use super::start;
use crate::cli::process::{Place, Running};
use crate::vhost::daemon::{DISK, Daemon};
use crate::vhost::load::{BLOCK, BLOCKS, Load};

const NODE: &str = "driver=qcow2,node-name=n,discard=unmap,file.driver=file,file.filename=disk,backing.driver=nbd,\
                    backing.server.type=unix,backing.server.path=remote.sock,backing.reconnect-delay=60";

/// The server's disk, which it does not let anybody write to.
fn serve(dir: &Path) -> Running {
    start(dir, "qemu-nbd", "-r -t -e 0 -k remote.sock -f raw remote")
}

fn qemu_img(dir: &Path, line: &str) {
    let output = Command::new("qemu-img").args(line.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
}

fn prepare(place: &Place) -> Vec<u8> {
    let remote: Vec<u8> =
        (1..=BLOCKS as u64).flat_map(|value| value.to_le_bytes().repeat(BLOCK as usize / 8)).collect();
    fs::write(place.file("remote"), &remote).unwrap();
    let backing = "-F raw -b nbd+unix:///?socket=remote.sock";
    qemu_img(place.path(), &format!("create -q -u -f qcow2 -o cluster_size=16k {backing} disk {DISK}"));
    remote
}

#[test]
fn a_guest_uses_an_image_over_a_servers_disk_that_is_gone_for_a_while() {
    let (mut server, mut remote) = (None, Vec::new());
    let mut daemon = Daemon::with_image(NODE, |place| {
        remote = prepare(place);
        server = Some(serve(place.path()));
    });
    let dir = daemon.file("disk").parent().unwrap().to_owned();
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 41);
    load.assume(0, 1..=BLOCKS as u64);
    load.steps(300);
    load.fill();
    drop(server.take());
    load.fill();
    let _server = serve(&dir);
    load.steps(3000);
    load.flush();
    drop(device);
    daemon.terminate();
    assert!(fs::read(daemon.file("remote")).unwrap() == remote, "the server's disk is not what it was");
    qemu_img(&dir, "check -q -f qcow2 disk");
    qemu_img(&dir, "convert -f qcow2 -O raw disk content");
    assert!(fs::read(dir.join("content")).unwrap() == load.expected(DISK), "the image is not what was written");
}
