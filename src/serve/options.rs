//! What `tidemark serve` is told on its command line.

use super::cpus::Cpus;
use super::disk::{Disk, split};
use crate::image::{Cache, Changes, Format, Image};
use crate::logging::Level;
use anyhow::{Context as _, bail};
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use tidemark_backend::export::vhost::{Polling, QUEUES_MAX};
use tidemark_backend::node::options::CrashSafe;

/// Options of `tidemark serve`.
#[derive(clap::Args, Debug)]
pub struct ServeOptions {
    /// Disk image or block device, optionally with the socket to serve it on.
    ///
    /// If a file with the whole name exists, that is the disk; otherwise what follows the last colon is the socket.
    /// Without a socket it is the disk's file name with `.sock` appended, in the current directory.
    #[arg(value_name = "DISK[:SOCKET]", required = true)]
    pub targets: Vec<OsString>,
    /// Socket to serve a single disk on.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Format of the images. Without it they are raw, and neither may one look like another format now nor may its
    /// guest make it look like one.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Let headers of qcow2 images name files below this directory too, and not only below the image's own; may be
    /// given several times.
    #[arg(long, value_name = "DIRECTORY")]
    pub backing_dir: Vec<PathBuf>,
    /// Image that `tidemark track` has made for a raw disk, which keeps its bitmaps; once for each disk, in their order.
    #[arg(long, value_name = "PATH")]
    pub meta: Vec<PathBuf>,
    /// What changes that the images' bitmaps have recorded survive: a power cut, the end of the daemon, or neither.
    /// Default: a power cut, where the image is in a regular file.
    #[arg(long, value_name = "WHAT", value_enum)]
    pub crash_safe: Option<Survives>,
    /// File of the change journal that surviving a power cut takes; for a single disk. Default: the image's name with
    /// `.journal` appended.
    #[arg(long, value_name = "PATH")]
    pub journal: Option<PathBuf>,
    /// Control socket (QMP), for `tidemark ctl`.
    #[arg(long, value_name = "PATH")]
    pub qmp: Option<PathBuf>,
    /// Most queues a guest may use; each costs a thread once the guest starts it.
    #[arg(long, value_name = "N", default_value_t = QUEUES_MAX,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(QUEUES_MAX)))]
    pub num_queues: u16,
    /// Serial number for the guest, up to 20 bytes; once for each disk, in their order. Default: disk0, disk1, ...
    #[arg(long, value_name = "SERIAL")]
    pub serial: Vec<String>,
    /// Let guests read only.
    #[arg(long)]
    pub read_only: bool,
    /// Bypass the page cache, or fail. The default is to bypass it where the file system can.
    #[arg(long, conflicts_with = "buffered")]
    pub direct: bool,
    /// Go through the page cache.
    #[arg(long)]
    pub buffered: bool,
    /// Most microseconds a queue looks for work before it sleeps; 0 is none.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub poll_us: u32,
    /// CPUs for the queues' threads, one each in turn, such as 0,2-4. Default: any.
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    pub cpus: Cpus,
    /// How much is logged. Default: info, or what the variable TIDEMARK_LOG says.
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub log_level: Option<Level>,
    /// File mode of the disks' sockets, in octal.
    #[arg(long, value_name = "MODE", default_value = "0600")]
    pub socket_mode: SocketMode,
    /// Group of the disks' sockets, by number or by its name in /etc/group.
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
}

/// What recorded changes survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Survives {
    /// A power cut.
    Power,
    /// The end of the daemon.
    Process,
    /// Neither.
    Off,
}

impl From<Survives> for CrashSafe {
    fn from(what: Survives) -> Self {
        match what {
            Survives::Power => Self::Power,
            Survives::Process => Self::Process,
            Survives::Off => Self::Off,
        }
    }
}

/// File mode of a socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketMode(pub u32);

impl FromStr for SocketMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
        mode.map(Self).ok_or("not a file mode in octal, such as 0660")
    }
}

impl ServeOptions {
    /// The disks to serve.
    ///
    /// # Errors
    /// Options that do not fit the number of disks.
    pub fn disks(&self) -> anyhow::Result<Vec<Disk>> {
        if self.socket.is_some() && self.targets.len() > 1 {
            bail!("--socket is for a single disk; with several say DISK:SOCKET for each");
        }
        if self.serial.len() > self.targets.len() {
            bail!("--serial is given {} times for {} disks", self.serial.len(), self.targets.len());
        }
        if self.meta.len() > self.targets.len() {
            bail!("--meta is given {} times for {} disks", self.meta.len(), self.targets.len());
        }
        if self.journal.is_some() && self.targets.len() > 1 {
            bail!("--journal is for a single disk; with several each has its journal beside it");
        }
        let is_raw = self.meta.is_empty() && self.format != Some(Format::Qcow2);
        if is_raw && (self.crash_safe.is_some() || self.journal.is_some()) {
            bail!("a raw disk keeps no bitmaps: `tidemark track` makes an image that does, for --meta");
        }
        if !self.meta.is_empty() && self.format == Some(Format::Qcow2) {
            bail!("--meta is for raw disks, and --format qcow2 says that they are none");
        }
        self.targets.iter().enumerate().map(|(index, target)| self.disk(index, target)).collect()
    }

    fn disk(&self, index: usize, target: &OsString) -> anyhow::Result<Disk> {
        let (path, socket) = match &self.socket {
            Some(socket) => (PathBuf::from(target), Some(socket.clone())),
            None => split(target),
        };
        let socket = match socket {
            Some(socket) => socket,
            None => {
                let mut name = path.file_name().with_context(|| format!("'{}' is no file", path.display()))?.to_owned();
                name.push(".sock");
                PathBuf::from(name)
            }
        };
        let (format, meta) = (self.format, self.meta.get(index).cloned());
        let changes = Changes { crash_safe: self.crash_safe.map(CrashSafe::from), journal: self.journal.clone() };
        let (read_only, cache) = (self.read_only, self.cache());
        let image = Image { path, format, read_only, cache, meta, changes, snapshot: None };
        Ok(Disk { name: format!("disk{index}"), image, socket, serial: self.serial.get(index).cloned() })
    }

    fn cache(&self) -> Cache {
        match (self.direct, self.buffered) {
            (true, _) => Cache::Direct,
            (_, true) => Cache::Buffered,
            _ => Cache::Auto,
        }
    }

    /// How queues wait.
    pub fn polling(&self) -> Polling {
        Polling { max_ns: u64::from(self.poll_us) * 1000 }
    }

    /// The sockets' group by number.
    ///
    /// # Errors
    /// There is no such group.
    pub fn group(&self) -> anyhow::Result<Option<u32>> {
        let Some(group) = &self.socket_group else { return Ok(None) };
        if let Ok(number) = group.parse() {
            return Ok(Some(number));
        }
        let groups = std::fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
        let number = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let found = fields.next() == Some(group);
            fields.nth(1).filter(|_| found)?.parse().ok()
        });
        number.map(Some).with_context(|| format!("--socket-group {group}: no such group in /etc/group"))
    }
}
