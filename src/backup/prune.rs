//! `tidemark backup prune`: the oldest points go, and what the others need of them is merged into one full image.
//!
//! Let R, A, B, K be a chain of which K is the oldest point that stays. What A, B and K have is written into R, which then
//! holds the disk as it was at K, and R is renamed to K's name: images above K never notice.
//!
//! | State | What is there | What any later run does |
//! |---|---|---|
//! | *begun* | the manifest calls the new checksums garbage | removes them |
//! | *merging* | the manifest has no points before K and says that K is being merged; R exists | merges again |
//! | *renamed* | the same, and R is gone | takes K for full |
//! | *done* | K is full, the manifest calls A, B and old checksums garbage | removes them |
//!
//! K can be restored in each of them: as long as K leads to B, A and R, whatever R has already of them is hidden by them.
//! Points before K cannot, from *merging* on; so the manifest loses them before R changes. Merging twice is the same as
//! merging once.

use super::apply::Apply;
use super::directory::{Directory, Purpose};
use super::layer::{Below, Layer, check_chain};
use super::manifest::{ALGORITHM, BLOCK, Checksums, Entry, Manifest, Merging};
use super::offline::Work;
use super::sums::{self, Reader, Writer};
use crate::inspect;
use anyhow::{Context as _, Result, ensure};
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use qmp_lite::context::Context;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Options of `tidemark backup prune`.
#[derive(clap::Args, Debug)]
pub struct PruneOptions {
    /// Directory of the backups.
    dir: PathBuf,
    /// Keep the newest N points.
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        required_unless_present = "before",
        conflicts_with = "before"
    )]
    keep: Option<u32>,
    /// Remove points from before a date (2026-11-30) or a moment (2026-11-30T22:00:00Z); the newest one always stays.
    #[arg(long, value_name = "DATE", value_parser = moment)]
    before: Option<Timestamp>,
}

/// A moment, or the beginning of a day here.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(timestamp) = text.parse() {
        return Ok(timestamp);
    }
    let day = text.parse::<civil::Date>().and_then(|date| date.to_zoned(TimeZone::system()));
    day.map(|day| day.timestamp()).map_err(|error| error.to_string())
}

/// Removes points.
///
/// # Errors
/// It is no directory of backups, somebody else is at work in it, or the storage's: another run completes it then.
pub fn run(options: &PruneOptions) -> Result<()> {
    let mut directory = Directory::open(&options.dir, Purpose::Change)?;
    let context = Context::new();
    finish(&context, &mut directory)?;
    directory.remove_garbage()?;
    let first = first_kept(&directory.manifest, options)?;
    if first > 0 {
        begin(&context, &mut directory, first)?;
        finish(&context, &mut directory)?;
        directory.remove_garbage()?;
    }
    let left = directory.manifest.points.len();
    let points = if first == 1 { "point" } else { "points" };
    inspect::print(&format!("{first} {points} removed, {left} left\n"))
}

/// The index of the oldest point that stays.
fn first_kept(manifest: &Manifest, options: &PruneOptions) -> Result<usize> {
    let last = manifest.points.len().saturating_sub(1);
    if let Some(keep) = options.keep {
        return Ok(manifest.points.len().saturating_sub(usize::try_from(keep)?));
    }
    let before = options.before.context("--keep N or --before DATE says which points stay")?;
    for (index, point) in manifest.points.iter().enumerate().take(last) {
        if point.timestamp()? >= before {
            return Ok(index);
        }
    }
    Ok(last)
}

/// From *begun* to *merging*.
fn begin(context: &Context, directory: &mut Directory, first: usize) -> Result<()> {
    let merges = merges(&directory.manifest, first);
    for merge in &merges {
        let chain = directory.manifest.entries().filter(|entry| merge.chain.contains(&entry.file));
        check_chain(context, directory, &chain.collect::<Vec<_>>()).context("nothing is removed")?;
    }
    directory.manifest.next += 1;
    directory.manifest.discard(merges.iter().map(|merge| merge.sums.clone()));
    directory.store()?;
    let mut written = Vec::new();
    for merge in merges {
        written.push((merge_sums(directory, &merge)?, merge));
    }
    directory.sync()?;
    drop_points(&mut directory.manifest, first, written);
    directory.store()
}

/// A chain that becomes one image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Merge {
    /// Its images, the full one first.
    chain: Vec<String>,
    /// Where its checksums go.
    sums: String,
}

/// What has to be merged if the point with this index is to be the oldest.
fn merges(manifest: &Manifest, first: usize) -> Vec<Merge> {
    let mut seen = Vec::new();
    let mut merges = Vec::new();
    for entry in manifest.points.iter().skip(first).flat_map(|point| &point.disks) {
        if seen.contains(&&entry.disk) {
            continue;
        }
        seen.push(&entry.disk);
        if entry.parent.is_some() {
            let chain = manifest.chain(entry).into_iter().map(|entry| entry.file.clone()).collect();
            let stem = entry.file.trim_end_matches(".qcow2");
            merges.push(Merge { chain, sums: format!("{stem}-merged-{}.sums", manifest.next) });
        }
    }
    merges
}

/// Writes the checksums of what a chain is together; returns the checksum of those.
fn merge_sums(directory: &Directory, merge: &Merge) -> Result<String> {
    let mut readers = Vec::new();
    for file in &merge.chain {
        let entry = directory.manifest.entries().find(|entry| entry.file == *file);
        let Checksums { file, sha256, .. } = &entry.context("a chain without its entries")?.checksums;
        readers.push(Reader::open(&directory.file(file), sha256).context("nothing is removed")?);
    }
    let mut writer = Writer::create(directory.file(&merge.sums))?;
    sums::merge(readers, &mut writer)?;
    writer.finish()
}

/// The manifest without the points before `first`.
fn drop_points(manifest: &mut Manifest, first: usize, merges: Vec<(String, Merge)>) {
    let kept = manifest.points.split_off(first);
    let dropped = std::mem::replace(&mut manifest.points, kept);
    let dropped: Vec<Entry> = dropped.into_iter().flat_map(|point| point.disks).collect();
    let mut needed = Vec::new();
    for (sha256, Merge { chain, sums }) in merges {
        manifest.adopt(&[&sums]);
        let [base, layers @ .., top] = chain.as_slice() else { continue };
        let below = dropped.iter().filter(|entry| chain.contains(&entry.file));
        let spent: Vec<_> = below.map(|entry| entry.checksums.file.clone()).collect();
        needed.extend(chain.iter().cloned().chain(spent.iter().cloned()));
        let checksums = Checksums { file: sums, algorithm: ALGORITHM.to_owned(), block: BLOCK, sha256 };
        let merging = Merging { base: base.clone(), layers: layers.to_vec(), checksums, spent };
        let entries = manifest.points.iter_mut().flat_map(|point| &mut point.disks);
        entries.filter(|entry| entry.file == *top).for_each(|entry| entry.merging = Some(merging.clone()));
    }
    let files = dropped.iter().flat_map(Entry::files).filter(|file| !needed.iter().any(|needed| needed == file));
    let files: Vec<_> = files.map(str::to_owned).collect();
    manifest.discard(files);
}

/// Completes all merges that were begun.
///
/// # Errors
/// The storage's. Another run completes them then.
pub fn finish(context: &Context, directory: &mut Directory) -> Result<()> {
    let merging = directory.manifest.entries().filter(|entry| entry.merging.is_some());
    for entry in merging.cloned().collect::<Vec<_>>() {
        let Some(merging) = &entry.merging else { continue };
        if directory.has(&merging.base)? {
            merge(context, directory, &entry, merging).with_context(|| {
                format!("the older images of '{}' are not merged; `tidemark backup prune` goes on", entry.file)
            })?;
        }
        settle(&mut directory.manifest, &entry.file);
        directory.store()?;
    }
    Ok(())
}

/// Writes what the images above the base have into it, and gives it the name of the last.
fn merge(context: &Context, directory: &Directory, entry: &Entry, merging: &Merging) -> Result<()> {
    let (base, top) = (directory.file(&merging.base), directory.file(&entry.file));
    let target = Layer::change(context, &base)?;
    ensure!(target.node.length() == entry.size, "'{}' is of another size", base.display());
    for file in merging.layers.iter().chain([&entry.file]) {
        let path = directory.file(file);
        let source = Layer::open(context, &path, Below::Nothing)?;
        let done = Arc::new(AtomicU64::new(0));
        let work = Work { what: format!("merging '{file}'"), total: entry.size, done: done.clone(), interrupt: None };
        let apply = Apply {
            source: source.node.clone(),
            source_path: path,
            below: Below::Nothing,
            target: target.node.clone(),
            target_path: base.clone(),
            is_empty: false,
            done,
        };
        work.run(context, async move |io| apply.run(io).await)?;
        source.close(context)?;
    }
    target.close(context)?;
    let give = || {
        File::open(&base)?.sync_all()?;
        fs::rename(&base, &top)
    };
    give().with_context(|| format!("cannot give '{}' the name '{}'", base.display(), top.display()))?;
    directory.sync()
}

/// The manifest after a merge.
fn settle(manifest: &mut Manifest, file: &str) {
    let mut spent = Vec::new();
    for entry in manifest.points.iter_mut().flat_map(|point| &mut point.disks).filter(|entry| entry.file == file) {
        if let Some(Merging { base: _, layers, checksums, spent: sums }) = entry.merging.take() {
            let old = std::mem::replace(&mut entry.checksums, checksums);
            spent.extend(layers.into_iter().chain(sums).chain([old.file]));
            entry.parent = None;
            entry.full_because = Some("the points before it were pruned".to_owned());
        }
    }
    manifest.discard(spent);
}

#[cfg(test)]
mod tests;
