//! `tidemark backup restore`: a disk as it was at a point, in a file, on a block device or on a disk of a daemon.
//!
//! A file is there when it is complete: until then it has another name. What was zero takes no space.

use super::apply::Apply;
use super::directory::{Directory, Purpose};
use super::layer::{self, Below, Layer, check_chain};
use super::manifest::{Entry, Point};
use super::offline::Work;
use super::server::{self, Action};
use crate::ctl::backup::interrupt::Interrupt;
use crate::ctl::backup::progress::Progress;
use crate::ctl::daemon::{Daemon, which};
use crate::image::Format;
use crate::info::size::size;
use crate::inspect;
use anyhow::{Context as _, Result, bail, ensure};
use qmp_lite::context::Context;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Options of `tidemark backup restore`.
#[derive(clap::Args, Debug)]
pub struct RestoreOptions {
    /// Directory of the backups.
    dir: PathBuf,
    /// The number of the point in time; the newest one if absent.
    #[arg(long, value_name = "POINT")]
    point: Option<u64>,
    /// The disk, if the point has several.
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,
    /// Where to: a file, which must not exist, or a block device.
    #[arg(long, value_name = "FILE", required_unless_present = "to_socket", conflicts_with = "to_socket")]
    to: Option<PathBuf>,
    /// Format of the file.
    #[arg(long, value_enum, default_value = "raw", conflicts_with = "to_socket")]
    format: Format,
    /// Where to: a disk of the daemon with this control socket, whose guest must not use it meanwhile.
    #[arg(long, value_name = "SOCKET", requires = "node")]
    to_socket: Option<PathBuf>,
    /// The node of that disk, or the id of its export. All of it is overwritten.
    #[arg(long, value_name = "NODE", requires = "to_socket")]
    node: Option<String>,
}

/// Restores a disk.
///
/// # Errors
/// There is no such point or disk, its chain is broken, or the target cannot be used.
pub fn run(options: &RestoreOptions) -> Result<()> {
    let directory = Directory::open(&options.dir, Purpose::Read)?;
    let point = directory.manifest.point(options.point)?;
    let entry = disk(point, options.disk.as_deref())?;
    let context = Context::new();
    check_chain(&context, &directory, &directory.manifest.chain(entry)).context("this point cannot be restored")?;
    let target = match (&options.to, &options.to_socket, &options.node) {
        (Some(file), ..) => {
            to_file(&context, &directory, entry, file, options.format)?;
            file.display().to_string()
        }
        (None, Some(socket), Some(node)) => {
            to_daemon(&directory, entry, socket, node)?;
            node.clone()
        }
        _ => bail!("--to FILE or --to-socket SOCKET --node NODE says where to"),
    };
    let (disk, bytes) = (inspect::printable(&entry.disk), size(entry.size));
    inspect::print(&format!("{disk} as of {}, {bytes}, is in '{target}'\n", inspect::printable(&point.time)))
}

fn disk<'a>(point: &'a Point, name: Option<&str>) -> Result<&'a Entry> {
    let there_are = || which("it has", point.disks.iter().map(|entry| entry.disk.as_str()));
    match (name, point.disks.as_slice()) {
        (Some(name), _) => {
            point.disk(name).with_context(|| format!("point {} has no disk '{name}'; {}", point.number, there_are()))
        }
        (None, [only]) => Ok(only),
        (None, _) => bail!("point {} has several disks, say --disk; {}", point.number, there_are()),
    }
}

fn to_file(context: &Context, directory: &Directory, entry: &Entry, file: &Path, format: Format) -> Result<()> {
    let shown = file.display();
    match fs::metadata(file) {
        Ok(meta) if meta.file_type().is_block_device() => return to_device(context, directory, entry, file, format),
        Ok(_) => bail!("'{shown}' exists; name a new file"),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot use '{shown}'"));
        }
        Err(_) => {}
    }
    let name = file.file_name().with_context(|| format!("'{shown}' is no name of a file"))?;
    let mut part = std::ffi::OsString::from(".");
    part.push(name);
    part.push(".part");
    let part = super::parent(file).join(part);
    let made = fill(context, directory, entry, &part, format);
    let named = made.and_then(|()| {
        let named = File::open(&part).and_then(|part| part.sync_all()).and_then(|()| fs::rename(&part, file));
        named.with_context(|| format!("cannot make '{shown}'"))
    });
    if named.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&part);
    }
    named?;
    super::directory::sync_directory(super::parent(file))
}

/// Makes the file and writes the disk to it.
fn fill(context: &Context, directory: &Directory, entry: &Entry, part: &Path, format: Format) -> Result<()> {
    // One of a run that was killed.
    let _ = fs::remove_file(part);
    let target = match format {
        Format::Raw => {
            let made = File::create_new(part).and_then(|file| file.set_len(entry.size));
            made.with_context(|| format!("cannot create '{}'", part.display()))?;
            Layer::raw(context, part, false)?
        }
        Format::Qcow2 => {
            layer::create(part, entry.size, None)?;
            Layer::change(context, part)?
        }
    };
    copy(context, directory, entry, target, part, true)
}

fn to_device(context: &Context, directory: &Directory, entry: &Entry, device: &Path, format: Format) -> Result<()> {
    let shown = device.display();
    ensure!(format == Format::Raw, "'{shown}' is a block device, which gets the disk as it is: --format raw");
    let length = File::open(device).and_then(|mut device| device.seek(SeekFrom::End(0)));
    let length = length.with_context(|| format!("cannot open '{shown}'"))?;
    ensure!(length >= entry.size, "'{shown}' has {length} bytes, the disk {}", entry.size);
    copy(context, directory, entry, Layer::raw(context, device, true)?, device, false)
}

fn copy(
    context: &Context,
    directory: &Directory,
    entry: &Entry,
    target: Layer,
    target_path: &Path,
    is_empty: bool,
) -> Result<()> {
    let path = directory.file(&entry.file);
    let source = Layer::open(context, &path, Below::Chain)?;
    let done = Arc::new(AtomicU64::new(0));
    let what = format!("restoring {}", inspect::printable(&entry.disk));
    let work = Work { what, total: entry.size, done: done.clone(), interrupt: None };
    let apply = Apply {
        source: source.node.clone(),
        source_path: path,
        below: Below::Chain,
        target: target.node.clone(),
        target_path: target_path.to_owned(),
        is_empty,
        done,
    };
    work.run(context, async move |io| apply.run(io).await)?;
    source.close(context)?;
    target.close(context)
}

/// Has a daemon copy the disk to one of its own.
fn to_daemon(directory: &Directory, entry: &Entry, socket: &Path, name: &str) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let mut daemon = Daemon::connect(socket)?;
    let disk = daemon.disk(name)?;
    ensure!(disk.size == entry.size, "disk '{name}' has {} bytes, the one to restore {}", disk.size, entry.size);
    let id = format!("tidemark-restore-{}", std::process::id());
    let path = directory.file(&entry.file);
    let refused = || format!("the daemon cannot use '{}'", path.display());
    server::add_image(&mut daemon, &id, path.to_str().with_context(refused)?, false).with_context(refused)?;
    let done = job(&mut daemon, &id, &disk.node, &interrupt);
    let cleaned = server::clean(&mut daemon, &id);
    done.with_context(|| format!("disk '{name}' is not restored and holds a part of what it should"))?;
    cleaned
}

fn job(daemon: &mut Daemon, id: &str, node: &str, interrupt: &Interrupt) -> Result<()> {
    let copy = Action::BlockdevBackup {
        job_id: id.to_owned(),
        device: id.to_owned(),
        target: node.to_owned(),
        sync: "full",
        bitmap: None,
        bitmap_mode: None,
        auto_dismiss: false,
        x_on_cbw_error: None,
        x_cbw_timeout: None,
    };
    server::transact(daemon, vec![copy])?;
    let mut progress = Progress::new(node)?;
    loop {
        let job = server::progress(daemon, &[id.to_owned()])?;
        if let Some(error) = job.error {
            bail!("{error}");
        }
        if job.is_concluded() {
            return Ok(());
        }
        if let Some(signal) = interrupt.signal() {
            bail!("signal {signal}");
        }
        progress.show(&job);
        std::thread::sleep(server::TICK);
    }
}
