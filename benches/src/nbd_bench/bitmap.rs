//! An image with a stored bitmap of which every sixteenth block is marked.
//!
//! QEMU makes the image and the bitmap, and finds room for all of its bits: one block is marked for each cluster of
//! them. Those clusters then get other bits, in place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::client::output;

/// Bytes of the disk.
pub const SIZE: u64 = 1 << 40;
/// Bytes of a block, and of a cluster.
pub const BLOCK: u64 = 64 << 10;
/// Its name.
pub const NAME: &str = "b";
/// How many extents are marked.
pub const MARKED: u64 = SIZE / BLOCK / 16;

/// Bytes of the disk that one cluster has the bits of.
const OF_CLUSTER: u64 = BLOCK * 8 * BLOCK;
/// The bitmaps extension (QEMU's docs/interop/qcow2.txt).
const EXTENSION: u32 = 0x2385_2875;
/// Where a table's entry has the cluster's offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Makes the image.
///
/// # Errors
/// If the programs of QEMU fail or the image is not as it should be.
pub fn make(path: &Path, qemu_img: &Path) -> Result<()> {
    let program = || Command::new(qemu_img);
    output(program().args(["create", "-q", "-f", "qcow2"]).arg(path).arg(SIZE.to_string()), "qemu-img")?;
    let granularity = BLOCK.to_string();
    output(program().args(["bitmap", "--add", "-g", &granularity]).arg(path).arg(NAME), "qemu-img")?;
    let mut mark = Command::new("qemu-io");
    for at in (0..SIZE).step_by(usize::try_from(OF_CLUSTER)?) {
        mark.args(["-c", &format!("write -q {at} 512")]);
    }
    output(mark.args(["-f", "qcow2"]).arg(path), "qemu-io")?;
    let image = File::options().read(true).write(true).open(path)?;
    let bits = [1, 0].repeat(usize::try_from(BLOCK / 2)?);
    for cluster in clusters(&image)? {
        image.write_all_at(&bits, cluster)?;
    }
    Ok(image.sync_all()?)
}

/// Where the bits are.
fn clusters(image: &File) -> Result<Vec<u64>> {
    let extension = extension(image)?;
    let directory = u64_at(image, extension + 16)?;
    let (table, entries) = (u64_at(image, directory)?, u32_at(image, directory + 8)?);
    anyhow::ensure!(u64::from(entries) == SIZE / OF_CLUSTER, "the bitmap has {entries} clusters");
    let offset = |index| Ok(u64_at(image, table + 8 * u64::from(index))? & OFFSET);
    let clusters: Vec<u64> = (0..entries).map(offset).collect::<Result<_>>()?;
    anyhow::ensure!(clusters.iter().all(|cluster| *cluster > 0), "a cluster of the bitmap is not there");
    Ok(clusters)
}

/// Where the data of the bitmaps extension begins.
fn extension(image: &File) -> Result<u64> {
    let mut at = u64::from(u32_at(image, 100)?);
    loop {
        let (kind, len) = (u32_at(image, at)?, u32_at(image, at + 4)?);
        match kind {
            EXTENSION => return Ok(at + 8),
            0 => anyhow::bail!("the image has no bitmaps"),
            _ => at += 8 + u64::from(len).next_multiple_of(8),
        }
    }
}

fn u64_at(image: &File, at: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    image.read_exact_at(&mut bytes, at).context("the image is too short")?;
    Ok(u64::from_be_bytes(bytes))
}

fn u32_at(image: &File, at: u64) -> Result<u32> {
    let mut bytes = [0; 4];
    image.read_exact_at(&mut bytes, at).context("the image is too short")?;
    Ok(u32::from_be_bytes(bytes))
}
