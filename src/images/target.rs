//! Making an image under a name: a new file, an old one that is emptied, or a block device that is there already.

use super::disk::{is_device, plain};
use super::made::Made;
use super::options::{Given, Preallocation};
use crate::image::Format;
use anyhow::{Result, anyhow, bail, ensure};
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use tidemark_backend::error::{GraphError, errno_text};
use tidemark_backend::graph::Graph;
use tidemark_backend::graph::create::{CreateFile, CreateImage, Creation};
use tidemark_backend::node::options::ChildRef;
use tidemark_backend::node::qcow2::create::layout;

/// An image to be made.
pub struct NewImage<'a> {
    /// Where.
    pub path: &'a Path,
    /// What.
    pub format: Format,
    /// With which options.
    pub given: &'a Given,
    /// Bytes of its disk.
    pub size: u64,
    /// Nothing need be stable.
    pub no_flush: bool,
}

impl NewImage<'_> {
    /// Makes it.
    ///
    /// # Errors
    /// With QEMU's texts. What was made on the way is in `made`.
    pub fn make(&self, graph: &Graph, made: &mut Made) -> Result<()> {
        let (size, preallocation) = (self.size.next_multiple_of(512), self.given.preallocation()?);
        match self.format {
            Format::Raw => file(graph, self.path, size, preallocation, made),
            Format::Qcow2 => self.image(graph, preallocation, made),
        }
    }

    fn image(&self, graph: &Graph, preallocation: Preallocation, made: &mut Made) -> Result<()> {
        let options = self.given.of_qcow2(self.size)?;
        let data = self.given.get("data_file").map(PathBuf::from);
        ensure!(data.is_some() || !options.data_file_raw, "data-file-raw requires data-file");
        if data.is_none() {
            // What cannot be made does not cost anybody his file.
            layout(&options)?;
        }
        file(graph, self.path, 0, Preallocation::Off, made)?;
        if let Some(data) = &data {
            file(graph, data, 0, Preallocation::Off, made)?;
        }
        let image = CreateImage {
            file: self.storage(self.path),
            data_file: data.as_deref().map(|data| self.storage(data)),
            options,
            preallocation: preallocation.of_image(),
        };
        graph.create(&Creation::Image(Box::new(image))).map_err(|error| anyhow!("{error}"))
    }

    fn storage(&self, path: &Path) -> ChildRef {
        match plain(path, is_device(path)) {
            ChildRef::Inline(mut options) => {
                options.cache_no_flush = self.no_flush.into();
                ChildRef::Inline(options)
            }
            named @ ChildRef::Name(_) => named,
        }
    }
}

/// Makes a file of so many bytes, or sees to it that a device has as many.
fn file(graph: &Graph, path: &Path, size: u64, preallocation: Preallocation, made: &mut Made) -> Result<()> {
    if is_device(path) {
        return device(path, size, preallocation);
    }
    let before = length(path);
    let size_there_is = i64::try_from(size).map_err(|_| anyhow!("Image size cannot be negative"))?;
    let file = CreateFile { filename: path.to_owned(), size: size_there_is, preallocation: preallocation.of_file() };
    let created = graph.create(&Creation::File(file));
    // One that was there is spoilt as soon as it is emptied, and is not before.
    if created.is_ok() || length(path) != before {
        made.add(path);
    }
    created.map_err(|error| match &error {
        GraphError::Locked(conflict) => anyhow!("{error}\n{}", conflict.hint()),
        // Its text has its source.
        _ => anyhow!("{error}"),
    })
}

/// Bytes of a file, if there is one.
fn length(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|file| file.len())
}

fn device(path: &Path, size: u64, preallocation: Preallocation) -> Result<()> {
    let shown = path.display();
    let length = File::open(path).and_then(|mut device| device.seek(SeekFrom::End(0)));
    let length = length.map_err(|error| anyhow!("Could not open '{shown}': {}", errno_text(&error)))?;
    if preallocation != Preallocation::Off && size > 0 {
        bail!("Unsupported preallocation mode for '{shown}', which is a block device");
    }
    ensure!(length > 0, "'{shown}' is a block device without a size");
    ensure!(length >= size, "'{shown}' is a block device of {length} bytes, and the image has {size}");
    Ok(())
}
