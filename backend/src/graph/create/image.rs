//! A new qcow2 image in a node, with its data file if it has one.

use super::Borrowed;
use crate::error::{GraphError, IoError};
use crate::graph::Graph;
use crate::graph::errand::run;
use crate::graph::image::place_name;
use crate::io::{Buf, Memory, byte_count};
use crate::node::options::ChildRef;
use crate::node::qcow2::create::{CreateError, CreateOptions, Layout, Preallocation, layout};
use crate::node::qcow2::store::Store;
use crate::node::{Kind, Node, Request};
use crate::reactor::Handle;
use std::ops::Range;
use std::sync::Arc;

/// Bytes written at a time.
const PIECE: u64 = 1 << 20;

/// An image to be made.
#[derive(Clone, Debug)]
pub struct CreateImage {
    /// Where to.
    pub file: ChildRef,
    /// Where its guest's clusters are to be, if not there.
    pub data_file: Option<ChildRef>,
    /// What it shall be like, but for the data file's name.
    pub options: CreateOptions,
}

impl Graph {
    pub(super) fn create_image(&self, image: &CreateImage) -> Result<(), GraphError> {
        let file = self.borrow_node(&image.file)?;
        let data = image.data_file.as_ref().map(|data| self.borrow_node(data)).transpose()?;
        let layout = image.layout(data.as_ref())?;
        let (file, data) = (file.node.clone(), data.as_ref().map(|data| data.node.clone()));
        let (preallocation, raw) = (image.options.preallocation, image.options.data_file_raw);
        let making = move |io| async move {
            let made = Making { io: &io, file: &file, data: data.as_ref(), layout: &layout, preallocation, raw };
            made.make().await
        };
        let made = run(&self.ring(), making)?;
        made.map_err(|error| GraphError::Options(format!("Could not write qcow2 header: {error}")))
    }
}

impl CreateImage {
    fn layout(&self, data: Option<&Borrowed<'_>>) -> Result<Layout, GraphError> {
        let named = place_name;
        let data_file = data.map(|data| named(&data.node));
        let options = CreateOptions { data_file, ..self.options.clone() };
        layout(&options).map_err(|error| {
            let error = match error {
                // Whoever asks by QMP is told of the format that was not given.
                CreateError::Backing { file, format, why } if format.is_empty() => {
                    CreateError::Backing { file, format: " with format '(null)'".to_owned(), why }
                }
                error => error,
            };
            GraphError::Options(error.to_string())
        })
    }
}

/// An image being made.
struct Making<'a> {
    io: &'a Handle,
    file: &'a Arc<Node>,
    data: Option<&'a Arc<Node>>,
    layout: &'a Layout,
    preallocation: Preallocation,
    /// The data file is the disk by itself: what is in it stays.
    raw: bool,
}

impl Making<'_> {
    async fn make(&self) -> Result<(), IoError> {
        let store = Store::new(self.file.clone());
        let cluster = self.layout.header.geometry().cluster();
        let before = self.file.length();
        // What was there is no image from now on.
        self.file.grow(self.io, self.layout.length.max(cluster)).await?;
        store.write(self.io, 0, Buf::new(byte_count(cluster))).await?;
        store.flush(self.io).await?;
        self.fill(before).await?;
        for (offset, bytes) in self.layout.writes() {
            if offset == 0 {
                store.flush(self.io).await?;
            }
            self.write(offset, &bytes).await?;
        }
        store.flush(self.io).await
    }

    async fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        let mut buf = Buf::new(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        Store::new(self.file.clone()).write(self.io, offset, buf).await
    }

    /// Where guest clusters are mapped from the start, there are zeroes, with as much space as was asked for.
    async fn fill(&self, before: u64) -> Result<(), IoError> {
        let Some(data) = self.data else {
            let mapped = self.layout.mapped();
            let stale = mapped.start..mapped.end.min(before.max(mapped.start));
            return self.prepare(self.file, mapped, stale).await;
        };
        let (before, size) = (data.length(), self.layout.data_length);
        data.grow(self.io, size).await?;
        let stale = if self.raw || self.preallocation == Preallocation::Off { 0..0 } else { 0..before.min(size) };
        self.prepare(data, before.min(size)..size, stale).await?;
        Store::new(data.clone()).flush(self.io).await
    }

    /// Space for `range`; what is in `stale`, which may be part of it, goes.
    async fn prepare(&self, node: &Arc<Node>, range: Range<u64>, stale: Range<u64>) -> Result<(), IoError> {
        self.zero(node, stale, true).await?;
        match self.preallocation {
            Preallocation::Off | Preallocation::Metadata => Ok(()),
            Preallocation::Falloc => self.zero(node, range, false).await,
            Preallocation::Full => {
                let mut at = range.start;
                while at < range.end {
                    let len = PIECE.min(range.end - at);
                    Store::new(node.clone()).write(self.io, at, Buf::new(byte_count(len))).await?;
                    at += len;
                }
                Ok(())
            }
        }
    }

    async fn zero(&self, node: &Arc<Node>, range: Range<u64>, unmap: bool) -> Result<(), IoError> {
        let (offset, len) = (range.start, range.end.saturating_sub(range.start));
        if len == 0 {
            return Ok(());
        }
        let zero = Request { kind: Kind::Zero { unmap }, fua: false, offset, len, memory: Memory::empty() };
        node.handle(self.io, zero).await.1
    }
}
