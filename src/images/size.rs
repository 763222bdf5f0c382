//! Sizes as people write them for `qemu-img`, and sizes relative to what there is.

/// A number of bytes: decimal, also a fraction, with an optional b, k, M, G, T, P or E for powers of 1024, or hexadecimal
/// after 0x.
///
/// # Errors
/// It is none, or 2^63 and more.
pub fn parse(text: &str) -> Result<u64, String> {
    let refused = || format!("Invalid size '{text}': a number of bytes, also with k, M, G, T, P or E");
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return hexadecimal(digits).ok_or_else(refused);
    }
    let power = |unit: char| "bkmgtpe".find(unit.to_ascii_lowercase());
    let (digits, power) = match text.chars().next_back().and_then(power) {
        Some(power) => (&text[..text.len() - 1], power),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Half a byte is none.
    if !is_number(whole) || !is_number(fraction) || (power == 0 && digits.contains('.')) || fraction.len() > 18 {
        return Err(refused());
    }
    let unit = 1_u128 << (10 * power);
    let parts = (whole.parse::<u64>(), fraction.parse::<u64>(), u32::try_from(fraction.len()));
    let (Ok(whole), Ok(fraction), Ok(places)) = parts else { return Err(refused()) };
    let bytes = u128::from(whole) * unit + u128::from(fraction) * unit / 10_u128.pow(places);
    i64::try_from(bytes).map(i64::cast_unsigned).map_err(|_| refused())
}

fn hexadecimal(digits: &str) -> Option<u64> {
    // A sign is none of the digits.
    let all = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    i64::from_str_radix(digits, 16).ok().filter(|_| all).map(i64::cast_unsigned)
}

/// A size of an image, by itself or by what is to be added or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This many bytes.
    To(u64),
    /// So many more.
    By(u64),
    /// So many less.
    Less(u64),
}

impl std::str::FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(more), _) => parse(more).map(Self::By),
            (_, Some(less)) => parse(less).map(Self::Less),
            _ => parse(text).map(Self::To),
        }
    }
}

impl Change {
    /// The size of what has `before` bytes; `None` if nothing is left, or it is no size.
    pub fn of(self, before: u64) -> Option<u64> {
        let size = match self {
            Self::To(size) => Some(size),
            Self::By(more) => before.checked_add(more),
            Self::Less(less) => before.checked_sub(less),
        };
        size.filter(|size| *size > 0 && i64::try_from(*size).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_qemu_img_takes_them_for() {
        let exact = [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("1k", 1024),
            ("1.5K", 1536),
            ("2M", 2 << 20),
            ("0.5G", 1 << 29),
            ("3T", 3 << 40),
            ("1P", 1 << 50),
            ("7E", 7 << 60),
            ("0x100000", 1 << 20),
            ("0X1e", 30),
        ];
        for (text, bytes) in exact {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "k",
            "1X",
            "-1",
            "+1",
            "1.5",
            "1.k",
            ".5k",
            "8E",
            "16E",
            "1 k",
            "1e3",
            "99999999999999999999",
            "0x",
            "0x+1",
            "0x1k",
            "0x8000000000000000",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_may_be_relative_and_never_less_than_a_byte() {
        let after = |text: &str| text.parse::<Change>().unwrap().of(1 << 20);
        assert_eq!(after("2M"), Some(2 << 20));
        assert_eq!(after("+1M"), Some(2 << 20));
        assert_eq!(after("-512k"), Some(1 << 19));
        assert_eq!((after("-1M"), after("-2M"), after("0")), (None, None, None));
        assert_eq!(after("+7E"), Some((7 << 60) + (1 << 20)));
    }
}
