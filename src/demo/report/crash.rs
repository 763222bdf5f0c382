//! What the load was, and what the kill cost.

use std::time::Duration;

use anyhow::Result;

use super::super::crash::Crash;
use super::super::worker::Outcome;
use super::{as_f64, line, merged, size};

/// Everything the table shows.
pub struct Report {
    /// What the workers found.
    pub outcomes: Vec<Outcome>,
    /// How long they worked.
    pub load_time: Duration,
    /// CPU time of the serving process.
    pub cpu: Duration,
    /// The kill.
    pub crash: Crash,
    /// Bytes verified as a guest.
    pub through_socket: u64,
    /// Bytes verified in the disk's file.
    pub in_file: u64,
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
        let latency = merged(self.outcomes.iter().map(|outcome| &outcome.latency))?;
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
}
