//! The images that are read, whose disks are put together.

use super::ConvertOptions;
use crate::images::disk::{Disk, Wanted};
use crate::images::snapshot_named;
use anyhow::{Context as _, Result};
use qmp_lite::context::Context;

/// See the module.
pub struct Sources(Vec<Disk>);

impl Sources {
    /// Opens them all.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn open(options: &ConvertOptions, context: &Context) -> Result<Self> {
        let mut sources = Self(Vec::new());
        for path in &options.sources {
            let snapshot = options.source_snapshot.as_deref();
            let snapshot = snapshot.map(|text| snapshot_named::find(context, path, options.source_format, text));
            let snapshot = snapshot.transpose()?;
            let wanted = Wanted {
                force_share: options.force_share,
                cache: options.source_cache,
                snapshot: snapshot.as_deref(),
                settled: true,
                ..Wanted::read(path, options.source_format)
            };
            sources.0.push(wanted.open(context)?);
        }
        Ok(sources)
    }

    /// In their order.
    pub fn all(&self) -> impl Iterator<Item = &Disk> {
        self.0.iter()
    }

    /// The first, or the only one.
    ///
    /// # Errors
    /// There is none.
    pub fn first(&self) -> Result<&Disk> {
        self.0.first().context("Must specify image file name")
    }

    /// Bytes of all disks.
    pub fn length(&self) -> u64 {
        self.all().map(Disk::length).fold(0, u64::saturating_add)
    }

    /// Their paths, for messages.
    pub fn shown(&self) -> String {
        self.all().map(Disk::shown).collect::<Vec<_>>().join("', '")
    }

    /// Closes them.
    ///
    /// # Errors
    /// One is in use.
    pub fn close(self, context: &Context) -> Result<()> {
        self.0.into_iter().try_for_each(|disk| disk.close(context))
    }
}
