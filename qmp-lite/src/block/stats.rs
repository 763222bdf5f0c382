//! Counters of exports and nodes.
//!
//! Knows what exports count. A node's counters are those of the exports that serve it directly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemark_backend::export::ExportInfo;
use tidemark_backend::export::vhost::Totals;
use tidemark_backend::node::{Driver, Node};

use crate::schema::{qapi_enum, qapi_struct, qapi_union};

qapi_struct! {
    /// The counters of an export or a node.
    pub struct BlockStats "BlockStats" {
        /// The export's id.
        "device" device: Option<String>,
        /// The node's name.
        "node-name" node_name: Option<String>,
        /// The counters.
        "stats" stats: BlockDeviceStats,
        /// What only this driver counts.
        "driver-specific" driver_specific: Option<BlockStatsSpecific>,
        /// The counters of the node below, called parent by QEMU.
        "parent" parent: Option<Box<BlockStats>>,
        /// The counters of the node that shows where an export's image has nothing.
        "backing" backing: Option<Box<BlockStats>>,
    }
}

qapi_struct! {
    /// Counters. Times are the sums of all requests' durations. What this program does not have
    /// (zone appends, merged requests, rejected requests, intervals) is 0 or empty.
    pub struct BlockDeviceStats "BlockDeviceStats" {
        /// Bytes read.
        "rd_bytes" rd_bytes: u64,
        /// Bytes written.
        "wr_bytes" wr_bytes: u64,
        /// Always 0.
        "zone_append_bytes" zone_append_bytes: u64,
        /// Bytes discarded.
        "unmap_bytes" unmap_bytes: u64,
        /// Reads that succeeded.
        "rd_operations" rd_operations: u64,
        /// Writes and write-zeroes that succeeded.
        "wr_operations" wr_operations: u64,
        /// Always 0.
        "zone_append_operations" zone_append_operations: u64,
        /// Flushes that succeeded.
        "flush_operations" flush_operations: u64,
        /// Discards that succeeded.
        "unmap_operations" unmap_operations: u64,
        /// Nanoseconds spent on reads.
        "rd_total_time_ns" rd_total_time_ns: u64,
        /// Nanoseconds spent on writes.
        "wr_total_time_ns" wr_total_time_ns: u64,
        /// Always 0.
        "zone_append_total_time_ns" zone_append_total_time_ns: u64,
        /// Nanoseconds spent on flushes.
        "flush_total_time_ns" flush_total_time_ns: u64,
        /// Nanoseconds spent on discards.
        "unmap_total_time_ns" unmap_total_time_ns: u64,
        /// Always 0.
        "wr_highest_offset" wr_highest_offset: u64,
        /// Always 0.
        "rd_merged" rd_merged: u64,
        /// Always 0.
        "wr_merged" wr_merged: u64,
        /// Always 0.
        "zone_append_merged" zone_append_merged: u64,
        /// Always 0.
        "unmap_merged" unmap_merged: u64,
        /// Reads that failed.
        "failed_rd_operations" failed_rd_operations: u64,
        /// Writes and write-zeroes that failed.
        "failed_wr_operations" failed_wr_operations: u64,
        /// Always 0.
        "failed_zone_append_operations" failed_zone_append_operations: u64,
        /// Flushes that failed.
        "failed_flush_operations" failed_flush_operations: u64,
        /// Discards that failed.
        "failed_unmap_operations" failed_unmap_operations: u64,
        /// Always 0.
        "invalid_rd_operations" invalid_rd_operations: u64,
        /// Always 0.
        "invalid_wr_operations" invalid_wr_operations: u64,
        /// Always 0.
        "invalid_zone_append_operations" invalid_zone_append_operations: u64,
        /// Always 0.
        "invalid_flush_operations" invalid_flush_operations: u64,
        /// Always 0.
        "invalid_unmap_operations" invalid_unmap_operations: u64,
        /// Whether rejected requests are counted. Always false.
        "account_invalid" account_invalid: bool,
        /// Whether failed requests count towards times. Always false.
        "account_failed" account_failed: bool,
        /// Always empty.
        "timed_stats" timed_stats: Vec<BlockDeviceTimedStats>,
    }
}

qapi_struct! {
    /// Statistics of an interval. There are none.
    pub struct BlockDeviceTimedStats "BlockDeviceTimedStats" {}
}

qapi_union! {
    /// What only one driver counts.
    pub struct BlockStatsSpecific "BlockStatsSpecific" {
        /// The driver.
        "driver" driver: BlockStatsSpecificDriver,
    }
    /// The counters of the driver.
    pub enum BlockStatsSpecificData by "driver" driver: BlockStatsSpecificDriver {
        /// `file`
        File(BlockStatsSpecificFile),
        /// `host_device`
        HostDevice(BlockStatsSpecificFile),
    }
}

qapi_enum! {
    /// Drivers with counters of their own.
    pub enum BlockStatsSpecificDriver "BlockStatsSpecificDriver" {
        /// Plain files.
        File = "file",
        /// Block devices.
        HostDevice = "host_device",
    }
}

qapi_struct! {
    /// What came of discards.
    pub struct BlockStatsSpecificFile "BlockStatsSpecificFile" {
        /// Those that the storage has taken.
        "discard-nb-ok" discard_nb_ok: u64,
        /// Those that it has not.
        "discard-nb-failed" discard_nb_failed: u64,
        /// Bytes that were given back.
        "discard-bytes-ok" discard_bytes_ok: u64,
    }
}

impl BlockStatsSpecific {
    fn of(node: &Node) -> Option<Self> {
        let Driver::File(file) = node.driver() else { return None };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let discards = file.discards();
        let counters = BlockStatsSpecificFile {
            discard_nb_ok: count(&discards.done),
            discard_nb_failed: count(&discards.failed),
            discard_bytes_ok: count(&discards.bytes),
        };
        let (driver, branch) = match file.is_device() {
            false => (BlockStatsSpecificDriver::File, BlockStatsSpecificData::File(counters)),
            true => (BlockStatsSpecificDriver::HostDevice, BlockStatsSpecificData::HostDevice(counters)),
        };
        Some(Self { driver, branch })
    }
}

/// An export's counters.
pub(super) fn of_export(export: &ExportInfo) -> BlockStats {
    BlockStats {
        device: Some(export.id.clone()),
        node_name: Some(export.node.name().to_owned()),
        stats: counters(&[export.stats]),
        driver_specific: BlockStatsSpecific::of(&export.node),
        parent: None,
        backing: backing_of(&export.node),
    }
}

/// The counters of a node and those below it.
pub(super) fn of_node(node: &Arc<Node>, exports: &[ExportInfo]) -> BlockStats {
    let served = exports.iter().filter(|export| Arc::ptr_eq(&export.node, node));
    let totals: Vec<_> = served.map(|export| export.stats).collect();
    BlockStats {
        device: None,
        node_name: Some(node.name().to_owned()),
        stats: counters(&totals),
        driver_specific: BlockStatsSpecific::of(node),
        parent: node.child().map(|child| Box::new(of_node(&child, exports))),
        backing: None,
    }
}

/// The images below an export's, each with what is below it. No export serves them here.
fn backing_of(node: &Node) -> Option<Box<BlockStats>> {
    let Driver::Qcow2(image) = node.driver() else { return None };
    let backing = image.backing()?;
    Some(Box::new(BlockStats { backing: backing_of(&backing), ..of_node(&backing, &[]) }))
}

fn counters(totals: &[Totals]) -> BlockDeviceStats {
    let sum = |pick: fn(&Totals) -> u64| totals.iter().map(pick).fold(0, u64::wrapping_add);
    BlockDeviceStats {
        rd_bytes: sum(|totals| totals.read.bytes),
        wr_bytes: sum(|totals| totals.write.bytes),
        zone_append_bytes: 0,
        unmap_bytes: sum(|totals| totals.discard.bytes),
        rd_operations: sum(|totals| totals.read.operations),
        wr_operations: sum(|totals| totals.write.operations),
        zone_append_operations: 0,
        flush_operations: sum(|totals| totals.flush.operations),
        unmap_operations: sum(|totals| totals.discard.operations),
        rd_total_time_ns: sum(|totals| totals.read.nanoseconds),
        wr_total_time_ns: sum(|totals| totals.write.nanoseconds),
        zone_append_total_time_ns: 0,
        flush_total_time_ns: sum(|totals| totals.flush.nanoseconds),
        unmap_total_time_ns: sum(|totals| totals.discard.nanoseconds),
        wr_highest_offset: 0,
        rd_merged: 0,
        wr_merged: 0,
        zone_append_merged: 0,
        unmap_merged: 0,
        failed_rd_operations: sum(|totals| totals.read.failed),
        failed_wr_operations: sum(|totals| totals.write.failed),
        failed_zone_append_operations: 0,
        failed_flush_operations: sum(|totals| totals.flush.failed),
        failed_unmap_operations: sum(|totals| totals.discard.failed),
        invalid_rd_operations: 0,
        invalid_wr_operations: 0,
        invalid_zone_append_operations: 0,
        invalid_flush_operations: 0,
        invalid_unmap_operations: 0,
        account_invalid: false,
        account_failed: false,
        timed_stats: Vec::new(),
    }
}
