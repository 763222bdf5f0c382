//! What a backup asks of a daemon over QMP: its disks with their bitmaps, the transaction that is the point in time, the
//! jobs, and the removal of what an earlier run has left behind.
//!
//! Knows the commands that `tidemark` and `qemu-storage-daemon` have in common; knows no directory.

use super::plan::{BitmapState, DiskState};
use crate::ctl::daemon::{Daemon, Job, list, text};
use anyhow::{Context as _, Result, bail};
use qmp_lite::client::ClientError;
use qmp_lite::wire::Value;
use serde::Serialize;
use std::time::Duration;

/// How often jobs are looked at.
pub const TICK: Duration = Duration::from_millis(50);

/// How long a guest's write waits for storage that hangs: less than its driver does.
const PATIENCE_SECONDS: u32 = 10;

/// An action of a transaction.
#[derive(Debug, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Action {
    /// A bitmap that records from the point in time on.
    BlockDirtyBitmapAdd {
        /// The disk.
        node: String,
        /// Its name.
        name: String,
        /// Bytes of a bit.
        granularity: u64,
        /// Whether the image keeps it.
        persistent: bool,
    },
    /// A copy of the disk at the point in time.
    BlockdevBackup {
        /// The job.
        job_id: String,
        /// The disk.
        device: String,
        /// Where to.
        target: String,
        /// `full` or `bitmap`.
        sync: &'static str,
        /// What is copied.
        #[serde(skip_serializing_if = "Option::is_none")]
        bitmap: Option<String>,
        /// `never`: it keeps all it marks, whatever becomes of the job.
        #[serde(skip_serializing_if = "Option::is_none")]
        bitmap_mode: Option<&'static str>,
        /// The job stays until its result was seen.
        auto_dismiss: bool,
        /// What becomes of a guest's write if what it overwrites cannot be copied.
        #[serde(skip_serializing_if = "Option::is_none")]
        x_on_cbw_error: Option<&'static str>,
        /// Seconds after which that is so.
        #[serde(skip_serializing_if = "Option::is_none")]
        x_cbw_timeout: Option<u32>,
    },
}

#[derive(Serialize)]
struct Transaction {
    actions: Vec<Action>,
}

/// An image as a node of the daemon.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ImageNode<'a> {
    driver: &'static str,
    node_name: &'a str,
    read_only: bool,
    discard: &'static str,
    detect_zeroes: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backing: Option<Nothing>,
    file: FileNode<'a>,
}

/// `null`.
#[derive(Serialize)]
struct Nothing;

#[derive(Serialize)]
struct FileNode<'a> {
    driver: &'static str,
    filename: &'a str,
    discard: &'static str,
}

#[derive(Serialize)]
struct OfNode<'a> {
    node: &'a str,
    name: &'a str,
}

/// The disks that these names mean, or all that are exported: names of nodes, or ids of exports.
///
/// # Errors
/// There is none of such a name; the daemon exports nothing.
pub fn disks(daemon: &mut Daemon, names: &[String]) -> Result<Vec<DiskState>> {
    let mut nodes: Vec<String> = Vec::new();
    if names.is_empty() {
        let exports = daemon.execute("query-block-exports", &[])?;
        nodes.extend(list(&exports).filter_map(|export| text(export, "node-name")).map(str::to_owned));
        if nodes.is_empty() {
            bail!("the daemon exports no disk; say with --node which of its nodes are backed up");
        }
    }
    for name in names {
        nodes.push(daemon.disk(name)?.node);
    }
    let mut seen = std::collections::HashSet::new();
    nodes.retain(|node| seen.insert(node.clone()));
    let all = daemon.execute("query-named-block-nodes", &["flat=on".into()])?;
    let state = |name: &String| {
        let found = list(&all).find(|node| text(node, "node-name") == Some(name));
        found.and_then(disk_state).with_context(|| format!("the daemon does not say what node '{name}' is"))
    };
    nodes.iter().map(state).collect()
}

fn disk_state(node: &Value) -> Option<DiskState> {
    let image = &node["image"];
    let keeps = text(node, "drv") == Some("qcow2")
        && node["ro"].as_bool() == Some(false)
        && text(&image["format-specific"]["data"], "compat") == Some("1.1");
    Some(DiskState {
        node: text(node, "node-name")?.to_owned(),
        size: image["virtual-size"].as_u64()?,
        allocated: image["actual-size"].as_u64(),
        keeps_bitmaps: keeps,
        bitmaps: list(&node["dirty-bitmaps"]).filter_map(bitmap_state).collect(),
    })
}

fn bitmap_state(bitmap: &Value) -> Option<BitmapState> {
    let flag = |name: &str| bitmap[name].as_bool().unwrap_or(false);
    Some(BitmapState {
        name: text(bitmap, "name")?.to_owned(),
        granularity: bitmap["granularity"].as_u64()?,
        count: bitmap["count"].as_u64()?,
        recording: flag("recording"),
        busy: flag("busy"),
        inconsistent: flag("inconsistent"),
        change_id: text(bitmap, "x-change-id").map(str::to_owned),
    })
}

/// Opens an image as a node: to be written, by itself, or to be read, with what is below it.
///
/// # Errors
/// The daemon's refusal, or that it is gone.
pub fn add_image(daemon: &mut Daemon, name: &str, filename: &str, writable: bool) -> Result<(), ClientError> {
    let node = ImageNode {
        driver: "qcow2",
        node_name: name,
        read_only: !writable,
        discard: "unmap",
        detect_zeroes: if writable { "unmap" } else { "off" },
        backing: writable.then_some(Nothing),
        file: FileNode { driver: "file", filename, discard: "unmap" },
    };
    daemon.command("blockdev-add", &node).map(drop)
}

/// What a job is told so that a guest does not fail or wait for long because of the backup's storage: policy and seconds,
/// as far as the daemon knows such.
pub fn spare_guests(daemon: &Daemon) -> (Option<&'static str>, Option<u32>) {
    let knows = |argument| daemon.takes("blockdev-backup", argument);
    let policy = knows("x-on-cbw-error").then_some("break-snapshot");
    (policy, knows("x-cbw-timeout").then_some(PATIENCE_SECONDS))
}

/// Does all of this at one point in time, or nothing.
///
/// # Errors
/// The daemon's refusal, or that it is gone.
pub fn transact(daemon: &mut Daemon, actions: Vec<Action>) -> Result<(), ClientError> {
    daemon.command("transaction", &Transaction { actions }).map(drop)
}

/// Removes bitmaps of this prefix from a disk, all but one.
///
/// # Errors
/// The daemon is gone. What it refuses to remove costs memory, and the next run tries again.
pub fn remove_bitmaps(
    daemon: &mut Daemon,
    disk: &DiskState,
    prefix: &str,
    but: Option<&str>,
) -> Result<(), ClientError> {
    let ours = disk.bitmaps.iter().map(|bitmap| bitmap.name.as_str());
    for name in ours.filter(|name| name.starts_with(prefix) && Some(*name) != but) {
        match daemon.command("block-dirty-bitmap-remove", &OfNode { node: &disk.node, name }) {
            Err(ClientError::Refused { desc, .. }) => {
                eprintln!("tidemark: warning: bitmap '{name}' of '{}' is of no use and stays: {desc}", disk.node);
            }
            done => done.map(drop)?,
        }
    }
    Ok(())
}

/// Ends all jobs of this prefix, without their results, and closes all nodes of it.
///
/// # Errors
/// The daemon does not let go of them, or is gone.
pub fn clean(daemon: &mut Daemon, prefix: &str) -> Result<()> {
    for id in ids(daemon, prefix)? {
        end_job(daemon, &id)?;
    }
    let nodes = daemon.execute("query-named-block-nodes", &["flat=on".into()])?;
    for name in list(&nodes).filter_map(|node| text(node, "node-name")).filter(|name| name.starts_with(prefix)) {
        daemon.delete_node(name).with_context(|| format!("the daemon does not let go of node '{name}'"))?;
    }
    Ok(())
}

fn ids(daemon: &mut Daemon, prefix: &str) -> Result<Vec<String>> {
    let jobs = daemon.execute("query-jobs", &[])?;
    let ids = list(&jobs).filter_map(|job| text(job, "id")).filter(|id| id.starts_with(prefix));
    Ok(ids.map(str::to_owned).collect())
}

/// Cancels a job if it has no result yet, waits for its end and forgets it.
fn end_job(daemon: &mut Daemon, id: &str) -> Result<()> {
    let mut cancelled = false;
    while let Some(job) = daemon.job(id)? {
        if job.is_concluded() {
            return Ok(daemon.dismiss(id)?);
        }
        if !cancelled {
            match daemon.execute("job-cancel", &[format!("id={id}")]) {
                // It is ending by itself.
                Err(ClientError::Refused { .. }) => {}
                done => cancelled = done.map(|_| true)?,
            }
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// How far jobs are together, and the first error.
///
/// # Errors
/// The daemon is gone, or somebody else has dismissed one of them.
pub fn progress(daemon: &mut Daemon, jobs: &[String]) -> Result<Job> {
    let mut all = Job { status: "concluded".to_owned(), done: 0, total: 0, error: None };
    for id in jobs {
        let job = daemon.job(id)?.context("somebody else has dismissed the job")?;
        all.done += job.done;
        all.total += job.total;
        if !job.is_concluded() {
            all.status = job.status;
        }
        all.error = all.error.or(job.error);
    }
    Ok(all)
}
