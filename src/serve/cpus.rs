//! A list of CPUs as people write it: `0,2-4`.

use std::str::FromStr;

/// The highest number a CPU can have here, far above what Linux supports.
const CPU_MAX: usize = 65_535;

/// CPUs in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus(pub Vec<usize>);

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut cpus = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.parse::<usize>(), last.parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last <= CPU_MAX => cpus.extend(first..=last),
                _ => return Err(format!("'{part}' is neither a CPU nor a range of CPUs such as 2-4")),
            }
        }
        Ok(Self(cpus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_numbers_and_ranges_are_taken_in_order() {
        assert_eq!("".parse(), Ok(Cpus(vec![])));
        assert_eq!("3".parse(), Ok(Cpus(vec![3])));
        assert_eq!("4,0-2,7".parse(), Ok(Cpus(vec![4, 0, 1, 2, 7])));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [",", "1,", "a", "2-1", "-1", "1-", "1-2-3", "0-99999999999"] {
            assert!(text.parse::<Cpus>().is_err(), "{text}");
        }
    }
}
