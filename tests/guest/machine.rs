//! A virtual machine: QEMU with two serial ports, a monitor and vhost-user-blk disks. Knows
//! QEMU's options; what the guest does is of no concern here.

use std::path::Path;
use std::time::Duration;

use crate::backend::Backend;
use crate::console::Console;
use crate::image;
use crate::process::Process;
use crate::qmp::{Qmp, one_line};

/// A boot takes 2 seconds on an idle machine.
const BOOT: Duration = Duration::from_secs(60);

/// Linux's own messages; no self-tests and no mitigations, which software emulation makes slow.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet mitigations=off cryptomgr.notests \
     random.trust_cpu=on rcupdate.rcu_expedited=1 8250.nr_uarts=2 nokaslr";

/// How the guest's disk appears to it, where that is not the back-end's business.
#[derive(Clone, Copy)]
pub struct Device {
    /// Number of queues, or one for each virtual CPU.
    pub queues: Option<u16>,
    /// Offer VIRTIO_F_INDIRECT_DESC.
    pub indirect_desc: bool,
    /// Offer VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
}

impl Default for Device {
    fn default() -> Self {
        Self { queues: None, indirect_desc: true, event_idx: true }
    }
}

impl Device {
    /// The arguments of `device_add`, and of `-device`. The disk that is there from power-on is booted from.
    fn json(self, id: &str) -> String {
        let Self { queues, indirect_desc, event_idx } = self;
        let queues = queues.map_or_else(String::new, |number| format!(r#", "num-queues": {number}"#));
        let boot = if id == FIRST { r#", "bootindex": 1"# } else { "" };
        format!(
            r#"{{"driver": "vhost-user-blk-pci", "id": "{id}", "chardev": "{id}-socket"{boot},
                "indirect_desc": {indirect_desc}, "event_idx": {event_idx}{queues}}}"#
        )
    }
}

/// Where the guest's kernel comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// QEMU loads it: the fastest way.
    Kernel,
    /// SeaBIOS loads it from the disk.
    Disk,
}

/// A running virtual machine whose guest answers.
pub struct Machine {
    process: Process,
    qmp: Qmp,
    /// The channel to the guest.
    pub console: Console,
    plugged: u32,
}

/// The id of the disk that is there from power-on.
const FIRST: &str = "blk0";

impl Machine {
    /// Powers a machine on, with a disk in it if one is given, and waits until the guest is up.
    pub fn boot(vcpus: u8, boot: Boot, disk: Option<(&Backend, Device)>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be created");
        let mut arguments = board(vcpus, directory.path());
        if boot == Boot::Kernel {
            let file = |name| image::file(name).display().to_string();
            let kernel = ["-kernel", &file("vmlinux"), "-initrd", &file("initramfs")].map(str::to_owned);
            arguments.extend(kernel);
            arguments.extend(["-append", KERNEL_COMMAND_LINE].map(str::to_owned));
        }
        if let Some((backend, device)) = disk {
            let path = backend.socket().display().to_string();
            let socket = format!("socket,id={FIRST}-socket,path={path},reconnect-ms=100");
            arguments.extend(["-chardev", &socket, "-device", &device.json(FIRST)].map(str::to_owned));
        }
        let mut process = Process::spawn(image::qemu(), &arguments);
        let qmp = Qmp::connect(&directory.path().join("qmp"), &mut process);
        let console = Console::connect(&directory.path().join("console"), BOOT);
        // Both sockets are connected: their names, and the directory, may go.
        Self { process, qmp, console, plugged: 0 }
    }

    /// Adds the disk behind a vhost-user socket to the running machine. Returns its id.
    pub fn plug(&mut self, socket: &Path, device: Device) -> String {
        self.plugged += 1;
        let id = format!("blk{}", self.plugged);
        let path = socket.display();
        let chardev = format!(
            r#"{{"id": "{id}-socket", "backend": {{"type": "socket", "data": {{"server": false, "reconnect-ms": 100,
                "addr": {{"type": "unix", "data": {{"path": "{path}"}}}}}}}}}}"#
        );
        self.qmp.execute("chardev-add", &one_line(&chardev));
        self.qmp.execute("device_add", &one_line(&device.json(&id)));
        id
    }

    /// Takes the disk `id` out of the running machine and waits until the guest has let go of it.
    pub fn unplug(&mut self, id: &str) {
        self.qmp.execute("device_del", &format!(r#"{{"id": "{id}"}}"#));
        self.qmp.wait_event(&["DEVICE_DELETED", &format!(r#""device": "{id}""#)]);
        self.qmp.execute("chardev-remove", &format!(r#"{{"id": "{id}-socket"}}"#));
    }

    /// What came out of the first serial port and of QEMU itself.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Powers the guest off from inside and waits for QEMU to end.
    pub fn power_off(mut self) {
        self.console.power_off();
        let status = self.process.wait(BOOT);
        assert!(status.success(), "QEMU ended with {status}");
    }
}

fn board(vcpus: u8, directory: &Path) -> Vec<String> {
    let place = |name: &str| directory.join(name).display().to_string();
    let vcpus = vcpus.to_string();
    [
        // `pc` rather than `q35`: it takes PCI devices while it runs. The guest's memory has to be shared
        // with the back-end.
        "-M",
        "pc",
        "-machine",
        "memory-backend=mem",
        "-object",
        "memory-backend-memfd,id=mem,size=256M,share=on",
        "-m",
        "256",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "qemu64",
        "-smp",
        &vcpus,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
        "-chardev",
        &format!("socket,id=console,path={},server=on,wait=off", place("console")),
        "-serial",
        "chardev:console",
        "-qmp",
        &format!("unix:{},server=on,wait=off", place("qmp")),
    ]
    .map(str::to_owned)
    .to_vec()
}
