//! References by cluster, as they are found.

use super::CheckReport;
use crate::io::byte_count;
use crate::node::qcow2::entry::Geometry;
use std::collections::BTreeMap;

/// Clusters whose counts are kept together.
const PAGE: u64 = 4096;

/// Pages of counts at most: half a GiB. An image in use by guests that takes more has 8 TiB, in clusters of 64 KiB.
const MOST_PAGES: usize = 32768;

/// How many references there are to each cluster of a file.
pub(in crate::node::qcow2::refcount) struct References {
    geometry: Geometry,
    file_length: u64,
    pages: BTreeMap<u64, Box<[u32]>>,
    /// Something refers to what is past the end of the file.
    past_end: bool,
}

impl References {
    pub(super) fn new(geometry: Geometry, file_length: u64) -> Self {
        Self { geometry, file_length, pages: BTreeMap::new(), past_end: false }
    }

    /// References to a cluster, as far as they can be counted.
    pub(in crate::node::qcow2::refcount) fn get(&self, cluster: u64) -> u64 {
        self.claims(cluster).min(self.most())
    }

    /// Whether something refers to clusters past the end of the file, which are not counted.
    pub(super) fn leave_out(&self) -> bool {
        self.past_end
    }

    /// References to a cluster, however many.
    pub(super) fn claims(&self, cluster: u64) -> u64 {
        let page = self.pages.get(&(cluster / PAGE));
        page.and_then(|page| page.get(byte_count(cluster % PAGE))).copied().map_or(0, u64::from)
    }

    /// All clusters that something refers to, in order, and how often.
    pub(in crate::node::qcow2::refcount) fn all(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.pages.iter().flat_map(|(page, counts)| (page * PAGE..).zip(counts.iter()));
        counts.filter(|(_, count)| **count > 0).map(|(cluster, count)| (cluster, u64::from(*count).min(self.most())))
    }

    /// Clusters of this range that something refers to, in order.
    pub(super) fn within(&self, clusters: std::ops::Range<u64>) -> Vec<u64> {
        let pages = self.pages.range(clusters.start / PAGE..=clusters.end / PAGE);
        let all = pages.flat_map(|(page, counts)| counts.iter().zip(page * PAGE..));
        all.filter(|(count, cluster)| **count > 0 && clusters.contains(cluster)).map(|(_, cluster)| cluster).collect()
    }

    /// One more reference to each cluster that these bytes are in.
    pub(super) fn add(&mut self, offset: u64, len: u64, report: &mut CheckReport) {
        let cluster = self.geometry.cluster();
        let end = offset.saturating_add(len);
        if len == 0 {
            return;
        }
        if end >= self.file_length.saturating_add(cluster) {
            self.past_end = true;
            return report.corruption(|| {
                let region =
                    "ERROR: counting reference for region exceeding the end of the file by one cluster or more";
                format!("{region}: offset {offset:#x} size {len:#x}")
            });
        }
        let bits = self.geometry.cluster_bits;
        let most = self.most();
        for number in offset >> bits..=(end - 1) >> bits {
            if self.pages.len() >= MOST_PAGES && !self.pages.contains_key(&(number / PAGE)) {
                report.check_errors += 1;
                return report
                    .say(|| "ERROR there is not enough memory for the references of so large an image".to_owned());
            }
            let page = self.pages.entry(number / PAGE).or_insert_with(|| vec![0; byte_count(PAGE)].into());
            let Some(count) = page.get_mut(byte_count(number % PAGE)) else { continue };
            if u64::from(*count) >= most {
                report.corruption(|| format!("ERROR: overflow cluster offset={:#x}", number << bits));
            }
            *count = count.saturating_add(1);
        }
    }

    /// So many references to a cluster are none.
    pub(super) fn remove(&mut self, cluster: u64, times: u32) {
        let page = self.pages.get_mut(&(cluster / PAGE));
        let count = page.and_then(|page| page.get_mut(byte_count(cluster % PAGE)));
        count.into_iter().for_each(|count| *count = count.saturating_sub(times));
    }

    /// The largest count that the image has room for.
    fn most(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.geometry.refcount_order))
    }
}
