//! `tidemark backup verify`: every byte of a directory beside its checksum, and every link beside the manifest.
//!
//! Changes nothing. Goes on after what is wrong, so that all of it is told at once, with the points that it spoils.

use super::digest::{Comparison, Damage};
use super::directory::{Directory, Purpose};
use super::layer::{Below, Layer, check_links};
use super::manifest::{Checksums, Entry};
use super::offline::Work;
use super::sums::Reader;
use crate::inspect::{self, printable};
use anyhow::Result;
use qmp_lite::context::Context;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tidemark_backend::graph::ImageFormat;
use tidemark_backend::node::qcow2::refcount::check::CheckReport;

/// Options of `tidemark backup verify`.
#[derive(clap::Args, Debug)]
pub struct VerifyOptions {
    /// Directory of the backups.
    dir: PathBuf,
}

/// Verifies all images.
///
/// # Errors
/// It is no directory of backups, or somebody is changing it. What is wrong with its images is told, with status 1.
pub fn run(options: &VerifyOptions) -> Result<ExitCode> {
    let directory = Directory::open(&options.dir, Purpose::Read)?;
    let context = Context::new();
    let (mut wrong, mut images) = (0, 0);
    for entry in directory.manifest.entries() {
        images += 1;
        let found = image(&context, &directory, entry);
        if !found.is_empty() {
            wrong += 1;
            tell(&directory, entry, &found)?;
        }
    }
    let points = directory.manifest.points.len();
    if wrong > 0 {
        inspect::print(&format!("{wrong} of {images} images are damaged.\n"))?;
        return Ok(ExitCode::FAILURE);
    }
    inspect::print(&format!("{points} points, {images} images: all data is what was backed up.\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Says what is wrong with an image, and which points need it.
fn tell(directory: &Directory, entry: &Entry, found: &[String]) -> Result<()> {
    let manifest = &directory.manifest;
    let needs = |top: &Entry| manifest.chain(top).iter().any(|below| below.file == entry.file);
    let spoiled = manifest.points.iter().filter(|point| point.disk(&entry.disk).is_some_and(needs));
    let spoiled: Vec<_> = spoiled.map(|point| point.number.to_string()).collect();
    let path = directory.file(&entry.file);
    // What could not be read at all says itself which file that is.
    let name = format!("'{}", directory.path().display());
    let lines = found.iter().map(|line| match line.contains(&name) {
        true => format!("{line}\n"),
        false => format!("'{}': {line}\n", path.display()),
    });
    let (disk, spoiled) = (printable(&entry.disk), spoiled.join(", "));
    inspect::print(&(lines.collect::<String>() + &format!("    disk {disk} is spoiled in points {spoiled}\n")))
}

/// What is wrong with the image of an entry.
fn image(context: &Context, directory: &Directory, entry: &Entry) -> Vec<String> {
    let checks = [links, references, content];
    for check in checks {
        match check(context, directory, entry) {
            Ok(found) if found.is_empty() => {}
            Ok(found) => return found,
            Err(error) => return vec![format!("{error:#}")],
        }
    }
    Vec::new()
}

fn links(context: &Context, directory: &Directory, entry: &Entry) -> Result<Vec<String>> {
    check_links(context, directory, entry).map(|()| Vec::new())
}

/// The image's own references: what is counted wrong is overwritten one day.
fn references(context: &Context, directory: &Directory, entry: &Entry) -> Result<Vec<String>> {
    let inspected = context.graph.inspect(&directory.file(&entry.file), Some(ImageFormat::Qcow2), false);
    let inspected = inspected.map_err(|error| inspect::refusal(&error))?;
    let report = context.graph.check(&inspected)?;
    let CheckReport { corruptions, check_errors, .. } = report;
    let say = || format!("the image is corrupt: {} references are wrong or cannot be read", corruptions + check_errors);
    let wrong = corruptions + check_errors > 0;
    Ok(wrong.then(say).into_iter().collect())
}

fn content(context: &Context, directory: &Directory, entry: &Entry) -> Result<Vec<String>> {
    let (below, is_full, sums) = expectation(directory, entry)?;
    let path = directory.file(&entry.file);
    let mut reader = Reader::open(&directory.file(&sums.file), &sums.sha256)?;
    let layer = Layer::open(context, &path, below)?;
    let (node, done) = (layer.node.clone(), Arc::new(AtomicU64::new(0)));
    let work = Work { what: entry.file.clone(), total: node.length(), done: done.clone(), interrupt: None };
    let found = work.run(context, async move |io| {
        Comparison { node, below, is_full, reader: &mut reader, done: &done }.run(io).await
    });
    let found = found?;
    layer.close(context)?;
    let line = |Damage { range, what }: &Damage| {
        format!("{} bytes at offset {} of the disk: {what}", range.end - range.start, range.start)
    };
    Ok(found.iter().map(line).collect())
}

/// What an image is compared with. One whose older images are being merged is looked at with them, as long as it has them:
/// each of them may be anything between what it was and what it will be, and together they are what they were.
fn expectation<'a>(directory: &Directory, entry: &'a Entry) -> Result<(Below, bool, &'a Checksums)> {
    Ok(match &entry.merging {
        Some(merging) if directory.has(&merging.base)? => (Below::Chain, true, &merging.checksums),
        Some(merging) => (Below::Nothing, true, &merging.checksums),
        None => (Below::Nothing, entry.parent.is_none(), &entry.checksums),
    })
}
