//! What one block of the disk should hold, request by request.

use super::block::{Identity, Mismatch, is_zero};
use super::history::Effect;

/// The expected contents of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Zeroes: never written, or written by write-zeroes.
    Zeroes,
    /// The block of this generation.
    Written(u64),
    /// Discarded since: zeroes or still that generation, both are allowed (virtio 1.2, 5.2.6.2).
    Discarded(u64),
}

impl Expect {
    /// After a change, the one of this generation.
    pub fn after(self, effect: Effect, generation: u64) -> Expect {
        match (effect, self) {
            (Effect::Write, _) => Expect::Written(generation),
            (Effect::Zeroes, _) => Expect::Zeroes,
            (Effect::Discard, Expect::Written(generation)) => Expect::Discarded(generation),
            (Effect::Discard, other) => other,
        }
    }

    /// Compares a block read from `offset`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(self, block: &[u8], offset: u64, seed: u64) -> Result<(), Mismatch> {
        match self {
            Expect::Zeroes if is_zero(block) => Ok(()),
            Expect::Zeroes => Err(Mismatch::NotZeroes),
            Expect::Written(generation) => Identity { offset, generation, seed }.check(block),
            Expect::Discarded(_) if is_zero(block) => Ok(()),
            Expect::Discarded(generation) => Identity { offset, generation, seed }.check(block),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::BLOCK_LEN;
    use super::*;

    #[test]
    fn a_discarded_block_may_be_zero_or_old_but_nothing_else() {
        let expect = Expect::Written(3).after(Effect::Discard, 4);
        let mut block = vec![0; BLOCK_LEN];
        assert_eq!(expect.check(&block, 4096, 9), Ok(()));
        Identity { offset: 4096, generation: 3, seed: 9 }.fill(&mut block);
        assert_eq!(expect.check(&block, 4096, 9), Ok(()));
        Identity { offset: 4096, generation: 2, seed: 9 }.fill(&mut block);
        assert!(expect.check(&block, 4096, 9).is_err());
    }

    #[test]
    fn one_byte_where_zeroes_should_be_is_noticed() {
        let mut block = vec![0; BLOCK_LEN];
        block[BLOCK_LEN - 1] = 1;
        assert_eq!(Expect::Zeroes.check(&block, 0, 0), Err(Mismatch::NotZeroes));
        assert_eq!(Expect::Zeroes.after(Effect::Discard, 1), Expect::Zeroes);
    }
}
