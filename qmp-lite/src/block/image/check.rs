//! What a check of an image has found.

use tidemark_backend::graph::Inspected;
use tidemark_backend::node::qcow2::refcount::check::CheckReport;

use super::inspected::lines;
use crate::schema::{Qapi, qapi_struct};

qapi_struct! {
    /// What a check of an image has found. Counts of nothing are absent.
    pub struct ImageCheck "ImageCheck" {
        /// Where the last cluster in use ends.
        "image-end-offset" image_end_offset: Option<u64>,
        /// Clusters of the guest's disk.
        "total-clusters" total_clusters: Option<u64>,
        /// Those with space in the file.
        "allocated-clusters" allocated_clusters: Option<u64>,
        /// Of these, those that do not follow the one before.
        "fragmented-clusters" fragmented_clusters: Option<u64>,
        /// Of these, compressed ones.
        "compressed-clusters" compressed_clusters: Option<u64>,
        /// Clusters that nothing refers to as often as is counted.
        "leaks" leaks: Option<u64>,
        /// What may destroy data.
        "corruptions" corruptions: Option<u64>,
        /// Those that were repaired.
        "leaks-fixed" leaks_fixed: Option<u64>,
        /// Those that were repaired.
        "corruptions-fixed" corruptions_fixed: Option<u64>,
        /// What could not be looked at.
        "check-errors" check_errors: u64,
        /// The image.
        "filename" filename: String,
        /// Its format.
        "format" format: String,
    }
}

impl ImageCheck {
    /// What a check of this image has found.
    pub fn new(image: &Inspected, report: &CheckReport) -> Self {
        let some = |count: u64| Some(count).filter(|count| *count > 0);
        Self {
            image_end_offset: some(report.image_end_offset),
            total_clusters: some(report.total_clusters),
            allocated_clusters: some(report.allocated_clusters),
            fragmented_clusters: some(report.fragmented_clusters),
            compressed_clusters: some(report.compressed_clusters),
            leaks: some(report.leaks),
            corruptions: some(report.corruptions),
            leaks_fixed: None,
            corruptions_fixed: None,
            check_errors: report.check_errors,
            filename: image.path().display().to_string(),
            format: "qcow2".to_owned(),
        }
    }

    /// As JSON, in lines.
    pub fn to_json(&self) -> String {
        lines(&self.encode())
    }
}
