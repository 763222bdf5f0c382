//! The end of the demo: the whole disk, block by block, through the socket and from the file.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidemark_frontend::{Device, GuestBuf, Request, Status};

use super::block::BLOCK_LEN;
use super::stripe::Stripe;

/// Bytes per read.
const CHUNK_LEN: u32 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads all stripes as a guest, after a flush, on a fresh queue 0; returns the bytes verified.
///
/// # Errors
/// If a request fails or a block differs.
pub fn through_socket(device: &mut Device, stripes: &[Stripe], seed: u64) -> Result<u64> {
    device.stop_queue(0)?;
    let mut queue = device.create_queue(0)?;
    device.start_queue(0)?;
    let done = queue.run(&Request::Flush, PATIENCE)?;
    ensure!(done.status == Status::Ok, "the last flush ended with {:?}", done.status);
    let (memory, buf) = (device.memory(), device.arena().alloc(CHUNK_LEN, 4096)?);
    let read = |offset: u64, data: &mut [u8]| {
        let bufs = [GuestBuf { addr: buf.addr, len: u32::try_from(data.len())? }];
        let done = queue.run(&Request::Read { offset, data: &bufs }, PATIENCE)?;
        ensure!(done.status == Status::Ok, "reading at offset {offset} ended with {:?}", done.status);
        Ok(memory.read(buf.addr, data)?)
    };
    all(stripes, seed, read).context("reading the disk through the socket")
}

/// Reads all stripes from the file; returns the bytes verified.
///
/// # Errors
/// If the file cannot be read, has another length or a block differs.
pub fn in_file(disk: &Path, stripes: &[Stripe], seed: u64) -> Result<u64> {
    let context = || format!("reading {}", disk.display());
    let mut file = File::open(disk).with_context(context)?;
    let verified = all(stripes, seed, |_, data| Ok(file.read_exact(data)?)).with_context(context)?;
    let len = file.metadata().with_context(context)?.len();
    ensure!(len == verified, "{} has {len} bytes instead of {verified}", disk.display());
    Ok(verified)
}

/// Walks the stripes front to back.
fn all(stripes: &[Stripe], seed: u64, mut read: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<u64> {
    let mut chunk = vec![0; CHUNK_LEN as usize];
    let mut verified = 0;
    for stripe in stripes {
        let mut position = 0;
        while position < stripe.len() {
            let len = usize::try_from(stripe.len() - position)?.min(chunk.len());
            let data = chunk.get_mut(..len).context("chunk too short")?;
            read(stripe.offset + position, data)?;
            stripe.check(usize::try_from(position)? / BLOCK_LEN, seed, data)?;
            position += len as u64;
        }
        verified += position;
    }
    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::super::expect::Expect;
    use super::super::stripe::divide;
    use super::*;

    const SEED: u64 = 4711;

    /// A disk file with some blocks written, and the stripes that say so.
    fn disk() -> (tempfile::NamedTempFile, Vec<Stripe>) {
        let mut stripes = divide(4 << 20, 3);
        let mut bytes = vec![0; 4 << 20];
        for stripe in &mut stripes {
            let start = usize::try_from(stripe.offset).unwrap() + 7 * BLOCK_LEN;
            stripe.fill(7, 2, SEED, &mut bytes[start..start + 9 * BLOCK_LEN]);
            stripe.settle(7..16, |_| Expect::Written(2));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        (file, stripes)
    }

    #[test]
    fn a_disk_as_written_is_verified_to_its_last_byte() {
        let (file, stripes) = disk();
        assert_eq!(in_file(file.path(), &stripes, SEED).unwrap(), 4 << 20);
    }

    #[test]
    fn one_flipped_byte_anywhere_fails_the_verification() {
        let (file, stripes) = disk();
        let good = std::fs::read(file.path()).unwrap();
        for position in [0, 7 * BLOCK_LEN + 100, 15 * BLOCK_LEN, (2 << 20) + 3, (4 << 20) - 1] {
            let mut bad = good.clone();
            bad[position] ^= 1;
            std::fs::write(file.path(), bad).unwrap();
            let error = format!("{:#}", in_file(file.path(), &stripes, SEED).unwrap_err());
            let block = position / BLOCK_LEN * BLOCK_LEN;
            assert!(error.contains(&format!("block at offset {block} ")), "byte {position}: {error}");
        }
    }

    #[test]
    fn a_file_of_another_length_fails_the_verification() {
        let (file, stripes) = disk();
        let good = std::fs::read(file.path()).unwrap();
        std::fs::write(file.path(), &good[..good.len() - 1]).unwrap();
        assert!(in_file(file.path(), &stripes, SEED).is_err());
        std::fs::write(file.path(), [&good[..], &[0]].concat()).unwrap();
        assert!(in_file(file.path(), &stripes, SEED).is_err());
    }
}
