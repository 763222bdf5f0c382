//! The tables at the end of each part.

pub mod backup;
pub mod crash;

use anyhow::Result;
use hdrhistogram::Histogram;

use super::worker::latency_histogram;

fn line(name: &str, value: &str) {
    println!("{name:<12} {value}");
}

/// One histogram of them all.
fn merged<'a>(histograms: impl Iterator<Item = &'a Histogram<u64>>) -> Result<Histogram<u64>> {
    let mut all = latency_histogram()?;
    for histogram in histograms {
        all.add(histogram)?;
    }
    Ok(all)
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = as_f64(bytes) / 1024.0;
    for unit in UNITS {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

/// Counts and nanoseconds here stay far below 2^52.
#[allow(clippy::cast_precision_loss, reason = "counts of one run are below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_in_the_unit_that_reads_best() {
        let cases = [(0, "0.0 KiB"), (1536, "1.5 KiB"), (256 << 20, "256.0 MiB"), (5 << 40, "5.0 TiB")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }
}
