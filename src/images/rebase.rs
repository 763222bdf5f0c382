//! `tidemark rebase`: an image above another one, as `qemu-img rebase` has it.
//!
//! It shows the same afterwards: whatever the images below have differently, it gets itself first. With `-u` only the
//! name in its header changes.

use super::cache::CacheMode;
use super::copy::{failed, is_zero};
use super::create::reason;
use super::disk::{Disk, Wanted, format_named};
use crate::backup::offline::Work;
use crate::backup::window::Window;
use crate::ctl::backup::interrupt::Interrupt;
use crate::image::Format;
use crate::logging::{self, Level};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use qmp_lite::context::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_backend::graph::path_named;
use tidemark_backend::io::{Buf, Memory, byte_count};
use tidemark_backend::node::options::Backing;
use tidemark_backend::node::qcow2::header;
use tidemark_backend::node::qcow2::header::bits::AUTOCLEAR_RAW_DATA;
use tidemark_backend::node::{Driver, Kind, Node, Request};
use tidemark_backend::reactor::Handle;

/// Bytes that are compared at a time.
const PIECE: u64 = 2 << 20;
/// Comparisons under way at a time.
const WINDOW: usize = 8;

/// Options of `tidemark rebase`.
#[derive(clap::Args, Debug)]
pub struct RebaseOptions {
    /// Format of the image. Without it an image that begins as qcow2 images do is one, and any other is raw.
    #[arg(short, long, value_enum)]
    format: Option<Format>,
    /// The image that goes below: a path, from the directory of the image on if it is relative; "" for none.
    #[arg(short, long, value_name = "IMAGE")]
    backing: Option<String>,
    /// Format of that image.
    #[arg(short = 'F', long, value_name = "FORMAT")]
    backing_format: Option<String>,
    /// Only change the name in the header, and look at no image below: the disk is another one, unless the new image has
    /// what the old one has.
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    /// Write clusters compressed.
    #[arg(short, long, conflicts_with = "backing_unsafe")]
    compress: bool,
    /// How the image is read and written.
    #[arg(short = 't', long, value_enum, value_name = "CACHE", default_value = "writeback")]
    cache: CacheMode,
    /// How the image that goes below is read.
    #[arg(short = 'T', long, value_enum, value_name = "CACHE", default_value = "writeback")]
    backing_cache: CacheMode,
    /// Let headers of images name files below this directory too; may be given several times.
    #[arg(long, value_name = "DIRECTORY")]
    backing_dir: Vec<PathBuf>,
    /// Show how far it is. On a terminal that is always shown.
    #[arg(short, long)]
    progress: bool,
    /// Say nothing. Nothing is said anyway.
    #[arg(short, long)]
    quiet: bool,
    /// The image.
    image: PathBuf,
}

/// Rebases an image.
///
/// # Errors
/// An image cannot be opened or written; the image shows what it did.
pub fn run(options: &RebaseOptions) -> Result<()> {
    logging::start(Some(Level::Warn));
    let Some(named) = options.named()? else { bail!("Must specify backing file (-b) or use unsafe mode (-u)") };
    let context = Context::new();
    options.backing_dir.iter().for_each(|dir| context.graph.allow_backing_in(dir.clone()));
    let backing = if options.backing_unsafe { Backing::None } else { Backing::FromHeader };
    let wanted = Wanted { cache: options.cache, backing, ..Wanted::write(&options.image, options.format) };
    let top = wanted.open(&context)?;
    let done = rebase(&context, options, &top, named);
    top.close(&context)?;
    done
}

impl RebaseOptions {
    /// What the header is to name; `None` if nobody has said that.
    fn named(&self) -> Result<Option<Option<header::Backing>>> {
        let Some(name) = self.backing.as_deref().filter(|name| !name.is_empty()) else {
            return Ok((self.backing_unsafe || self.backing.is_some()).then_some(None));
        };
        let format = self.backing_format.clone();
        let format = format.with_context(|| format!("{}: backing format must be specified", Self::refused(name)))?;
        format_named(&format).map_err(|_| anyhow!("Invalid format name: '{format}'"))?;
        let below = path_named(&self.image, name);
        if let (Err(error), false) = (&below, self.backing_unsafe) {
            bail!("{}: {error}", Self::refused(name));
        }
        let real = |path: &Path| path.canonicalize().ok();
        if below.ok().and_then(|below| real(&below)).is_some_and(|below| real(&self.image) == Some(below)) {
            bail!("Backing file '{name}' creates an infinite loop.");
        }
        Ok(Some(Some(header::Backing { file: name.to_owned(), format: Some(format) })))
    }

    fn refused(name: &str) -> String {
        format!("Could not change the backing file to '{name}'")
    }
}

fn rebase(context: &Context, options: &RebaseOptions, top: &Disk, named: Option<header::Backing>) -> Result<()> {
    let name = named.as_ref().map_or(String::new(), |named| named.file.clone());
    let refused = || RebaseOptions::refused(&name);
    let Some(image) = top.image() else { bail!("{}: Operation not supported", refused()) };
    ensure!(
        named.is_none() || image.header().autoclear & AUTOCLEAR_RAW_DATA == 0,
        "{}: an image with data_file_raw has nothing below",
        refused()
    );
    if !options.backing_unsafe {
        match options.compress {
            true => {
                top.compress()?;
                let kept = keep_content(context, options, top, &name);
                top.end_compressing(context).and(kept)?;
            }
            false => keep_content(context, options, top, &name)?,
        }
        top.trim(context)?;
    }
    top.flush(context)?;
    let node = top.node.clone();
    let changed = context.jobs.ask_async(async move |registry| match node.driver() {
        Driver::Qcow2(image) => image.name_backing(registry.io(), named).await,
        _ => Ok(()),
    })?;
    changed.with_context(refused)
}

/// Gives the image itself what it would show differently above the new one.
fn keep_content(context: &Context, options: &RebaseOptions, top: &Disk, name: &str) -> Result<()> {
    let path = path_named(&options.image, name).map_err(|error| anyhow!("{error}"))?;
    let open = || {
        let format = options.backing_format.as_deref().map(format_named).transpose()?;
        Wanted { cache: options.backing_cache, ..Wanted::read(&path, format) }.open(context)
    };
    let below = if name.is_empty() { None } else { Some(open()) };
    let refused = |error| anyhow!("Could not open new backing file '{name}': {}", reason(&path, &error));
    let below = below.transpose().map_err(refused)?;
    let interrupt = Interrupt::watch()?;
    let done = Arc::new(AtomicU64::new(0));
    let work = Work { what: top.shown(), total: top.length(), done: done.clone(), interrupt: Some(&interrupt) };
    let rebasing = Rebasing {
        top: top.node.clone(),
        cluster: top.cluster(),
        paths: [top.shown(), path.display().to_string()],
        below: below.as_ref().map(|below| below.node.clone()),
        done,
    };
    let kept = work.run(context, async move |io| rebasing.run(io).await);
    below.map_or(Ok(()), |below| below.close(context))?;
    kept
}

#[derive(Clone)]
struct Rebasing {
    top: Arc<Node>,
    cluster: u64,
    /// Of the image, and of the one that goes below.
    paths: [String; 2],
    below: Option<Arc<Node>>,
    done: Arc<AtomicU64>,
}

impl Rebasing {
    async fn run(self, io: &Handle) -> Result<()> {
        let mut window = Window::of(WINDOW);
        let begun = self.all(io, &mut window).await;
        let drained = window.drain().await;
        begun.and(drained)
    }

    async fn all(&self, io: &Handle, window: &mut Window<Result<()>>) -> Result<()> {
        let (mut at, end) = (0, self.top.length());
        while at < end {
            let (len, look) = self.look(io, at, end - at).await?;
            if look {
                window.room().await?;
                let (this, handle) = (self.clone(), io.clone());
                window.begin(io, async move { this.piece(&handle, at, len).await });
            }
            at += len;
            self.done.store(at, Ordering::Relaxed);
        }
        Ok(())
    }

    /// How many bytes come next, whole clusters but at the disk's end, and whether they have to be compared.
    async fn look(&self, io: &Handle, at: u64, rest: u64) -> Result<(u64, bool)> {
        let failed = |path: &String| {
            let path = path.clone();
            move |error| failed("read", &path, at, error)
        };
        let old = self.top.status(io, at, rest).await.map_err(failed(&self.paths[0]))?;
        let whole = |len: u64| (len - len % self.cluster).max(self.cluster).min(rest);
        if old.depth == 1 {
            return Ok((whole(old.len), false));
        }
        let there = self.below.as_ref().map_or(0, |below| below.length().saturating_sub(at));
        let (new_len, new_zero) = match &self.below {
            Some(below) if there > 0 => {
                let status = below.status(io, at, rest.min(there)).await.map_err(failed(&self.paths[1]))?;
                (status.len, status.zero)
            }
            _ => (rest, true),
        };
        let len = whole(old.len.min(new_len));
        let zero = old.zero && new_zero && len <= old.len.min(new_len);
        Ok(if zero { (len, false) } else { (len.min(PIECE), true) })
    }

    /// Compares clusters; writes those that would be others.
    async fn piece(&self, io: &Handle, at: u64, len: u64) -> Result<()> {
        let old = read(io, &self.top, &self.paths[0], at, len).await?;
        let new = match &self.below {
            Some(below) if at < below.length() => {
                let there = len.min(below.length() - at);
                Some(read(io, below, &self.paths[1], at, there).await?)
            }
            _ => None,
        };
        let cluster = byte_count(self.cluster);
        let mut offset = at;
        for (number, old) in old.as_slice().chunks(cluster).enumerate() {
            let new = new.as_ref().map_or(&[][..], |new| new.as_slice());
            let new = new.get(number * cluster..new.len().min(number * cluster + old.len())).unwrap_or_default();
            let (same, beyond) = old.split_at_checked(new.len()).unwrap_or((old, &[]));
            if same != new || !is_zero(beyond) {
                self.write(io, offset, old).await?;
            }
            offset += old.len() as u64;
        }
        Ok(())
    }

    async fn write(&self, io: &Handle, offset: u64, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        let (kind, memory) = match is_zero(bytes) {
            true => (Kind::Zero { unmap: true }, Memory::empty()),
            false => {
                let mut buf = Buf::new(bytes.len());
                buf.as_mut_slice().copy_from_slice(bytes);
                (Kind::Write, Memory::from(buf))
            }
        };
        let (_, result) = self.top.handle(io, Request { kind, fua: false, offset, len, memory }).await;
        result.map_err(|error| failed("write", &self.paths[0], offset, error))
    }
}

async fn read(io: &Handle, node: &Node, path: &str, offset: u64, len: u64) -> Result<Buf> {
    let memory = Memory::from(Buf::new(byte_count(len)));
    let (memory, result) = node.handle(io, Request { kind: Kind::Read, fua: false, offset, len, memory }).await;
    let failed = |error| failed("read", path, offset, error);
    result.map_err(failed)?;
    memory.into_buf().ok_or_else(|| failed(tidemark_backend::error::IoError::Io))
}
