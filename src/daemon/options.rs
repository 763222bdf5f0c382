//! The options of the daemon: those of `qemu-storage-daemon`, and those of a vhost-user back-end program
//! (docs/interop/vhost-user.rst, "Backend program conventions"). Knows their names, not what they do.

use crate::cli::scan::{Given, Known, Scan};

/// An option of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id {
    /// A directory that headers of images may lead to.
    BackingDir,
    /// A node to open.
    Blockdev,
    /// A character device for a monitor.
    Chardev,
    /// Run in the background.
    Daemonize,
    /// A node to export.
    Export,
    /// Usage.
    Help,
    /// A QMP monitor.
    Monitor,
    /// An NBD server.
    NbdServer,
    /// An object.
    Object,
    /// A file for the process id.
    Pidfile,
    /// Trace events.
    Trace,
    /// The version.
    Version,
    /// The socket of a back-end program.
    SocketPath,
    /// The same by an inherited descriptor.
    Fd,
    /// The disk of a back-end program.
    BlkFile,
    /// That disk may only be read.
    ReadOnly,
    /// What a back-end program can do.
    PrintCapabilities,
}

const fn option(name: &'static str, id: Id) -> Known<Id> {
    Known { name, short: None, takes_value: true, id }
}

const fn flag(name: &'static str, id: Id) -> Known<Id> {
    Known { name, short: None, takes_value: false, id }
}

/// All of them.
const OPTIONS: &[Known<Id>] = &[
    option("backing-dir", Id::BackingDir),
    option("blockdev", Id::Blockdev),
    option("chardev", Id::Chardev),
    flag("daemonize", Id::Daemonize),
    option("export", Id::Export),
    Known { short: Some('h'), ..flag("help", Id::Help) },
    option("monitor", Id::Monitor),
    option("nbd-server", Id::NbdServer),
    option("object", Id::Object),
    option("pidfile", Id::Pidfile),
    Known { short: Some('T'), ..option("trace", Id::Trace) },
    Known { short: Some('V'), ..flag("version", Id::Version) },
    option("socket-path", Id::SocketPath),
    option("fd", Id::Fd),
    option("blk-file", Id::BlkFile),
    flag("read-only", Id::ReadOnly),
    flag("print-capabilities", Id::PrintCapabilities),
];

/// One option as it was given.
pub type Option = Given<Id>;

/// Walks over the options of a command line in the order given.
pub fn scan(arguments: &[String]) -> Scan<'_, Id> {
    Scan::new(OPTIONS, arguments)
}
