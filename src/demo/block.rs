//! A block that says what it should be: where it belongs, which write made it, in which run.
//!
//! Layout, little-endian: magic, offset, generation, seed, checksum, 8 bytes each, then filler that depends on all of
//! them. The checksum covers every other byte of the block; changing any one word of the block changes it, because
//! each step of it is a bijection. It knows nothing of requests.

use std::fmt;

/// Bytes of a block.
pub const BLOCK_LEN: usize = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"tidemark");
/// Words: magic, offset, generation, seed, checksum.
const HEADER_WORDS: usize = 5;
const CHECKSUM_WORD: usize = 4;

/// Which block, and which write of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Byte offset on disk.
    pub offset: u64,
    /// Number of the write, from 1.
    pub generation: u64,
    /// Seed of the run.
    pub seed: u64,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Checksum wrong: some byte is not what was written.
    Damaged,
    /// An intact block, but another one.
    Other(Identity),
    /// Zeroes where data should be.
    Zeroes,
    /// Data where zeroes should be.
    NotZeroes,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Damaged => f.write_str("its checksum is wrong"),
            Mismatch::Other(is) => {
                write!(f, "it holds offset {}, generation {}, seed {}", is.offset, is.generation, is.seed)
            }
            Mismatch::Zeroes => f.write_str("it is zero"),
            Mismatch::NotZeroes => f.write_str("it should be zero"),
        }
    }
}

impl Identity {
    /// Fills a block.
    pub fn fill(&self, block: &mut [u8]) {
        let mut state = self.offset ^ self.generation.rotate_left(40) ^ self.seed;
        for (index, word) in block.chunks_exact_mut(8).enumerate() {
            let value = match index {
                0 => MAGIC,
                1 => self.offset,
                2 => self.generation,
                3 => self.seed,
                CHECKSUM_WORD => 0,
                _ => {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    state ^ (state >> 29)
                }
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        let sum = checksum(block);
        if let Some(word) = block.chunks_exact_mut(8).nth(CHECKSUM_WORD) {
            word.copy_from_slice(&sum.to_le_bytes());
        }
    }

    /// Tells whether a block is exactly this one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, block: &[u8]) -> Result<(), Mismatch> {
        let mut words = words(block);
        let [magic, offset, generation, seed, sum] =
            std::array::from_fn::<u64, HEADER_WORDS, _>(|_| words.next().unwrap_or(0));
        if is_zero(block) {
            return Err(Mismatch::Zeroes);
        }
        if magic != MAGIC || sum != checksum(block) || block.len() != BLOCK_LEN {
            return Err(Mismatch::Damaged);
        }
        let is = Identity { offset, generation, seed };
        if is == *self { Ok(()) } else { Err(Mismatch::Other(is)) }
    }
}

/// Whether every byte is zero.
pub fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

fn words(block: &[u8]) -> impl Iterator<Item = u64> {
    block.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or([0; 8])))
}

fn checksum(block: &[u8]) -> u64 {
    let covered = words(block).enumerate().filter(|(index, _)| *index != CHECKSUM_WORD);
    covered
        .fold(0xcbf2_9ce4_8422_2325, |sum, (_, word)| (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { offset: 81920, generation: 7, seed: 42 };

    fn block() -> Vec<u8> {
        let mut block = vec![0xff; BLOCK_LEN];
        IDENTITY.fill(&mut block);
        block
    }

    #[test]
    fn a_block_as_written_is_accepted() {
        assert_eq!(IDENTITY.check(&block()), Ok(()));
    }

    #[test]
    fn every_flipped_bit_of_every_byte_is_noticed() {
        let mut block = block();
        for position in 0..BLOCK_LEN {
            for bit in 0..8 {
                block[position] ^= 1 << bit;
                assert!(IDENTITY.check(&block).is_err(), "bit {bit} of byte {position}");
                block[position] ^= 1 << bit;
            }
        }
        assert_eq!(IDENTITY.check(&block), Ok(()));
    }

    #[test]
    fn a_block_of_another_place_time_or_run_is_named() {
        for other in [
            Identity { offset: 0, ..IDENTITY },
            Identity { generation: 6, ..IDENTITY },
            Identity { seed: 43, ..IDENTITY },
        ] {
            assert_eq!(other.check(&block()), Err(Mismatch::Other(IDENTITY)));
        }
    }

    #[test]
    fn zeroes_and_a_torn_block_are_not_the_block() {
        assert_eq!(IDENTITY.check(&[0; BLOCK_LEN]), Err(Mismatch::Zeroes));
        let (mut torn, mut old) = (block(), vec![0; BLOCK_LEN]);
        Identity { generation: 6, ..IDENTITY }.fill(&mut old);
        torn[2048..].copy_from_slice(&old[2048..]);
        assert_eq!(IDENTITY.check(&torn), Err(Mismatch::Damaged));
        assert_eq!(IDENTITY.check(&block()[..512]), Err(Mismatch::Damaged));
    }
}
