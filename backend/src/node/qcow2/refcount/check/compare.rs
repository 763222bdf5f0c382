//! What was counted against what the file says.

use super::Check;
use crate::error::IoError;
use crate::io::byte_count;

/// Bits 9 to 55 of an entry: an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

impl Check<'_> {
    /// Counts the refcount table and its blocks, and looks whether they are where blocks can be.
    pub(super) async fn walk_refcount_table(&mut self) -> Result<(), IoError> {
        let (offset, geometry) = (self.parts.reftable_offset, self.parts.geometry);
        let bytes = u64::from(self.parts.reftable_clusters) << geometry.cluster_bits;
        self.refer(offset, bytes);
        let clusters = self.clusters();
        for (index, entry) in self.read_words(offset, bytes / 8).await?.into_iter().enumerate() {
            if entry == 0 {
                continue;
            }
            let cluster = entry >> geometry.cluster_bits;
            let wrong = match entry {
                _ if entry & 511 != 0 => format!("ERROR refcount table entry {index} has reserved bits set"),
                _ if geometry.in_cluster(entry) != 0 => {
                    format!("ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted")
                }
                _ if cluster >= clusters => format!("ERROR refcount block {index} is outside image"),
                _ => {
                    self.refer(entry, geometry.cluster());
                    *self.block_entries.entry(entry).or_default() += 1;
                    match self.references.get(cluster) {
                        1 => continue,
                        count => format!("ERROR refcount block {index} refcount={count}"),
                    }
                }
            };
            self.report.corruption(|| wrong);
        }
        Ok(())
    }

    /// Clusters of the file, and one more if what is in part past the end refers to it.
    pub(super) fn clusters(&self) -> u64 {
        let clusters = self.parts.geometry.clusters(self.store.node().length());
        clusters + u64::from(self.references.get(clusters) > 0)
    }

    /// Compares all clusters of the file, a region at a time.
    pub(super) async fn compare(&mut self) -> Result<(), IoError> {
        let geometry = self.parts.geometry;
        let end = self.clusters();
        let table = self.refcounts.state().table.clone();
        let mut last = None;
        let regions = (end.div_ceil(geometry.refcounts_per_block())).max(1);
        for region in 0..regions.min(table.len() as u64) {
            let first = region * geometry.refcounts_per_block();
            let clusters = first..end.min(first + geometry.refcounts_per_block());
            match table.get(byte_count(region)) {
                // Nothing is counted here.
                None | Some(0) => {
                    for cluster in self.references.within(clusters) {
                        self.compare_cluster(cluster, &mut last).await;
                    }
                }
                Some(_) => {
                    for cluster in clusters {
                        self.compare_cluster(cluster, &mut last).await;
                    }
                }
            }
        }
        let past_table = table.len() as u64 * geometry.refcounts_per_block();
        if past_table < end {
            for cluster in self.references.within(past_table..end) {
                self.compare_cluster(cluster, &mut last).await;
            }
        }
        self.report.image_end_offset = last.map_or(0, |cluster: u64| (cluster + 1) << geometry.cluster_bits);
        Ok(())
    }

    async fn compare_cluster(&mut self, cluster: u64, last: &mut Option<u64>) {
        let references = self.references.get(cluster);
        let count = match self.stored(cluster << self.parts.geometry.cluster_bits).await {
            Ok(count) => count,
            Err(error) => {
                self.report.check_errors += 1;
                return self.report.say(|| format!("Can't get refcount for cluster {cluster}: {error}"));
            }
        };
        if count > 0 || references > 0 {
            *last = Some(cluster);
        }
        if count < references {
            self.report.corruption(|| format!("ERROR cluster {cluster} refcount={count} reference={references}"));
        } else if count > references {
            self.report.leaks += 1;
            self.report.say(|| format!("Leaked cluster {cluster} refcount={count} reference={references}"));
        }
    }

    /// The count that the file has for the cluster at `host`: past its end it has zeroes.
    async fn stored(&self, host: u64) -> Result<u64, IoError> {
        let geometry = self.parts.geometry;
        let region = (host >> geometry.cluster_bits) / geometry.refcounts_per_block();
        let entry = self.refcounts.state().entry(byte_count(region));
        match geometry.in_cluster(entry) == 0 && entry >= self.store.node().length() {
            true => Ok(0),
            false => self.refcounts.get(self.io, host).await,
        }
    }

    /// Looks whether entries of the active tables tell rightly which clusters have a count of one.
    pub(super) async fn check_copied(&mut self, offset: u64, entries: u32) -> Result<(), IoError> {
        let geometry = self.parts.geometry;
        let table = self.read_words(offset, u64::from(entries)).await?;
        for (index, entry) in table.into_iter().enumerate().filter(|(_, entry)| entry & OFFSET != 0) {
            let Ok(count) = self.stored(entry & OFFSET).await else { continue };
            if (count == 1) != (entry & COPIED != 0) {
                self.report.corruption(|| {
                    format!("ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}")
                });
            }
            let words = self.read_words(entry & OFFSET, geometry.l2_words() as u64).await?;
            for word in geometry.entries(&words).filter(|word| *word != 0 && word & COMPRESSED == 0) {
                self.check_copied_data(word).await;
            }
        }
        Ok(())
    }

    async fn check_copied_data(&mut self, word: u64) {
        let host = word & OFFSET;
        let count = match self.parts.geometry.external_data {
            // They are not counted and nobody shares them.
            true => Ok(1),
            false if host == 0 => return,
            false => self.stored(host).await,
        };
        if let Ok(count) = count
            && (count == 1) != (word & COPIED != 0)
            && (host != 0 || word & COPIED != 0)
        {
            let text = "ERROR OFLAG_COPIED data cluster";
            self.report.corruption(|| format!("{text}: l2_entry={word:x} refcount={count}"));
        }
    }
}
