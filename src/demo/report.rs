//! The table at the end.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

use super::Crash;
use super::worker::{Outcome, latency_histogram};

/// Everything the table shows.
pub struct Report {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) load_time: Duration,
    pub(super) cpu: Duration,
    pub(super) crash: Crash,
    pub(super) through_socket: u64,
    pub(super) in_file: u64,
}

impl Report {
    /// Prints it.
    ///
    /// # Errors
    /// None in practice: all histograms have the same bounds.
    pub fn print(&self) -> Result<()> {
        let [reads, writes, discards, zeroes, flushes] = self.counts();
        let requests = reads + writes + discards + zeroes + flushes;
        let ios = as_f64(requests.max(1));
        let latency = self.latency()?;
        let us = |quantile: f64| as_f64(latency.value_at_quantile(quantile)) / 1000.0;
        let sum = |of: fn(&Outcome) -> u64| self.outcomes.iter().map(of).sum::<u64>();
        println!();
        line("requests", &format!("{requests}"));
        line(
            "",
            &format!("{reads} reads, {writes} writes, {discards} discards, {zeroes} write-zeroes, {flushes} flushes"),
        );
        line("IOPS", &format!("{:.0}", ios / self.load_time.as_secs_f64()));
        line("latency", &format!("p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us", us(0.5), us(0.99), us(0.999)));
        line("CPU per I/O", &format!("{:.2} us in the serving process", self.cpu.as_secs_f64() * 1e6 / ios));
        let (in_flight, outage) = (self.crash.in_flight, self.crash.outage.as_millis());
        line("kill -9", &format!("{in_flight} requests in flight, all completed; serving again after {outage} ms"));
        let (written, read) = (size(sum(|outcome| outcome.written)), size(sum(|outcome| outcome.verified)));
        line("bytes", &format!("{written} written; verified: {read} under load,"));
        line("", &format!("{} through the socket, {} in the file", size(self.through_socket), size(self.in_file)));
        println!("\nevery byte is as it should be");
        Ok(())
    }

    fn counts(&self) -> [u64; 5] {
        let counts = |kind: usize| self.outcomes.iter().filter_map(|outcome| outcome.counts.get(kind)).sum();
        std::array::from_fn(counts)
    }

    fn latency(&self) -> Result<Histogram<u64>> {
        let mut all = latency_histogram()?;
        self.outcomes.iter().try_for_each(|outcome| all.add(&outcome.latency))?;
        Ok(all)
    }
}

fn line(name: &str, value: &str) {
    println!("{name:<12} {value}");
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
