//! How numbers are printed and written: the same everywhere, `-` where there is none.

use crate::statistics::Median;

/// A number with so many digits behind the point.
pub fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// A ratio and its interval, for people.
pub fn interval(ratio: Option<Median>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.2} [{:.2}, {:.2}]", r.value, r.low, r.high))
}

/// A ratio and its interval, as three fields of CSV.
pub fn triple(ratio: Option<Median>) -> String {
    ratio.map_or_else(|| "-,-,-".to_owned(), |r| format!("{:.4},{:.4},{:.4}", r.value, r.low, r.high))
}
