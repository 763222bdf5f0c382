//! The table on standard output and the CSV files. Medians and ratios only; the samples go to a file of their own.

use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal, Write as _};
use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::Options;
use crate::idle::Idle;
use crate::measure::Row;
use tidemark_benches::case::Case;
use tidemark_benches::cpu::Machine;
use tidemark_benches::load::Sample;
use tidemark_benches::statistics::median;
use tidemark_benches::table::{interval, number, triple};

/// Says how it is measured, before anything is.
pub fn print_method(options: &Options, machine: &Machine) {
    println!("tidemark: {}", options.tidemark.display());
    println!("qsd:      {} (no iothread; aio= tried per case, the better one measured)", options.qsd.display());
    println!(
        "fio:      io_uring, one job, registered files, no fixed buffers, page cache left alone, else its defaults"
    );
    println!(
        "method:   {} rounds of {:.1} s, peers in turn, order reversed every other round; median of ratios of \
         neighbours [95 % interval]",
        options.pairs(),
        options.duration().as_secs_f64()
    );
    println!(
        "cores:    the guest, one thread that polls all queues, on core {}; daemon or fio with all threads on core {}",
        machine.guest_core, machine.peer_core
    );
    println!("depth is per queue; CPU time is that of the daemon with io_uring's workers, without the guest\n");
    println!(
        "{:<27} {:>9} {:>9} {:>9} {:>21} {:>21} {:>6} {:>6} {:>6} {:>21} {:>9} {:>11}",
        "case",
        "tidemark",
        "qsd",
        "fio",
        "IOPS / qsd",
        "IOPS / fio",
        "us/IO",
        "qsd",
        "fio",
        "CPU / qsd",
        "calls/IO",
        "qsd's aio"
    );
}

/// Shows what is being measured, to people only.
pub fn print_progress(done: usize, all: usize, case: &Case) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{:<40}\r", format!("[{}/{all}] {case}", done + 1));
        // A progress line that does not show is no reason to stop.
        let _ = std::io::stderr().flush();
    }
}

/// One line of the table.
pub fn print_case(row: &Row) {
    let iops = |samples: &[Sample]| number(value(samples, |sample| sample.iops), 0);
    let cpu = |samples: &[Sample]| number(value(samples, |sample| sample.cpu_us_per_io), 2);
    println!(
        "{:<27} {:>9} {:>9} {:>9} {:>21} {:>21} {:>6} {:>6} {:>6} {:>21} {:>9} {:>11}",
        row.case.to_string(),
        iops(&row.tidemark),
        iops(&row.qsd),
        iops(&row.fio),
        interval(row.iops_ratio(&row.qsd)),
        interval(row.iops_ratio(&row.fio)),
        cpu(&row.tidemark),
        cpu(&row.qsd),
        cpu(&row.fio),
        interval(row.cpu_ratio(&row.qsd)),
        number(row.tidemark_counters.syscalls_per_io, 3),
        row.aio,
    );
}

/// What the table does not say line by line.
pub fn print_summary(rows: &[Row], idle: &[Idle]) {
    println!();
    if rows.iter().all(|row| row.tidemark_counters.instructions_per_io.is_none()) {
        println!("instructions per I/O: not supported by this machine (perf has no such event)");
    } else {
        for row in rows {
            let of = |counters: crate::counters::Counters| number(counters.instructions_per_io, 0);
            let (ours, qsd) = (of(row.tidemark_counters), of(row.qsd_counters));
            println!("instructions per I/O: {:<27} tidemark {ours}, qsd {qsd}", row.case.to_string());
        }
    }
    for row in rows {
        let of = |counters: crate::counters::Counters| number(counters.syscalls_per_io, 3);
        let (ours, qsd) = (of(row.tidemark_counters), of(row.qsd_counters));
        println!("system calls per I/O: {:<27} tidemark {ours}, qsd {qsd}", row.case.to_string());
    }
    if rows.iter().any(|row| row.tidemark_counters.by_strace) {
        println!("system calls were counted by strace, which slows the daemon down and lets it batch more");
    }
    print_queue_cost(rows);
    for idle in idle {
        println!(
            "idle: {:<9} {} clock ticks, {} us of CPU in {:.1} s with a connected guest of 4 queues",
            idle.peer,
            idle.ticks,
            idle.ns / 1000,
            idle.seconds
        );
    }
    if rows.iter().any(|row| !median(row.tidemark.iter().map(|sample| sample.iops)).is_95) {
        println!("fewer than 6 rounds: the intervals are whole ranges and cover less than 95 %");
    }
}

/// What several queues cost beside one, from rows measured one after the other.
fn print_queue_cost(rows: &[Row]) {
    let cpu = |row: &Row| value(&row.tidemark, |sample| sample.cpu_us_per_io);
    for row in rows.iter().filter(|row| row.case.queues > 1) {
        let single = Case { queues: 1, ..row.case };
        let one = rows.iter().find(|row| row.case.to_string() == single.to_string());
        if let Some((several, one)) = cpu(row).zip(one.and_then(cpu)) {
            println!("CPU per I/O of {}: {:.2} of what one queue costs", row.case, several / one);
        }
    }
}

/// Writes `macro.csv`, a line per case, and `samples.csv`, a line per measurement.
pub fn write_csv(results: &Path, rows: &[Row], idle: &[Idle]) -> Result<()> {
    let mut table = String::from(
        "case,peer,iops,cpu_us_per_io,syscalls_per_io,instructions_per_io,\
         tidemark_iops_ratio,iops_low,iops_high,tidemark_cpu_ratio,cpu_low,cpu_high,aio\n",
    );
    let mut samples = String::from("case,peer,round,iops,cpu_us_per_io\n");
    for row in rows {
        let none = crate::counters::Counters::default();
        let peers = [
            ("tidemark", &row.tidemark, row.tidemark_counters, "io_uring"),
            ("qsd", &row.qsd, row.qsd_counters, row.aio),
            ("fio", &row.fio, none, "io_uring"),
        ];
        for (peer, measured, counters, aio) in peers.into_iter().filter(|peer| !peer.1.is_empty()) {
            let fields = [
                number(value(measured, |sample| sample.iops), 0),
                number(value(measured, |sample| sample.cpu_us_per_io), 4),
                number(counters.syscalls_per_io, 4),
                number(counters.instructions_per_io, 0),
                triple(row.iops_ratio(measured)),
                triple(row.cpu_ratio(measured)),
                aio.to_owned(),
            ];
            writeln!(table, "{},{peer},{}", row.case, fields.join(","))?;
            for (round, sample) in measured.iter().enumerate() {
                writeln!(samples, "{},{peer},{round},{:.0},{:.4}", row.case, sample.iops, sample.cpu_us_per_io)?;
            }
        }
    }
    let mut idle_table = String::from("peer,seconds,clock_ticks,cpu_ns\n");
    for idle in idle {
        writeln!(idle_table, "{},{},{},{}", idle.peer, idle.seconds, idle.ticks, idle.ns)?;
    }
    for (name, text) in [("macro.csv", table), ("samples.csv", samples), ("idle.csv", idle_table)] {
        fs::write(results.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

fn value(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Option<f64> {
    (!samples.is_empty()).then(|| median(samples.iter().map(of)).value)
}
