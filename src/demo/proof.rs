//! Whether restore points of several disks show one moment, by nothing but the guest's own record.
//!
//! Two demands. Legal: a block holds what was there at some time between the command and its reply, that is, any
//! generation from the last one completed before the command was sent to the last one submitted before the reply.
//! Together: there is one moment, the same for all blocks of all queues and disks, by which all that is in the restore
//! points had been submitted and before which nothing that is missing had been completed. So no write is there without
//! another one that was done before it began.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::block::BLOCK_LEN;
use super::expect::Expect;
use super::history::{History, NEVER};

/// Bytes per read.
const CHUNK_LEN: usize = 1 << 20;

/// When a restore point was taken, in ticks of the guest's clock.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Before the command was sent.
    pub sent: u64,
    /// After its reply had come.
    pub replied: u64,
}

/// The record of one queue: where its part of the disk lies, and what happened there.
pub struct Record<'a> {
    /// First byte on disk.
    pub offset: u64,
    /// Blocks.
    pub blocks: usize,
    /// What was changed.
    pub history: &'a History,
}

/// What was found in the restore points of one moment.
pub struct Proof {
    /// A tick that divides what is in from what is not.
    pub moment: u64,
    /// Bytes read and found right.
    pub verified: u64,
    /// The generation of each block, disk after disk.
    found: Vec<u64>,
}

impl Proof {
    /// Bytes of the blocks that were changed at all.
    pub fn written(&self) -> u64 {
        self.found.iter().filter(|generation| **generation != 0).count() as u64 * BLOCK_LEN as u64
    }

    /// Bytes of the blocks that hold another generation than in an earlier restore point.
    pub fn changed_since(&self, before: &Proof) -> u64 {
        let changed = self.found.iter().zip(&before.found).filter(|(now, then)| now != then);
        changed.count() as u64 * BLOCK_LEN as u64
    }
}

/// Verifies the restore points of one moment: of each disk its file and the records of its queues in their order.
///
/// # Errors
/// If a file cannot be read or has another length, a block holds what it cannot have held, or no moment fits all.
pub fn prove(disks: &[(&Path, Vec<Record<'_>>)], moment: Moment, seed: u64) -> Result<Proof> {
    let mut reading = Reading { moment, seed, last_in: None, first_out: None, found: Vec::new(), verified: 0 };
    for (path, records) in disks {
        let context = || format!("restore point {}", path.display());
        let mut file = File::open(path).with_context(context)?;
        for record in records {
            reading.stripe(&mut file, path, record).with_context(context)?;
        }
        let len: u64 = records.iter().map(|record| (record.blocks * BLOCK_LEN) as u64).sum();
        let is = file.metadata().with_context(context)?.len();
        ensure!(is == len, "{} has {is} bytes instead of {len}", path.display());
    }
    reading.conclude()
}

/// A state that a block may be found in.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    expect: Expect,
    generation: u64,
    /// When it may have come at the earliest.
    begin: u64,
    /// When it was gone at the latest.
    end: u64,
}

/// The candidates of each block of a stripe, oldest first.
fn candidates(record: &Record<'_>, moment: Moment) -> Vec<Vec<Candidate>> {
    let initial = Candidate { expect: Expect::Zeroes, generation: 0, begin: 0, end: NEVER };
    let mut blocks = vec![vec![initial]; record.blocks];
    for (generation, change) in record.history.changes() {
        for block in blocks.get_mut(change.blocks()).into_iter().flatten() {
            let Some(last) = block.last_mut() else { continue };
            if last.end != NEVER {
                // Later than the first change after the moment: of no interest.
                continue;
            }
            let expect = last.expect.after(change.effect, generation);
            last.end = change.completed;
            if change.submitted > moment.replied {
                continue;
            }
            if change.completed < moment.sent {
                block.clear();
            }
            block.push(Candidate { expect, generation, begin: change.submitted, end: NEVER });
        }
    }
    blocks
}

/// A block that decides when the moment was.
struct Witness {
    tick: u64,
    place: String,
    generation: u64,
}

struct Reading {
    moment: Moment,
    seed: u64,
    /// The latest submission of what is in.
    last_in: Option<Witness>,
    /// The earliest completion of what is not.
    first_out: Option<Witness>,
    found: Vec<u64>,
    verified: u64,
}

impl Reading {
    fn stripe(&mut self, file: &mut File, path: &Path, record: &Record<'_>) -> Result<()> {
        let mut chunk = vec![0; CHUNK_LEN];
        let candidates = candidates(record, self.moment);
        let mut offset = record.offset;
        for candidates in candidates.chunks(CHUNK_LEN / BLOCK_LEN) {
            let data = chunk.get_mut(..candidates.len() * BLOCK_LEN).context("chunk too short")?;
            file.read_exact(data)?;
            for (candidates, block) in candidates.iter().zip(data.chunks_exact(BLOCK_LEN)) {
                self.block(candidates, block, offset, path)?;
                offset += BLOCK_LEN as u64;
            }
            self.verified += data.len() as u64;
        }
        Ok(())
    }

    /// A block that may be any of several, as zeroes may be, stands for all the time that it may have been one of them.
    fn block(&mut self, candidates: &[Candidate], block: &[u8], offset: u64, path: &Path) -> Result<()> {
        let mut fitting = candidates.iter().filter(|it| it.expect.check(block, offset, self.seed).is_ok());
        let Some(first) = fitting.next() else {
            let last = candidates.last().context("a block without any state")?;
            let expected: Vec<_> = candidates.iter().map(|it| it.expect).collect();
            match last.expect.check(block, offset, self.seed) {
                Err(mismatch) => bail!("block at offset {offset} may be any of {expected:?}, but {mismatch}"),
                Ok(()) => bail!("block at offset {offset} fits and does not fit"),
            }
        };
        let last = fitting.next_back().unwrap_or(first);
        let witness =
            |tick, generation| Witness { tick, place: format!("offset {offset} of {}", path.display()), generation };
        if self.last_in.as_ref().is_none_or(|known| known.tick < first.begin) {
            self.last_in = Some(witness(first.begin, first.generation));
        }
        if self.first_out.as_ref().is_none_or(|known| known.tick > last.end) {
            self.first_out = Some(witness(last.end, last.generation));
        }
        self.found.push(first.generation);
        Ok(())
    }

    fn conclude(self) -> Result<Proof> {
        let (Some(last_in), Some(first_out)) = (self.last_in, self.first_out) else {
            bail!("a restore point without blocks");
        };
        ensure!(
            last_in.tick < first_out.tick,
            "no moment fits all blocks: generation {} at {} is there, but not the one after generation {} at {}, \
             which was done before the other began",
            last_in.generation,
            last_in.place,
            first_out.generation,
            first_out.place
        );
        let moment = last_in.tick.max(self.moment.sent);
        Ok(Proof { moment, verified: self.verified, found: self.found })
    }
}

#[cfg(test)]
mod tests;
