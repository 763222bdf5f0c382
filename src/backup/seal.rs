//! The last step of an image before it belongs to a point: it is made stable, and its checksums are written.
//!
//! They are those of what is in the file, read back from it: `verify` tells later whether it still is.

use super::digest;
use super::directory::Directory;
use super::layer::{Below, Layer};
use super::offline::Work;
use super::sums::Writer;
use crate::ctl::backup::interrupt::Interrupt;
use anyhow::{Context as _, Result};
use qmp_lite::context::Context;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Makes `file` stable, writes its checksums to `sums`; returns the checksum of those.
///
/// # Errors
/// The storage's; a signal came.
pub fn seal(
    context: &Context,
    directory: &Directory,
    file: &str,
    sums: &str,
    interrupt: Option<&Interrupt>,
) -> Result<String> {
    let path = directory.file(file);
    let synced = File::open(&path).and_then(|image| image.sync_all());
    synced.with_context(|| format!("cannot make '{}' stable", path.display()))?;
    let layer = Layer::open(context, &path, Below::Nothing)?;
    let mut writer = Writer::create(directory.file(sums))?;
    let (node, done) = (layer.node.clone(), Arc::new(AtomicU64::new(0)));
    let what = format!("checksums of '{file}'");
    let work = Work { what, total: node.length(), done: done.clone(), interrupt };
    let sha256 = work.run(context, async move |io| {
        digest::write(io, &node, &path, &mut writer, &done).await?;
        writer.finish()
    });
    let sha256 = sha256?;
    layer.close(context)?;
    Ok(sha256)
}
