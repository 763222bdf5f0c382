//! The persistent bitmaps of a source in its copy: the same names, granularities and marks; those that record go on
//! recording.

use super::ConvertOptions;
use crate::bitmap;
use crate::images::disk::Disk;
use anyhow::{Context as _, Result, bail, ensure};
use qmp_lite::context::Context;
use tidemark_backend::bitmaps::BitmapInfo;
use tidemark_jobs::action::{Action, BitmapName, MergeSource};

/// Refuses bitmaps that cannot be copied, before there is a target.
///
/// # Errors
/// The source has none by its format; one of them is inconsistent.
pub fn check(options: &ConvertOptions, source: &Disk) -> Result<()> {
    if !options.bitmaps {
        return Ok(());
    }
    ensure!(source.image().is_some(), "This will continue to be invalid: the source is raw and has no bitmaps");
    let broken = bitmaps(source).into_iter().find(|bitmap| bitmap.inconsistent && !options.skip_broken_bitmaps);
    match broken {
        None => Ok(()),
        Some(bitmap) => bail!(
            "Cannot copy inconsistent bitmap '{}'\nTry --skip-broken-bitmaps, or use 'tidemark bitmap remove'",
            bitmap.name
        ),
    }
}

fn bitmaps(disk: &Disk) -> Vec<BitmapInfo> {
    let mut bitmaps = disk.node.points().tracking().list();
    // The newest are the first there.
    bitmaps.reverse();
    bitmaps.retain(|bitmap| bitmap.persistent);
    bitmaps
}

/// Copies them, and stores them in the target.
///
/// # Errors
/// There is no room for one; its storage fails.
pub fn copy(options: &ConvertOptions, context: &Context, source: &Disk, target: &Disk) -> Result<()> {
    for bitmap in bitmaps(source) {
        if bitmap.inconsistent {
            let name = crate::inspect::printable(&bitmap.name);
            eprintln!("tidemark: warning: Skipping inconsistent bitmap '{name}'");
            continue;
        }
        let name = bitmap.name.clone();
        copy_one(options, context, (source, target), bitmap)
            .with_context(|| format!("Failed to copy bitmap '{}'", crate::inspect::printable(&name)))?;
    }
    bitmap::store(context, &target.node)
}

fn copy_one(
    options: &ConvertOptions,
    context: &Context,
    (source, target): (&Disk, &Disk),
    bitmap: BitmapInfo,
) -> Result<()> {
    let there = BitmapName { node: target.node.name().to_owned(), name: bitmap.name.clone() };
    let add = Action::BitmapAdd {
        node: there.node.clone(),
        name: there.name.clone(),
        granularity: Some(bitmap.granularity.into()),
        persistent: true,
        disabled: true,
    };
    let from = MergeSource { node: Some(source.node.name().to_owned()), name: bitmap.name };
    let merge = Action::BitmapMerge { target: there.clone(), sources: vec![from] };
    let enable = bitmap.recording.then_some(Action::BitmapEnable(there));
    for action in [add, merge].into_iter().chain(enable) {
        bitmap::apply(context, &options.target, action)?;
    }
    Ok(())
}
