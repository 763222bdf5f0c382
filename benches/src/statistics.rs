//! Medians and their intervals, without assuming a distribution.
//!
//! The interval is between two order statistics: the number of samples below the true median is binomial with 1/2,
//! whatever the samples look like.

use crate::load::as_f64;

/// A median and where it lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    /// The median of the samples.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// False with fewer than 6 samples: the whole range is given then, and it covers less than 95 %.
    pub is_95: bool,
}

/// The median of some samples; zeroes if there are none.
pub fn median(samples: impl IntoIterator<Item = f64>) -> Median {
    let mut sorted: Vec<f64> = samples.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
    let (count, middle) = (sorted.len(), sorted.len() / 2);
    let value =
        if count.is_multiple_of(2) { f64::midpoint(at(middle.saturating_sub(1)), at(middle)) } else { at(middle) };
    let trim = trim_for_95(count);
    let (low, high) = (at(trim.unwrap_or(0)), at(count.saturating_sub(1 + trim.unwrap_or(0))));
    Median { value, low, high, is_95: trim.is_some() }
}

/// The median of the ratios of neighbours; `None` without any.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> Option<Median> {
    let pairs = ours.iter().zip(theirs).filter(|(_, theirs)| **theirs > 0.0);
    let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

/// The median of what neighbours differ by; `None` without any.
pub fn difference(ours: &[f64], theirs: &[f64]) -> Option<Median> {
    let differences: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours - theirs).collect();
    (!differences.is_empty()).then(|| median(differences))
}

/// How many samples may be cut off at either end so that 95 % remain; `None` if even the whole range is too little.
fn trim_for_95(count: usize) -> Option<usize> {
    // Probability that at most `k` of `count` fall below the median, times two: what the interval misses.
    let mut term = 0.5f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let (mut missed, mut trim) = (2.0 * term, None);
    for k in 0..count / 2 {
        if missed > 0.05 {
            break;
        }
        trim = Some(k);
        term *= as_f64((count - k) as u64) / as_f64(k as u64 + 1);
        missed += 2.0 * term;
    }
    trim
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_uses_the_ranks_of_the_published_tables() {
        // Ranks for 95 % intervals of a median (Conover, Practical Nonparametric Statistics): n = 12 -> 3rd and 10th,
        // n = 6 -> 1st and 6th, n = 20 -> 6th and 15th.
        for (count, low, high) in [(12, 3.0, 10.0), (6, 1.0, 6.0), (20, 6.0, 15.0)] {
            let interval = median((1..=count).map(f64::from));
            assert_eq!((interval.low, interval.high, interval.is_95), (low, high, true), "n = {count}");
        }
    }

    #[test]
    fn few_samples_give_their_range_and_say_so() {
        let interval = median([3.0, 1.0, 2.0]);
        assert_eq!(interval, Median { value: 2.0, low: 1.0, high: 3.0, is_95: false });
    }

    #[test]
    fn an_even_number_of_samples_has_its_median_in_between() {
        assert!((median([4.0, 1.0, 3.0, 2.0]).value - 2.5).abs() < 1e-12);
    }
}
