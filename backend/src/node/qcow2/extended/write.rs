//! Guest writes to parts of clusters.

use crate::error::IoError;
use crate::node::Request;
use crate::node::points::Points;
use crate::node::qcow2::entry::{ALL_PARTS, Entry};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::refcount::Run;
use crate::node::qcow2::write::{Aim, Part};
use crate::reactor::Handle;

impl Image {
    /// Writes the beginning of a part of a request, up to the end of its cluster: into the cluster that is there, or
    /// into a new one. What a snapshot shares or is compressed comes along as a whole.
    pub(in crate::node::qcow2) async fn write_parts(
        &self,
        io: &Handle,
        request: &mut Request,
        part: Part,
        points: &Points,
    ) -> Result<u64, IoError> {
        let geometry = self.geometry;
        let first = geometry.cluster_start(part.offset);
        let cluster_end = first.saturating_add(geometry.cluster());
        let part = Part { len: part.len.min(cluster_end - part.offset), ..part };
        let _clusters = self.clusters.lock(first..cluster_end).await;
        let extent = self.locate(io, part.offset, part.len).await?;
        if part.aim.passes(extent.found) {
            return Ok(0);
        }
        let part = if part.aim == Aim::Missing { Part { len: part.len.min(extent.len), ..part } } else { part };
        let end = part.offset + part.len;
        let table = self.table_for_change(io, geometry.l1_index(first), points).await?;
        let index = geometry.l2_index(first);
        let (word, bitmap) = self.tables.pair(&table, index);
        let before = geometry.decode(word);
        let unit = geometry.part();
        let touched = geometry.parts(part.offset..end);
        let (own, whole) = match before {
            Entry::Invalid => return Err(IoError::Io),
            // Somebody else was faster.
            Entry::Data { copied: true, .. } if bitmap & touched == touched => return Ok(0),
            Entry::Data { host, copied: true } => (Some(host), false),
            Entry::Data { .. } | Entry::Compressed { .. } => (None, true),
            Entry::Unallocated | Entry::Zero { .. } => (None, false),
        };
        let run = match own {
            Some(host) => Run { host, clusters: 1, fresh: false },
            // A guest's offset is the one there.
            None if geometry.external_data => Run { host: first, clusters: 1, fresh: false },
            None => self.take_clusters(io, 1).await?,
        };
        let from = if whole { first } else { part.offset - part.offset % unit };
        let to = if whole { cluster_end } else { end.next_multiple_of(unit) };
        let to = if geometry.external_data { to.min(self.length().max(end)) } else { to };
        let written = self.write_with(io, request, part, from..to, run.host + (part.offset - first)).await;
        let put_back = || {
            if own.is_none() && !geometry.external_data {
                self.put_clusters_back(run);
            }
        };
        written.inspect_err(|_| put_back())?;
        let bitmap = if whole { ALL_PARTS } else { bitmap & !(touched << 32) | touched };
        let set = || self.tables.set(&table, index, geometry.data_entry(run.host), bitmap);
        self.note(io, &[], points, set).await.inspect_err(|_| put_back())?;
        self.free_replaced(before, Some(run.host), false);
        Ok(part.len)
    }

    /// Writes a part with what comes before and after it in a range.
    async fn write_with(
        &self,
        io: &Handle,
        request: &mut Request,
        part: Part,
        range: std::ops::Range<u64>,
        host: u64,
    ) -> Result<(), IoError> {
        let end = part.offset + part.len;
        let around = [
            self.old_content(io, range.start, part.offset - range.start, false).await?,
            self.old_content(io, end, range.end - end, false).await?,
        ];
        self.write_data(io, request, part, host, around).await
    }
}
