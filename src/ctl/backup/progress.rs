//! Progress for people: a bar on a terminal, a line now and then elsewhere, a line about all of it at the end.

use crate::ctl::daemon::Job;
use anyhow::Result;
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Time between lines.
const LINES: Duration = Duration::from_secs(5);

/// Shows how far a backup is.
pub struct Progress {
    disk: String,
    start: Instant,
    /// `None` where nobody could see it move.
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// Begins with nothing done.
    ///
    /// # Errors
    /// None in practice: the template is fixed.
    pub fn new(disk: &str) -> Result<Self> {
        let template = "{msg}: {bar:30} {percent:>3} %  {binary_bytes} of {binary_total_bytes}, \
                        {binary_bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template)?;
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(0).with_style(style));
        let bar = bar.map(|bar| bar.with_message(disk.to_owned()));
        let start = Instant::now();
        Ok(Self { disk: disk.to_owned(), start, bar, last_line: start })
    }

    /// Shows the state of the job.
    pub fn show(&mut self, job: &Job) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(job.total);
                bar.set_position(job.done);
            }
            None if self.last_line.elapsed() >= LINES => {
                self.last_line = Instant::now();
                eprintln!("{}", self.line(job, self.start.elapsed()));
            }
            None => {}
        }
    }

    /// Says that all is done: `bytes` in `target`.
    pub fn finish(self, bytes: u64, target: &Path) {
        let took = self.start.elapsed();
        self.clear();
        let rate = BinaryBytes(per_second(bytes, took));
        let (disk, bytes, seconds) = (&self.disk, BinaryBytes(bytes), took.as_secs_f64());
        // Nobody is left to be told when standard output is closed.
        let _ =
            writeln!(std::io::stdout(), "{disk}: {bytes} copied to '{}' in {seconds:.1} s, {rate}/s", target.display());
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, job: &Job, elapsed: Duration) -> String {
        let rate = per_second(job.done, elapsed);
        let percent = job.done.saturating_mul(100).checked_div(job.total).unwrap_or(0);
        let left = job.total.saturating_sub(job.done).checked_div(rate);
        let left = left.map_or_else(String::new, |seconds| format!(", {seconds} s left"));
        let (done, total, rate) = (BinaryBytes(job.done), BinaryBytes(job.total), BinaryBytes(rate));
        format!("{}: {percent} %, {done} of {total}, {rate}/s{left}", self.disk)
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1000) / millis
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_how_fast_and_how_long_it_will_take() {
        let progress = Progress::new("disk0").unwrap();
        let job = |done, total| Job { status: "running".into(), done, total, error: None };
        let line = |done, total, millis| progress.line(&job(done, total), Duration::from_millis(millis));
        assert_eq!(line(1 << 28, 1 << 30, 2000), "disk0: 25 %, 256.00 MiB of 1.00 GiB, 128.00 MiB/s, 6 s left");
        assert_eq!(line(0, 0, 0), "disk0: 0 %, 0 B of 0 B, 0 B/s");
    }
}
