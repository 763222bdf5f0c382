//! `tidemark map`: where the bytes of an image's disk are, run by run, as `qemu-img map` tells it.

use super::disk::{Disk, Wanted};
use super::layout::{Layout, Run};
use super::size;
use crate::inspect::{self, InspectOptions, Output, printable};
use anyhow::{Result, anyhow, ensure};
use qmp_lite::block::image::MapEntry;
use qmp_lite::context::Context;
use std::path::PathBuf;

/// Options of `tidemark map`.
#[derive(clap::Args, Debug)]
pub struct MapOptions {
    #[command(flatten)]
    image: InspectOptions,
    /// Let headers of images name files below this directory too; may be given several times.
    #[arg(long, value_name = "DIRECTORY")]
    backing_dir: Vec<PathBuf>,
    /// Begin here, in bytes, also with k, M, G, T, P or E.
    #[arg(short, long, value_name = "OFFSET", default_value = "0", value_parser = size::parse)]
    start_offset: u64,
    /// Tell of so many bytes at most.
    #[arg(short = 'l', long, value_name = "LENGTH", value_parser = size::parse)]
    max_length: Option<u64>,
}

/// Tells where the bytes of an image are.
///
/// # Errors
/// It cannot be opened or read.
pub fn run(options: &MapOptions) -> Result<()> {
    let InspectOptions { image, format, output, force_share } = &options.image;
    let context = Context::new();
    options.backing_dir.iter().for_each(|dir| context.graph.allow_backing_in(dir.clone()));
    let disk = Wanted { force_share: *force_share, ..Wanted::read(image, *format) }.open(&context)?;
    let end = options.max_length.map_or(u64::MAX, |len| options.start_offset.saturating_add(len)).min(disk.length());
    let runs = all(&context, &disk, options.start_offset, end)?;
    disk.close(&context)?;
    match output {
        Output::Json => {
            inspect::print(&MapEntry::list_to_json(&runs.into_iter().map(|run| run.entry).collect::<Vec<_>>()))
        }
        Output::Human => {
            let shown = runs.iter().take_while(|run| is_in_file(run));
            inspect::print(&table(shown))?;
            let all = runs.iter().all(is_in_file);
            ensure!(all, "File contains external, encrypted or compressed clusters.");
            Ok(())
        }
    }
}

/// The runs from `start` to `end`, each as long as it can be.
fn all(context: &Context, disk: &Disk, start: u64, end: u64) -> Result<Vec<Run>> {
    let (node, path) = (disk.node.clone(), disk.shown());
    context.jobs.ask_async(async move |registry| {
        let (mut runs, mut at, mut layout) = (Vec::<Run>::new(), start, Layout::of(node));
        while at < end {
            let found = layout.run_at(registry.io(), at, end - at).await;
            let found = found.map_err(|error| anyhow!("Failed to read the metadata of '{path}' at {at}: {error}"))?;
            at += found.entry.length;
            match runs.last_mut().filter(|last| last.goes_on_in(&found)) {
                Some(last) => last.entry.length += found.entry.length,
                None => runs.push(found),
            }
        }
        // As `qemu-img` has it: there is always one.
        Ok(if runs.is_empty() { vec![Run::none(start)] } else { runs })
    })?
}

/// Whether a table for people can have a run: data that is nowhere it cannot.
fn is_in_file(run: &Run) -> bool {
    !run.entry.data || run.entry.offset.is_some()
}

/// The runs that are data, as `qemu-img` has them.
fn table<'a>(runs: impl Iterator<Item = &'a Run>) -> String {
    let head = format!("{:16}{:16}{:16}{}\n", "Offset", "Length", "Mapped to", "File");
    let data = runs.filter(|run| run.entry.data && !run.entry.zero).map(line);
    std::iter::once(head).chain(data).collect()
}

fn line(run: &Run) -> String {
    let MapEntry { start, length, offset, .. } = &run.entry;
    let hex = |number: u64| if number == 0 { "0".to_owned() } else { format!("{number:#x}") };
    let file = run.file.as_deref().map_or(String::new(), printable);
    format!("{:16}{:16}{:16}{file}\n", hex(*start), hex(*length), hex(offset.unwrap_or(0)))
}
