//! What the backups were, and what the guest noticed of them.

use anyhow::Result;
use hdrhistogram::Histogram;

use super::super::points::Point;
use super::super::worker::Outcome;
use super::{as_f64, line, merged, size};

/// One point in time of both disks.
pub struct Row {
    /// What was taken.
    pub point: Point,
    /// Bytes of blocks that differ from the point before, by the guest's record.
    pub changed: u64,
    /// Writes under way at its moment.
    pub in_flight: u64,
    /// Bytes proven.
    pub verified: u64,
}

/// Everything the table shows.
pub struct Report {
    /// The points, in their order.
    pub rows: Vec<Row>,
    /// What all workers found.
    pub outcomes: Vec<Outcome>,
    /// How often batons were passed.
    pub passed: u64,
    /// Bytes of the disks verified at the end.
    pub through_socket: u64,
}

impl Report {
    /// Prints it.
    ///
    /// # Errors
    /// None in practice: all histograms have the same bounds.
    pub fn print(&self) -> Result<()> {
        println!();
        columns("", ["changed by", "copied by", "copies before", "writes", "transaction", "backup"].map(String::from));
        columns("", ["the guest", "the jobs", "guest writes", "in flight", "took", "took"].map(String::from));
        for (number, row) in self.rows.iter().enumerate() {
            let name = if number == 0 { "full".to_owned() } else { format!("incremental {number}") };
            columns(&name, row.cells());
        }
        println!();
        line("before", &self.latency(0)?);
        line("during", &self.latency(1)?);
        let shared = self.rows.iter().any(|row| row.point.shared);
        let onto = if shared { "reflinks" } else { "plain copies" };
        line("onto", &format!("{onto} of the restore point before"));
        line("batons", &format!("{} writes, each one begun when the one on the other disk was done", self.passed));
        let proven = size(self.rows.iter().map(|row| row.verified).sum());
        line("verified", &format!("{proven} of restore points, {} of the disks", size(self.through_socket)));
        println!("\nevery restore point shows both disks at one moment");
        Ok(())
    }

    fn latency(&self, phase: usize) -> Result<String> {
        let recorders = self.outcomes.iter().filter_map(|outcome| outcome.recorder.as_ref());
        let all = merged(recorders.filter_map(|recorder| recorder.latency.get(phase)))?;
        Ok(quantiles(&all))
    }
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let point = &self.point;
        [
            size(self.changed),
            size(point.copied),
            point.before_writes.to_string(),
            self.in_flight.to_string(),
            format!("{:.1} ms", point.freeze.as_secs_f64() * 1e3),
            format!("{:.1} s", point.took.as_secs_f64()),
        ]
    }
}

fn columns(name: &str, cells: [String; 6]) {
    let cells = cells.map(|cell| format!("{cell:>14}")).concat();
    println!("{name:<13}{cells}");
}

fn quantiles(latency: &Histogram<u64>) -> String {
    let ms = |ns: u64| as_f64(ns) / 1e6;
    let at = |quantile: f64| ms(latency.value_at_quantile(quantile));
    let (count, longest) = (latency.len(), ms(latency.max()));
    format!("p50 {:.2} ms, p99 {:.2} ms, longest {longest:.1} ms, of {count} writes", at(0.5), at(0.99))
}
