//! Images to be put on top of disks during a round, open before it begins.
//!
//! Their tables are in memory, their clusters on a `null-co` with the disks' latency; a cluster is a guest's block, so
//! that no write has to copy the rest of one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;
use tidemark_benches::monitor::Monitor;

/// Images of each disk, at most.
pub const MOST: usize = 9;
/// Where there is room in memory.
const MEMORY: &str = "/dev/shm";

/// The files.
pub struct Overlays(TempDir);

impl Overlays {
    /// Makes and opens them for these disks of `size` bytes.
    ///
    /// # Errors
    /// There is no room; what the daemon answers.
    pub fn open(monitor: &mut Monitor, disks: &[&str], size: u64, latency: Duration) -> Result<Overlays> {
        let overlays = Overlays(tempfile::tempdir_in(MEMORY).context("images are kept in memory")?);
        let dir = overlays.0.path();
        create(dir, size)?;
        for (number, disk) in (0..MOST).flat_map(|number| (0..disks.len()).map(move |disk| (number, disk))) {
            let name = name(number, disk);
            std::fs::copy(dir.join("image"), dir.join(&name))?;
            let latency = u64::try_from(latency.as_nanos())?;
            monitor.execute(
                "blockdev-add",
                json!({
                    "driver": "qcow2", "node-name": name, "backing": null,
                    "file": { "driver": "file", "filename": dir.join(&name) },
                    "data-file": { "driver": "null-co", "size": size, "latency-ns": latency },
                }),
            )?;
        }
        Ok(overlays)
    }
}

/// The name of an image's node.
pub fn name(number: usize, disk: usize) -> String {
    format!("o{number}-{disk}")
}

fn create(dir: &Path, size: u64) -> Result<()> {
    let options = "cluster_size=4096,data_file=data";
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-o", options, "image"]).arg(size.to_string());
    ensure!(command.current_dir(dir).status()?.success(), "qemu-img makes no image");
    Ok(())
}
