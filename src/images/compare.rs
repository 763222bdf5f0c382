//! `tidemark compare`: whether two images have the same disk, as `qemu-img compare` tells it.
//!
//! Only what one of them has as data is read. The exit status is 0 for disks that are the same, 1 for others, and more
//! when that could not be found out: 2 if an image cannot be opened, 3 if it does not tell what it has, 4 if it cannot be
//! read.

use super::cache::CacheMode;
use super::copy::is_zero;
use super::disk::{Disk, Wanted};
use crate::backup::offline::Work;
use crate::backup::window::Window;
use crate::ctl::backup::interrupt::Interrupt;
use crate::image::Format;
use crate::inspect;
use anyhow::{Context as _, Result};
use qmp_lite::context::Context;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_backend::error::IoError;
use tidemark_backend::io::{Buf, Memory, byte_count};
use tidemark_backend::node::{Kind, Node, Request, Status};
use tidemark_backend::reactor::Handle;

/// Bytes that are compared at a time.
const PIECE: u64 = 1 << 20;
/// Comparisons under way at a time.
const WINDOW: usize = 8;
/// Offsets are told by sectors.
const SECTOR: usize = 512;

/// Options of `tidemark compare`.
#[derive(clap::Args, Debug)]
pub struct CompareOptions {
    /// Format of the first image. Without it an image that begins as qcow2 images do is one, and any other is raw.
    #[arg(short = 'f', long, value_enum, value_name = "FORMAT")]
    a_format: Option<Format>,
    /// Format of the second image.
    #[arg(short = 'F', long, value_enum, value_name = "FORMAT")]
    b_format: Option<Format>,
    /// The disks must be of one size, and take space in the same places.
    #[arg(short, long)]
    strict: bool,
    /// How the images are read.
    #[arg(short = 'T', long, value_enum, value_name = "CACHE", default_value = "writeback")]
    cache: CacheMode,
    /// Look at images even while they are being written to.
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Let headers of images name files below this directory too; may be given several times.
    #[arg(long, value_name = "DIRECTORY")]
    backing_dir: Vec<PathBuf>,
    /// Show how far it is. On a terminal that is always shown.
    #[arg(short, long)]
    progress: bool,
    /// Say nothing of the images, for those who want the exit status.
    #[arg(short, long)]
    quiet: bool,
    /// One image.
    a: PathBuf,
    /// The other.
    b: PathBuf,
}

/// In what two disks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    Content(u64),
    Status(u64),
}

/// Why it is not known whether they do.
#[derive(Clone, Debug)]
enum Unknown {
    Status(String, u64, IoError),
    Read(String, u64, IoError),
}

/// Compares two images.
///
/// # Errors
/// Those of the command line; others have exit statuses of their own.
pub fn run(options: &CompareOptions) -> Result<ExitCode> {
    let context = Context::new();
    options.backing_dir.iter().for_each(|dir| context.graph.allow_backing_in(dir.clone()));
    let open = |path, format| {
        Wanted { force_share: options.force_share, cache: options.cache, ..Wanted::read(path, format) }.open(&context)
    };
    let disks = open(&options.a, options.a_format).and_then(|a| Ok([a, open(&options.b, options.b_format)?]));
    let [a, b] = match disks {
        Ok(disks) => disks,
        Err(error) => return Ok(told(&error, 2)),
    };
    let say = |text: &str| if options.quiet { Ok(()) } else { inspect::print(text) };
    if options.strict && a.length() != b.length() {
        say("Strict mode: Image size mismatch!\n")?;
        return Ok(1.into());
    }
    let found = compare(&context, options, [&a, &b])?;
    let common = a.length().min(b.length());
    let differs_before = matches!(found, Ok(Some(Difference::Content(at))) if at < common) || found.is_err();
    if a.length() != b.length() && !differs_before {
        say("Warning: Image size mismatch!\n")?;
    }
    a.close(&context)?;
    b.close(&context)?;
    match found {
        Ok(None) => say("Images are identical.\n").map(|()| ExitCode::SUCCESS),
        Ok(Some(Difference::Content(at))) => say(&format!("Content mismatch at offset {at}!\n")).map(|()| 1.into()),
        Ok(Some(Difference::Status(at))) => {
            say(&format!("Strict mode: Offset {at} block status mismatch!\n")).map(|()| 1.into())
        }
        Err(Unknown::Status(path, at, error)) => {
            Ok(told(&anyhow::anyhow!("Sector allocation test failed at {at} of '{path}': {error}"), 3))
        }
        Err(Unknown::Read(path, at, error)) => {
            Ok(told(&anyhow::anyhow!("Error while reading offset {at} of {path}: {error}"), 4))
        }
    }
}

/// Says why, with an exit status.
fn told(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("tidemark: {error:#}");
    status.into()
}

type Found = Result<Option<Difference>, Unknown>;

fn compare(context: &Context, options: &CompareOptions, disks: [&Disk; 2]) -> Result<Found> {
    let interrupt = Interrupt::watch()?;
    let sides = disks.map(|disk| Side { node: disk.node.clone(), path: disk.shown() });
    let (total, done) = (disks[0].length().max(disks[1].length()), Arc::new(AtomicU64::new(0)));
    let comparing = Comparing { sides, strict: options.strict, done: done.clone() };
    let work = Work { what: "comparing".to_owned(), total, done, interrupt: Some(&interrupt) };
    work.run(context, async move |io| Ok(comparing.run(io).await)).context("nothing was found out")
}

/// A disk.
#[derive(Clone)]
struct Side {
    node: Arc<Node>,
    path: String,
}

#[derive(Clone)]
struct Comparing {
    sides: [Side; 2],
    strict: bool,
    done: Arc<AtomicU64>,
}

impl Side {
    /// What is known of it; past its end there are zeroes.
    async fn status(&self, io: &Handle, at: u64, len: u64) -> Result<Status, Unknown> {
        match self.node.length().checked_sub(at) {
            Some(rest) if rest > 0 => {
                let status = self.node.status(io, at, len.min(rest)).await;
                status.map_err(|error| Unknown::Status(self.path.clone(), at, error))
            }
            _ => Ok(Status::nothing(len)),
        }
    }

    /// Its bytes; `None` if they are zeroes.
    async fn read(&self, io: &Handle, at: u64, len: u64, zero: bool) -> Result<Option<Buf>, Unknown> {
        if zero {
            return Ok(None);
        }
        let read = Request { kind: Kind::Read, fua: false, offset: at, len, memory: Buf::new(byte_count(len)).into() };
        let (memory, result): (Memory, _) = self.node.handle(io, read).await;
        let failed = |error| Unknown::Read(self.path.clone(), at, error);
        result.map_err(failed)?;
        memory.into_buf().ok_or_else(|| failed(IoError::Io)).map(Some)
    }
}

impl Comparing {
    async fn run(self, io: &Handle) -> Found {
        let mut window = Window::of(WINDOW);
        let mut first = self.all(io, &mut window).await;
        // In order: the first difference is the one with the lowest offset.
        while let Some(found) = window.next().await {
            if matches!(first, Ok(None)) {
                first = found;
            }
        }
        first
    }

    /// Begins to compare all of them; ends with what was found meanwhile, if anything.
    async fn all(&self, io: &Handle, window: &mut Window<Found>) -> Found {
        let end = self.sides[0].node.length().max(self.sides[1].node.length());
        let mut at = 0;
        while at < end {
            while window.is_full() {
                match window.next().await {
                    None | Some(Ok(None)) => {}
                    Some(found) => return found,
                }
            }
            match self.look(io, at, end - at).await {
                Ok((len, zeroes)) => {
                    let (this, handle) = (self.clone(), io.clone());
                    if zeroes != [true, true] {
                        window.begin(io, async move { this.piece(&handle, at, len, zeroes).await });
                    }
                    at += len;
                }
                Err(found) => {
                    // What comes before it may differ, too.
                    window.begin(io, async move { found });
                    return Ok(None);
                }
            }
            self.done.store(at, Ordering::Relaxed);
        }
        Ok(None)
    }

    /// How many bytes are to be compared from here on, and which of the disks have zeroes there.
    ///
    /// # Errors
    /// There is nothing to be compared any more.
    async fn look(&self, io: &Handle, at: u64, len: u64) -> Result<(u64, [bool; 2]), Found> {
        let [a, b] = &self.sides;
        let (a, b) = (a.status(io, at, len).await.map_err(Err)?, b.status(io, at, len).await.map_err(Err)?);
        if self.strict && (a.data, a.zero, a.depth > 0) != (b.data, b.zero, b.depth > 0) {
            return Err(Ok(Some(Difference::Status(at))));
        }
        let len = a.len.min(b.len);
        Ok((if a.zero && b.zero { len } else { len.min(PIECE) }, [a.zero, b.zero]))
    }

    async fn piece(&self, io: &Handle, at: u64, len: u64, zeroes: [bool; 2]) -> Found {
        let [a, b] = &self.sides;
        let bufs = [a.read(io, at, len, zeroes[0]).await?, b.read(io, at, len, zeroes[1]).await?];
        let sector = match &bufs {
            [Some(a), Some(b)] => {
                let pairs = || a.as_slice().chunks(SECTOR).zip(b.as_slice().chunks(SECTOR));
                if a.as_slice() == b.as_slice() { None } else { pairs().position(|(a, b)| a != b) }
            }
            [Some(only), None] | [None, Some(only)] => {
                only.as_slice().chunks(SECTOR).position(|sector| !is_zero(sector))
            }
            [None, None] => None,
        };
        Ok(sector.map(|sector| Difference::Content(at + (sector * SECTOR) as u64)))
    }
}
