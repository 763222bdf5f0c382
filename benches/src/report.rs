//! The tables on standard output and the CSV files: a line per point with its target, and every sample.

use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal, Write as _};
use std::path::Path;

use anyhow::{Context, Result};

use crate::cpu::Machine;
use crate::statistics::{Median, median};

const POINTS: (&str, &str) = ("points.csv", "case,what,value,low,high,target,met");
const SAMPLES: (&str, &str) = ("samples.csv", "case,peer,state,metric,round,value");

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
    /// It is there to be seen.
    Shown,
}

impl Target {
    fn describe(self, value: f64) -> (String, &'static str) {
        let met = |met: bool| if met { "yes" } else { "NO" };
        match self {
            Target::AtLeast(least) => (format!(">= {least}"), met(value >= least)),
            Target::AtMost(most) => (format!("<= {most}"), met(value <= most)),
            Target::Shown => ("-".to_owned(), "-"),
        }
    }
}

/// Everything measured so far.
#[derive(Default)]
pub struct Report {
    case: String,
    cases: Vec<String>,
    points: String,
    samples: String,
}

/// Loads through vhost-user, as [`print_method`] says it.
pub const GUEST: &str = "the guest, one thread that polls all queues,";

/// Says how it is measured, before anything is: which programs, in how many rounds, who loads them.
pub fn print_method(tidemark: &Path, qsd: &Path, pairs: u32, load: &str, machine: &Machine) {
    println!("tidemark: {}", tidemark.display());
    println!("qsd:      {} (no iothread)", qsd.display());
    println!(
        "method:   {pairs} rounds, what is compared in turn, order changed every round; median of ratios of neighbours \
         [95 % interval]"
    );
    println!(
        "cores:    {load} on core {}; daemon or qemu-img with all threads on \
         core {}",
        machine.guest_core, machine.peer_core
    );
    if pairs < 6 {
        println!("fewer than 6 rounds: the intervals are whole ranges and cover less than 95 %");
    }
}

/// Shows how far a case is, to people only.
pub fn print_progress(done: u32, all: u32, what: &str) {
    if std::io::stderr().is_terminal() {
        let text = if done == all { String::new() } else { format!("[{}/{all}] {what}", done + 1) };
        eprint!("\r{text:<60}\r");
        // A progress line that does not show is no reason to stop.
        let _ = std::io::stderr().flush();
    }
}

impl Report {
    /// Begins the table of a case.
    pub fn begin(&mut self, case: &str) {
        case.clone_into(&mut self.case);
        self.cases.push(case.to_owned());
        println!("\n{case}");
    }

    /// Says something about the case.
    pub fn note(&self, text: &str) {
        println!("  ({text})");
    }

    /// Keeps the samples of one state of one peer, in the order of the rounds, and prints their median.
    pub fn samples(&mut self, peer: &str, state: &str, metric: &str, values: &[f64]) {
        let Median { value, low, high, .. } = median(values.iter().copied());
        println!("  {:<62} {value:>12.3} [{low:.3}, {high:.3}]", format!("{peer}, {state}: {metric}"));
        for (round, value) in values.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(self.samples, "{},{peer},{state},{metric},{round},{value:.4}", self.case);
        }
    }

    /// Prints and keeps a figure that has a target.
    pub fn point(&mut self, what: &str, median: Option<Median>, target: Target) {
        let Some(Median { value, low, high, .. }) = median else {
            println!("  {what:<62} nothing was measured");
            return;
        };
        let (target, met) = target.describe(value);
        let verdict = if met == "-" { String::new() } else { format!("  target {target}: {met}") };
        println!("* {what:<62} {value:>12.4} [{low:.4}, {high:.4}]{verdict}");
        let _ = writeln!(self.points, "{},{what},{value:.4},{low:.4},{high:.4},{target},{met}", self.case);
    }

    /// Writes `points.csv` and `samples.csv`; lines of cases that did not run stay.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn write(&self, results: &Path) -> Result<()> {
        for ((name, head), lines) in [(POINTS, &self.points), (SAMPLES, &self.samples)] {
            let path = results.join(name);
            let before = fs::read_to_string(&path).unwrap_or_default();
            let kept = before.lines().skip(1).filter(|line| !self.is_of_this_run(line));
            let text: String = kept.fold(format!("{head}\n"), |text, line| text + line + "\n");
            fs::write(&path, text + lines).with_context(|| format!("cannot write {name}"))?;
        }
        Ok(())
    }

    fn is_of_this_run(&self, line: &str) -> bool {
        line.split(',').next().is_some_and(|case| self.cases.iter().any(|ours| ours == case))
    }
}
