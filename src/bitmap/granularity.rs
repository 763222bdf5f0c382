//! Bytes per bit, as people write them.

use std::str::FromStr;

/// A number of bytes: decimal, with an optional k, M, G or T for powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shift = |unit: char| "bkmgt".find(unit.to_ascii_lowercase()).map(|power| 10 * power);
        let (digits, shift) = match text.chars().next_back().and_then(shift) {
            Some(shift) => (&text[..text.len() - 1], shift),
            None => (text, 0),
        };
        let number = digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
        let bytes = number.and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| format!("Invalid granularity specified: '{text}'."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_in_powers_of_1024() {
        for (text, bytes) in [("512", 512), ("64k", 65536), ("64K", 65536), ("1M", 1 << 20), ("2G", 2 << 30), ("4b", 4)]
        {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "x", "k", "-1", "+1", "1.5M", "64 k", "16777216T", "1é"] {
            assert_eq!(text.parse::<Bytes>(), Err(format!("Invalid granularity specified: '{text}'.")));
        }
    }
}
