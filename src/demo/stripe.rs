//! One queue's share of the disk and what each of its blocks should hold.
//!
//! Blocks of requests in flight are reserved: what they hold is undecided, so no other request may touch them.

use std::ops::Range;

use anyhow::{Result, bail};
use fastrand::Rng;

use super::block::{BLOCK_LEN, Identity};
use super::expect::Expect;

/// A contiguous part of the disk.
#[derive(Clone, Debug)]
pub struct Stripe {
    /// First byte on disk.
    pub offset: u64,
    blocks: Vec<Expect>,
    reserved: Vec<bool>,
}

/// Divides a disk of `size` bytes, a multiple of the block length, into as many stripes, which cover it all.
pub fn divide(size: u64, count: u16) -> Vec<Stripe> {
    let (block_len, count) = (BLOCK_LEN as u64, u64::from(count));
    let blocks = size / block_len;
    let bound = |index: u64| blocks * index / count;
    let range = |index: u64| bound(index)..bound(index + 1);
    (0..count).map(|index| Stripe::new(range(index).start * block_len, range(index).count())).collect()
}

impl Stripe {
    /// A stripe of zeroes.
    pub fn new(offset: u64, blocks: usize) -> Stripe {
        Stripe { offset, blocks: vec![Expect::Zeroes; blocks], reserved: vec![false; blocks] }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        (self.blocks.len() * BLOCK_LEN) as u64
    }

    /// Byte offset on disk of a block of the stripe.
    pub fn block_offset(&self, block: usize) -> u64 {
        self.offset + (block * BLOCK_LEN) as u64
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Whether no request has this block.
    pub fn is_free(&self, block: usize) -> bool {
        self.reserved.get(block) == Some(&false)
    }

    /// Reserves up to `max` neighbouring blocks that begin somewhere in `window`; `None` if the place picked is taken.
    pub fn reserve(&mut self, window: Range<usize>, max: usize, rng: &mut Rng) -> Option<Range<usize>> {
        let end = window.end.min(self.reserved.len());
        let first = if window.start < end { rng.usize(window.start..end) } else { return None };
        let within = self.reserved.get(first..end)?;
        let free = within.iter().take(max).take_while(|reserved| !**reserved).count();
        let blocks = first..first + free;
        (free > 0 && self.reserve_all(blocks.clone())).then_some(blocks)
    }

    /// Reserves these blocks; false if one of them is taken or there is none of this number.
    pub fn reserve_all(&mut self, blocks: Range<usize>) -> bool {
        match self.reserved.get_mut(blocks) {
            Some(reserved) if !reserved.contains(&true) => {
                reserved.fill(true);
                true
            }
            _ => false,
        }
    }

    /// Ends a reservation, the blocks now being `becomes` of what they were.
    pub fn settle(&mut self, blocks: Range<usize>, becomes: impl Fn(Expect) -> Expect) {
        let (expected, reserved) = (self.blocks.get_mut(blocks.clone()), self.reserved.get_mut(blocks));
        expected.into_iter().flatten().for_each(|block| *block = becomes(*block));
        reserved.into_iter().flatten().for_each(|reserved| *reserved = false);
    }

    /// Fills `data` with what generation `generation` of these blocks looks like.
    pub fn fill(&self, first: usize, generation: u64, seed: u64, data: &mut [u8]) {
        for (block, bytes) in (first..).zip(data.chunks_exact_mut(BLOCK_LEN)) {
            Identity { offset: self.block_offset(block), generation, seed }.fill(bytes);
        }
    }

    /// Compares what was read from block `first` on.
    ///
    /// # Errors
    /// Names the first block that differs and how.
    pub fn check(&self, first: usize, seed: u64, data: &[u8]) -> Result<()> {
        if !data.len().is_multiple_of(BLOCK_LEN) || first + data.len() / BLOCK_LEN > self.blocks.len() {
            bail!("{} bytes from block {first} on are not whole blocks of the stripe", data.len());
        }
        let expected = self.blocks.iter().enumerate().skip(first);
        for ((block, expect), bytes) in expected.zip(data.chunks_exact(BLOCK_LEN)) {
            let offset = self.block_offset(block);
            if let Err(mismatch) = expect.check(bytes, offset, seed) {
                bail!("block at offset {offset} should be {expect:?}, but {mismatch}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_cover_the_disk_without_gaps() {
        for count in [1, 3, 7, 64] {
            let stripes = divide(16 << 20, count);
            let ends = stripes.iter().fold(0, |end, stripe| {
                assert_eq!(stripe.offset, end);
                end + stripe.len()
            });
            assert_eq!((stripes.len(), ends), (usize::from(count), 16 << 20));
        }
    }

    #[test]
    fn reserved_blocks_are_not_handed_out_again() {
        let (mut stripe, mut rng) = (Stripe::new(0, 8), Rng::with_seed(1));
        let mut owners = [0; 8];
        while owners.contains(&0) {
            for block in stripe.reserve(0..8, 3, &mut rng).into_iter().flatten() {
                owners[block] += 1;
            }
        }
        assert_eq!(owners, [1; 8]);
        assert_eq!(stripe.reserve(0..8, 1, &mut rng), None);
        stripe.settle(0..8, |expect| expect);
        assert!(stripe.reserve(0..8, 1, &mut rng).is_some());
    }

    #[test]
    fn a_flipped_byte_in_what_was_read_fails_with_its_offset() {
        let mut stripe = Stripe::new(1 << 20, 8);
        let mut data = vec![0; 4 * BLOCK_LEN];
        stripe.fill(2, 5, 77, &mut data);
        stripe.settle(2..6, |_| Expect::Written(5));
        stripe.check(2, 77, &data).unwrap();
        data[3 * BLOCK_LEN + 1000] ^= 0x10;
        let error = stripe.check(2, 77, &data).unwrap_err().to_string();
        assert!(error.starts_with(&format!("block at offset {} ", (1 << 20) + 5 * BLOCK_LEN)), "{error}");
        assert!(stripe.check(0, 77, &data).is_err(), "data where zeroes should be");
    }
}
