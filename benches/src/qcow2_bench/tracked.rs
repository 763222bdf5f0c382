//! Three bitmaps whose marks survive a power cut, beside none: what they cost in steady use, and the first write to each
//! area, which waits until the change journal has the area.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use tidemark_benches::case::{Case, Pattern};
use tidemark_benches::clocked::{Clocked, Operation};
use tidemark_benches::cpu::Machine;
use tidemark_benches::daemon::{Daemon, Export};
use tidemark_benches::load::as_f64;
use tidemark_benches::monitor::Monitor;
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::{difference, median, ratio};
use tidemark_benches::storage::Storage;
use tidemark_benches::turns::order;

use crate::cli::Options;
use crate::mapped::{COUNTS, Entrant};
use tidemark_benches::images::{Format, Images, blockdev};

/// Bytes of an area of a disk of less than 1 TiB.
const AREA: u64 = 1 << 20;
const BLOCK: u32 = 4 << 10;
const EXPORT: Export<'static> = Export { node: "d", queues: 1 };

/// Runs a case.
pub fn run(
    storage: Storage,
    pattern: Pattern,
    options: &Options,
    machine: &Machine,
    report: &mut Report,
) -> Result<()> {
    let images = options.images(storage)?.filled(1)?;
    let case = Case { storage, pattern, depth: 32, queues: 1 };
    let start = || Entrant::ours(Format::Qcow2, images.image(0), &case, images.size(), options, machine);
    // One daemon: two differ by more than what is looked for.
    let mut daemon = start()?;
    let mut entrants = [Series::default(), Series::default()];
    for round in 0..options.pairs() {
        for index in order(entrants.len(), round) {
            let Some(series) = entrants.get_mut(index) else { continue };
            print_progress(round, options.pairs(), "tracked");
            daemon.command(if index == 1 { record } else { forget })?;
            // Every area is written to once, and every bit is set.
            daemon.warm_up(Duration::from_secs(1))?;
            daemon.measure(options)?;
            daemon.command(forget)?;
            series.iops.extend(daemon.iops.pop());
            series.cpu.extend(daemon.cpu.pop());
        }
    }
    for index in (0..COUNTS).flat_map(|_| [0, 1]) {
        let Some(series) = entrants.get_mut(index) else { continue };
        daemon.command(if index == 1 { record } else { forget })?;
        daemon.warm_up(Duration::from_secs(1))?;
        daemon.count(options, machine)?;
        daemon.command(forget)?;
        series.instructions.extend(daemon.instructions.pop());
    }
    drop(daemon);
    for (state, series) in ["no bitmap", "3 bitmaps"].iter().zip(&entrants) {
        report.samples("tidemark", state, "IOPS", &series.iops);
        report.samples("tidemark", state, "CPU us/IO", &series.cpu);
        report.samples("tidemark", state, "user instructions/IO", &series.instructions);
    }
    let [without, with] = &entrants;
    report.point("IOPS: 3 bitmaps / none", ratio(&with.iops, &without.iops), Target::AtLeast(0.97));
    report.point("CPU per I/O: 3 bitmaps / none", ratio(&with.cpu, &without.cpu), Target::Shown);
    let more = difference(&with.instructions, &without.instructions);
    report.point("user instructions per I/O: 3 bitmaps - none", more, Target::Shown);
    for depth in [1, 32] {
        first_touches(&images, depth, options, machine, report)?;
    }
    Ok(())
}

/// What a state gave, by round.
#[derive(Default)]
struct Series {
    iops: Vec<f64>,
    cpu: Vec<f64>,
    instructions: Vec<f64>,
}

/// The bitmaps.
const BITMAPS: [&str; 3] = ["b0", "b1", "b2"];

/// No bitmaps, whether there are some or not.
fn forget(monitor: &mut Monitor) -> Result<()> {
    for name in BITMAPS {
        // There may be none.
        let _ = monitor.execute("block-dirty-bitmap-remove", serde_json::json!({ "node": "d", "name": name }));
    }
    Ok(())
}

/// Three persistent bitmaps.
fn record(monitor: &mut Monitor) -> Result<()> {
    for name in BITMAPS {
        let bitmap = serde_json::json!({ "node": "d", "name": name, "persistent": true });
        monitor.execute("block-dirty-bitmap-add", bitmap)?;
    }
    Ok(())
}

/// Writes once to each area, and once more: what the first write waits for.
fn first_touches(images: &Images, depth: u16, options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    let (mut first, mut later, mut rng) = (Vec::new(), Vec::new(), Rng::with_seed(5));
    for round in 0..options.pairs() {
        print_progress(round, options.pairs(), &format!("first writes, depth {depth}"));
        let path = images.image(0);
        images.fill(&path)?;
        let daemon = Daemon::start(&options.tidemark, &[blockdev(Format::Qcow2, &path, "")], &[EXPORT], machine)?;
        record(&mut daemon.monitor()?)?;
        let mut guest = Clocked::new(vec![daemon.connect(EXPORT)?], depth, BLOCK)?;
        for took in [&mut first, &mut later] {
            let mut areas: Vec<u64> = (0..images.size() / AREA).map(|area| area * AREA).collect();
            rng.shuffle(&mut areas);
            let mut offsets = areas.into_iter();
            let plan = |_| offsets.next().map(|offset| Operation { offset, is_write: true });
            let timed = guest.run(Duration::ZERO, plan, |_| Ok(()))?;
            let writes = as_f64(timed.writes_ns().len().max(1) as u64);
            took.push(timed.elapsed.as_secs_f64() * 1e6 / writes);
        }
    }
    print_progress(options.pairs(), options.pairs(), "");
    let state = format!("depth {depth}");
    report.samples("tidemark", &state, "us per first write of an area", &first);
    report.samples("tidemark", &state, "us per later write", &later);
    let more: Vec<f64> = first.iter().zip(&later).map(|(first, later)| first - later).collect();
    report.point(&format!("us per area for its first write, depth {depth}"), Some(median(more)), Target::Shown);
    Ok(())
}
