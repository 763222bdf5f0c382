//! Counts in a refcount block: 1 to 64 bits each, big-endian from a byte on, from the lowest bit up within one.
//!
//! Pure arithmetic (qcow2 specification, "Host cluster management"); what is past the end of a block counts 0.

use std::ops::Range;

/// How wide a count is: log2 of its bits, 0 to 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width(pub(super) u32);

impl Width {
    /// The bytes of a block that the count of this number is in.
    pub(super) fn bytes(self, number: usize) -> Range<usize> {
        match self.0.checked_sub(3) {
            Some(shift) => number << shift..(number + 1) << shift,
            None => {
                let byte = number >> (3 - self.0);
                byte..byte + 1
            }
        }
    }

    /// Where in its byte a count narrower than one begins, and its bits.
    fn part(self, number: usize) -> (u32, u8) {
        let in_byte = u32::try_from(number & ((1 << (3 - self.0)) - 1)).unwrap_or(0);
        // One, two or four ones.
        let ones = [0b1, 0b11, 0b1111][self.0 as usize];
        (in_byte << self.0, ones)
    }

    /// The count of this number.
    pub(super) fn get(self, block: &[u8], number: usize) -> u64 {
        let Some(bytes) = block.get(self.bytes(number)) else { return 0 };
        if self.0 < 3 {
            let (shift, ones) = self.part(number);
            return bytes.iter().map(|byte| u64::from(byte >> shift & ones)).sum();
        }
        bytes.iter().fold(0, |count, byte| count << 8 | u64::from(*byte))
    }

    /// Changes the count of this number; `count` has to fit.
    pub(super) fn set(self, block: &mut [u8], number: usize, count: u64) {
        let Some(bytes) = block.get_mut(self.bytes(number)) else { return };
        let count = count.to_be_bytes();
        if self.0 < 3 {
            let (shift, ones) = self.part(number);
            bytes.iter_mut().for_each(|byte| *byte = *byte & !(ones << shift) | (count[7] & ones) << shift);
            return;
        }
        let start = count.len() - bytes.len();
        bytes.copy_from_slice(&count[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lie_where_the_specification_says() {
        let block = [0b1010_0110, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07];
        let table = [
            (0, vec![0, 1, 1, 0, 0, 1, 0, 1, 1]),
            (1, vec![2, 1, 2, 2, 1]),
            (2, vec![6, 10, 1, 0, 2]),
            (3, vec![0xa6, 1, 2]),
            (4, vec![0xa601, 0x0203]),
            (5, vec![0xa601_0203, 0x0405_0607]),
            (6, vec![0xa601_0203_0405_0607, 0]),
        ];
        for (order, counts) in table {
            for (number, count) in counts.into_iter().enumerate() {
                assert_eq!(Width(order).get(&block, number), count, "order {order}, number {number}");
            }
        }
    }

    #[test]
    fn a_count_changes_alone() {
        for order in 0..=6 {
            let mut block = [0xff; 64];
            let width = Width(order);
            let last = ((64 * 8) >> order) - 1;
            for number in [0, 1, last] {
                width.set(&mut block, number, 1);
            }
            let ones = u64::MAX >> (64 - (1u32 << order));
            let counts: Vec<u64> = (0..=last).map(|number| width.get(&block, number)).collect();
            let expected = |number| if [0, 1, last].contains(&number) { 1 } else { ones };
            assert_eq!(counts, (0..=last).map(expected).collect::<Vec<_>>(), "order {order}");
            width.set(&mut block, last + 1, 1);
            assert_eq!(width.get(&block, last + 1), 0, "there is no such count");
        }
    }
}
