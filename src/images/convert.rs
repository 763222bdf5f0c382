//! `tidemark convert`: the disk of an image in a new image, as `qemu-img convert` has it.
//!
//! Only what is data is read, and of that only what is not zero is written. The new image has its name from the start; if
//! it does not become whole it is removed.

mod bitmaps;
mod seams;
mod sources;

use super::cache::CacheMode;
use super::copy::{Copying, Rate};
use super::create::{add_backing, backing_size};
use super::crew::{Crew, Sweep};
use super::disk::{Disk, Wanted};
use super::made::Made;
use super::options::Given;
use super::size;
use super::target::NewImage;
use crate::ctl::backup::interrupt::Interrupt;
use crate::image::Format;
use crate::logging::{self, Level};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use qmp_lite::context::Context;
use seams::Seams;
use sources::Sources;
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_backend::node::options::Backing;
use tidemark_backend::node::qcow2::create::Preallocation;

/// Bytes of a piece that is read and written, at most.
const PIECE: u64 = 1 << 20;
/// The same where both are cached by the system, and copying is all there is to do: several fit in a processor's cache.
const CACHED_PIECE: u64 = 256 << 10;
/// Bytes of the smallest hole that file systems make.
const BLOCK: u64 = 4096;
/// Threads that copy, at most: files in memory are read and written by whoever wants that, on his own time. More of them
/// would wait for each other at the target.
const THREADS: usize = 2;
/// Bytes of `--sparse-size` if nobody says.
const SPARSE: u64 = 4096;
/// Most bytes of `--sparse-size`.
const SPARSE_MAX: u64 = 16 << 20;

/// Options of `tidemark convert`.
///
/// The target is made anew, also if there is a file of that name; it is removed again if it does not become whole.
#[derive(clap::Args, Debug)]
pub struct ConvertOptions {
    /// Format of the source. Without it an image that begins as qcow2 images do is one, and any other is raw.
    #[arg(short = 'f', long, value_enum, value_name = "FORMAT")]
    source_format: Option<Format>,
    /// The disk as it was at this internal snapshot of the source, by its id or its name; also snapshot.id=ID,
    /// snapshot.name=NAME, or both.
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    source_snapshot: Option<String>,
    /// How the source is read.
    #[arg(short = 'T', long, value_enum, value_name = "CACHE", default_value = "writeback")]
    source_cache: CacheMode,
    /// Read the source even while it is being written to. What is read may contradict itself then.
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Let headers of images name files below this directory too; may be given several times.
    #[arg(long, value_name = "DIRECTORY")]
    backing_dir: Vec<PathBuf>,
    /// Format of the target.
    #[arg(short = 'O', long, value_enum, value_name = "FORMAT", default_value = "raw")]
    target_format: Format,
    /// Options of the target's format, as of `tidemark create`.
    #[arg(short = 'o', long, value_name = "OPTIONS")]
    target_options: Vec<String>,
    /// How the target is written; unsafe leaves it to the system when it gets to the storage.
    #[arg(short = 't', long, value_enum, value_name = "CACHE", default_value = "unsafe")]
    target_cache: CacheMode,
    /// The target goes above this image and gets what the source itself has, without what is below it.
    #[arg(short = 'B', long, value_name = "IMAGE")]
    backing: Option<String>,
    /// Format of the image below the target.
    #[arg(short = 'F', long, value_name = "FORMAT")]
    backing_format: Option<String>,
    /// Write into a target that is there already, and keep its format, its size and what it is above; -B only says then that
    /// the source's own is enough.
    #[arg(short = 'n', long)]
    no_create: bool,
    /// The target that is there already reads as zeroes everywhere.
    #[arg(long, requires = "no_create")]
    target_is_zero: bool,
    /// Write no runs of zeroes that are at least so long: a multiple of 512, 16M at most, 4k if absent; 0 writes them all, and
    /// takes space for all of the disk.
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = sparse)]
    sparse_size: Option<u64>,
    /// Write clusters compressed; of qcow2 targets.
    #[arg(short = 'c', long)]
    compress: bool,
    /// Copy the persistent bitmaps of the source, too.
    #[arg(long)]
    bitmaps: bool,
    /// Leave those out that are inconsistent.
    #[arg(long, requires = "bitmaps")]
    skip_broken_bitmaps: bool,
    /// Requests under way at a time, 1 to 16.
    #[arg(short = 'm', long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=16))]
    parallel: u8,
    /// Copy so many bytes a second at most, also with k, M, G, T, P or E; 0 is no limit.
    #[arg(short = 'r', long, value_name = "RATE", default_value = "0", value_parser = size::parse)]
    rate_limit: u64,
    /// Go on where the source cannot be read: what is lost becomes zeroes, and is told.
    #[arg(long)]
    salvage: bool,
    /// Taken for the sake of scripts that say it: bytes are copied by reading and writing them all the same.
    #[arg(short = 'C', long)]
    copy_range_offloading: bool,
    /// Write in whichever order reads end. It is always like that here.
    #[arg(short = 'W', long)]
    oob_writes: bool,
    /// Show how far it is. On a terminal that is always shown.
    #[arg(short, long)]
    progress: bool,
    /// Show nothing.
    #[arg(short, long)]
    quiet: bool,
    /// The image to read; of several the disks are put together, one after the other.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// The image to make.
    target: PathBuf,
}

fn sparse(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    let fits = bytes.is_multiple_of(512) && bytes <= SPARSE_MAX;
    let text = "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to 16777216. Select 0 \
                to disable sparse detection (fully allocates output).";
    if fits { Ok(bytes) } else { Err(text.to_owned()) }
}

/// Converts an image.
///
/// # Errors
/// The source cannot be read or the target not be made; there is none then.
pub fn run(options: &ConvertOptions) -> Result<()> {
    logging::start(Some(Level::Warn));
    let given = options.given()?;
    let interrupt = Interrupt::watch()?;
    let context = Context::new();
    options.backing_dir.iter().for_each(|dir| context.graph.allow_backing_in(dir.clone()));
    let sources = Sources::open(options, &context)?;
    bitmaps::check(options, sources.first()?)?;
    let mut made = Made::default();
    let conversion = Conversion { options, context: &context, interrupt: &interrupt, sources: &sources };
    match conversion.run(&given, &mut made) {
        Ok(()) => made.keep(),
        Err(error) => return Err(options.unfinished(error, made)),
    }
    sources.close(&context)
}

impl ConvertOptions {
    /// What is said of the target.
    fn given(&self) -> Result<Given> {
        ensure!(!self.no_create || self.target_options.is_empty(), "-o has no effect when skipping image creation");
        let mut given = Given::read(&self.target_options, self.target_format)?;
        if !self.no_create {
            add_backing(&mut given, self.backing.as_deref(), self.backing_format.as_deref(), self.target_format)?;
        }
        let compresses = self.compress && self.target_format == Format::Raw;
        ensure!(!compresses, "Compression not supported for this file format");
        ensure!(
            !self.compress || given.preallocation()? == Preallocation::Off,
            "Compression and preallocation not supported at the same time"
        );
        self.check_together(self.is_above(&given))?;
        if self.bitmaps && self.target_format == Format::Raw {
            bail!("Format driver 'raw' does not support bitmaps");
        }
        Ok(given)
    }

    /// Whether the target is above an image, which has what the source does not have itself.
    fn is_above(&self, given: &Given) -> bool {
        self.backing.is_some() || given.get("backing_file").is_some()
    }

    /// Refuses what makes no sense together.
    fn check_together(&self, above: bool) -> Result<()> {
        let several = self.sources.len() > 1;
        for (refused, text) in [
            (self.copy_range_offloading && self.compress, "Cannot enable copy offloading when -c is used"),
            (self.copy_range_offloading && self.sparse_size.is_some(), "Cannot enable copy offloading when -S is used"),
            (self.copy_range_offloading && self.salvage, "Cannot use copy offloading in salvaging mode"),
            (several && self.source_snapshot.is_some(), "No support for concatenating multiple snapshot"),
            (several && self.bitmaps, "Copying bitmaps only possible with single source"),
            (
                several && above,
                "Having a backing file for the target makes no sense when concatenating multiple input images",
            ),
        ] {
            ensure!(!refused, "{text}");
        }
        Ok(())
    }

    /// What has gone wrong, and what is left.
    fn unfinished(&self, error: anyhow::Error, made: Made) -> anyhow::Error {
        let left = made.remove();
        match left.is_empty() {
            false => error.context(left),
            true => error,
        }
    }
}

struct Conversion<'a> {
    options: &'a ConvertOptions,
    context: &'a Context,
    interrupt: &'a Interrupt,
    sources: &'a Sources,
}

impl Conversion<'_> {
    fn run(&self, given: &Given, made: &mut Made) -> Result<()> {
        let options = self.options;
        if !options.no_create {
            self.make(given, made)?;
        }
        let above = options.is_above(given);
        let wanted = Wanted {
            cache: options.target_cache,
            backing: if above || options.no_create { Backing::FromHeader } else { Backing::None },
            ..Wanted::write(&options.target, Some(options.target_format))
        };
        let target = wanted.open(self.context)?;
        let copied = match target.length() >= self.sources.length() {
            true => self.copy_into(&target, above).with_context(|| self.left(made)),
            false => Err(anyhow!("output file is smaller than input file")),
        };
        // Also after an error: what is open cannot be removed for good.
        let closed = target.close(self.context);
        copied.and(closed)
    }

    /// Writes all that goes into the target.
    fn copy_into(&self, target: &Disk, above: bool) -> Result<()> {
        let options = self.options;
        match options.compress {
            true => {
                target.compress()?;
                let copied = self.copy(target, above);
                target.end_compressing(self.context).and(copied)?;
            }
            false => self.copy(target, above)?,
        }
        if options.bitmaps {
            bitmaps::copy(options, self.context, self.sources.first()?, target)?;
        }
        target.trim(self.context)?;
        target.flush(self.context)
    }

    /// What is left where nothing is removed.
    fn left(&self, made: &Made) -> String {
        let (source, target) = (self.sources.shown(), self.options.target.display());
        match made.is_empty() {
            false => format!("cannot convert '{source}'"),
            true => format!("cannot convert '{source}': '{target}' has a part of it, and is not what it was"),
        }
    }

    fn make(&self, given: &Given, made: &mut Made) -> Result<()> {
        let options = self.options;
        let (path, format) = (options.target.as_path(), options.target_format);
        given.size()?;
        // As `qemu-img` has it, whatever is said of it.
        let size = self.sources.length();
        let no_flush = options.target_cache.no_flush();
        let below = backing_size(self.context, path, given);
        let new = NewImage { path, format, given, size, no_flush };
        let created = below.and_then(|_| new.make(&self.context.graph, made));
        created.with_context(|| format!("{}: error while converting {}", path.display(), format.name()))
    }

    /// Copies the sources, each behind the one before.
    fn copy(&self, target: &Disk, above: bool) -> Result<()> {
        let rate = Rate::limit(self.options.rate_limit).map(Arc::new);
        let seams = Seams::of(self.sources, self.unsplit(target));
        for (source, shift, own) in seams.own(self.sources) {
            let copying = Copying { shift, rate: rate.clone(), ..self.copying(source, target, above) };
            let what = (!self.options.quiet).then(|| format!("'{}'", self.options.target.display()));
            let crew = Crew { threads: self.threads(), what };
            let copied = crew.run(self.context, self.interrupt, &Sweep::new(own), &copying.task());
            copied.map_err(|error| anyhow!("{error:#}"))?;
        }
        let Self { options, context, .. } = self;
        let is_zero = self.is_zero(target, above) && options.sparse_size != Some(0);
        seams.copy(context, target, is_zero, options.target_cache.stable())
    }

    /// Bytes of what is to be written at once: a cluster if it is to be compressed. What cannot be read is found out
    /// source by source.
    fn unsplit(&self, target: &Disk) -> u64 {
        if self.options.compress && !self.options.salvage { target.cluster() } else { 1 }
    }

    /// Whether the target reads as zeroes, and zeroes need not be written.
    fn is_zero(&self, target: &Disk, above: bool) -> bool {
        let options = self.options;
        let device = super::disk::is_device(&options.target) && target.image().is_none();
        if options.no_create { options.target_is_zero } else { !above && !device }
    }

    fn threads(&self) -> usize {
        THREADS.min(self.options.parallel.into())
    }

    fn copying(&self, source: &Disk, target: &Disk, above: bool) -> Copying {
        let options = self.options;
        let is_zero = self.is_zero(target, above);
        let sparse = options.sparse_size.unwrap_or(SPARSE);
        // Part of a cluster saves no space, and is not compressed.
        let least = if is_zero || options.compress { target.cluster() } else { 1 };
        let align = if sparse == 0 && !options.compress { 1 } else { least.max(BLOCK) };
        let direct = options.source_cache.direct() || options.target_cache.direct();
        let piece = if direct { PIECE } else { CACHED_PIECE };
        let grain = if sparse == 0 { 0 } else { (1 << sparse.ilog2()).max(least).min(PIECE.max(least)) };
        Copying {
            source: source.node.clone(),
            source_path: source.shown(),
            levels: if above { 1 } else { u32::MAX },
            below: source.node.unfiltered().below().map_or(0, |below| below.length()),
            target: target.node.clone(),
            target_path: target.shown(),
            is_zero,
            fills: sparse == 0,
            grain,
            align,
            stable: options.target_cache.stable(),
            piece: piece.max(grain).max(align),
            window: usize::from(options.parallel).div_ceil(self.threads()),
            shift: 0,
            salvage: options.salvage,
            rate: None,
        }
    }
}
