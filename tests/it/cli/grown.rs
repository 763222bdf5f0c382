//! A block device that grows while it is served, on a loop device.

use super::process::{Place, TIDEMARK};
use std::process::Command;
use std::time::Duration;
use tidemark_frontend::{Device, DeviceOptions};

/// A loop device over a place's disk, detached when dropped.
pub struct Loop(pub String);

impl Loop {
    /// Attaches one, with more options.
    pub fn attach(place: &Place, more: &[&str]) -> Self {
        let output =
            Command::new("losetup").args(["-f", "--show"]).args(more).arg(place.file("disk")).output().unwrap();
        assert!(output.status.success(), "this test needs loop devices: {output:?}");
        Self(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    }

    fn tell_size(&self) {
        assert!(Command::new("losetup").args(["-c", &self.0]).status().unwrap().success());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The daemon may still have it open; then it goes with the daemon.
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_guest_is_told_when_its_block_device_grows() {
    let place = Place::new();
    let device = Loop::attach(&place, &[]);
    let _daemon = place.start(TIDEMARK, &["serve", &device.0, "--socket", "blk"]);
    place.wait_for_listener("blk");
    let mut guest = Device::connect(place.file("blk"), DeviceOptions::default()).unwrap();
    assert_eq!(guest.config().unwrap().capacity_bytes(), 1 << 20);
    std::fs::File::options().write(true).open(place.file("disk")).unwrap().set_len(3 << 20).unwrap();
    device.tell_size();
    let channel = guest.session().channel().expect("the back-end may send messages");
    assert!(channel.wait_config_change(Duration::from_secs(20)).unwrap(), "no message in 20 s");
    assert_eq!(guest.config().unwrap().capacity_bytes(), 3 << 20);
}
