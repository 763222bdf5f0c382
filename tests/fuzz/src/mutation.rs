//! What is wrong with an image: fields of its header, entries of its tables, counts, any bytes, and where it ends.

use crate::bytes::Bytes;
use crate::judge::{OFFSET, word};

/// Changes of an image at most.
const MOST: u64 = 8;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// Changes an image as the input says.
pub fn mutate(image: &mut Vec<u8>, input: &mut Bytes<'_>) {
    for _ in 0..u64::from(input.byte()) % (MOST + 1) {
        let (l1, reftable) = (word(image, 40), word(image, 48));
        match input.byte() % 8 {
            0 => {
                // A field of the header.
                let (at, bytes) = (input.below(112), [1, 2, 4, 8][usize::from(input.byte() % 4)]);
                put(image, at, input.number(bytes), bytes);
            }
            1 => change_entry(image, l1, input),
            2 | 3 => {
                let table = word(image, l1.saturating_add(8 * input.below(16))) & OFFSET;
                change_entry(image, table, input);
            }
            4 => change_entry(image, reftable, input),
            5 => {
                let block = word(image, reftable.saturating_add(8 * input.below(8))) & OFFSET;
                let at = block.saturating_add(input.below(512));
                put(image, at, u64::from(input.byte()), 1);
            }
            6 => {
                let at = input.below(image.len() as u64 + 1);
                put(image, at, u64::from(input.byte()), 1);
            }
            _ => {
                let len = input.number(3) % (image.len() as u64 + 1);
                image.truncate(usize::try_from(len).unwrap_or(0));
            }
        }
    }
}

/// Changes an entry of the table at `table`.
fn change_entry(image: &mut [u8], table: u64, input: &mut Bytes<'_>) {
    let at = table.saturating_add(8 * input.below(128));
    let cluster_bits = u32::try_from(word(image, 16) & 0x1f).unwrap_or(9).clamp(9, 21);
    let flags = [0, COPIED, COMPRESSED, COPIED | 1, 1, COPIED | COMPRESSED][usize::from(input.byte() % 6)];
    let value = match input.byte() % 4 {
        // Some cluster of the file, or one near its end.
        0 | 1 => flags | (input.below(image.len() as u64 / 512 + 2) * 512) >> cluster_bits << cluster_bits,
        2 => flags | input.below(image.len() as u64 + 512),
        _ => input.number(8),
    };
    put(image, at, value, 8);
}

/// Puts a big-endian number of so many bytes where there is room for it.
fn put(image: &mut [u8], at: u64, value: u64, bytes: u32) {
    let (at, bytes) = (usize::try_from(at).unwrap_or(usize::MAX), bytes as usize);
    if let Some(place) = at.checked_add(bytes).and_then(|end| image.get_mut(at..end)) {
        place.copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
    }
}
