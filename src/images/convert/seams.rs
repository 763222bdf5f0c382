//! Where sources meet inside a cluster of a compressed target: only whole clusters can be compressed, so those that more
//! than one source has a part of are put together before they are written.

use super::sources::Sources;
use crate::images::copy::failed;
use crate::images::disk::Disk;
use anyhow::Result;
use qmp_lite::context::Context;
use std::ops::Range;
use std::sync::Arc;
use tidemark_backend::error::IoError;
use tidemark_backend::io::{Buf, Memory, byte_count};
use tidemark_backend::node::{Kind, Node, Request, Root};
use tidemark_backend::reactor::Handle;

/// See the module.
pub struct Seams {
    /// Bytes of a cluster; 1 where it does not matter.
    cluster: u64,
    /// The sources, and where each begins in the target.
    parts: Vec<(u64, Arc<Node>)>,
    /// Where the last one ends there.
    end: u64,
}

impl Seams {
    /// Those of sources in a target with such clusters.
    pub fn of(sources: &Sources, cluster: u64) -> Self {
        let mut end = 0;
        let parts = sources.all().map(|source| {
            let start = end;
            end += source.length();
            (start, source.node.clone())
        });
        let parts = parts.collect();
        Self { cluster, parts, end }
    }

    /// Each source, where it begins in the target, and what of it is in clusters that no other has a part of.
    pub fn own<'a>(&self, sources: &'a Sources) -> impl Iterator<Item = (&'a Disk, u64, Range<u64>)> {
        sources.all().zip(&self.parts).map(|(source, (start, _))| {
            let end = start + source.length();
            let first = start.next_multiple_of(self.cluster).min(end);
            let last = if end == self.end { end } else { (end - end % self.cluster).max(first) };
            (source, *start, first - start..last - start)
        })
    }

    /// Writes the other clusters; none that are all zero if `is_zero` says that they are there.
    ///
    /// # Errors
    /// The storage's.
    pub fn copy(self, context: &Context, target: &Disk, is_zero: bool, stable: bool) -> Result<()> {
        let (root, shown) = (target.node.clone(), target.shown());
        let copied = context.jobs.ask_async(async move |registry| {
            let root = Root::new(&root);
            for cluster in self.clusters() {
                let buf = self.read(registry.io(), &cluster).await.map_err(|error| ("read", cluster.start, error))?;
                let write = Request {
                    kind: Kind::Write,
                    fua: stable,
                    offset: cluster.start,
                    len: cluster.end - cluster.start,
                    memory: Memory::from(buf),
                };
                if !(is_zero && write.memory.is_zero()) {
                    let written = root.handle(registry.io(), write).await.1;
                    written.map_err(|error| ("write", cluster.start, error))?;
                }
            }
            Ok(())
        })?;
        copied.map_err(|(action, at, error)| failed(action, &shown, at, error))
    }

    fn clusters(&self) -> Vec<Range<u64>> {
        let inside = self.parts.iter().map(|(start, _)| start).filter(|start| !start.is_multiple_of(self.cluster));
        let mut starts: Vec<u64> = inside.map(|start| start - start % self.cluster).collect();
        starts.dedup();
        starts.into_iter().map(|start| start..(start + self.cluster).min(self.end)).collect()
    }

    /// What the sources have of a cluster.
    async fn read(&self, io: &Handle, cluster: &Range<u64>) -> Result<Buf, IoError> {
        let mut whole = Buf::new(byte_count(cluster.end - cluster.start));
        for (start, source) in &self.parts {
            let (from, to) = (cluster.start.max(*start), cluster.end.min(start + source.length()));
            if from >= to {
                continue;
            }
            let (len, memory) = (to - from, Memory::from(Buf::new(byte_count(to - from))));
            let read = Request { kind: Kind::Read, fua: false, offset: from - start, len, memory };
            let (memory, result) = source.handle(io, read).await;
            result?;
            let part = whole.as_mut_slice().get_mut(byte_count(from - cluster.start)..byte_count(to - cluster.start));
            if let (Some(part), Some(buf)) = (part, memory.into_buf()) {
                part.copy_from_slice(buf.as_slice());
            }
        }
        Ok(whole)
    }
}
