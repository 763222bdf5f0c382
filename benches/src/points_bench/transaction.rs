//! Transactions over four disks under load: no request may notice them.
//!
//! The disks are `null-co` with a latency of 100 ms, four queues each, half reads and half writes. Beside the requests
//! of rounds with transactions stand those of rounds without. Time in which threads that only sleep are not woken on the
//! daemon's core, or the guest does not look, is nobody's whose request is under way ([`crate::stalls`]). A write
//! that has to copy first takes the latency twice: for the read of what was there, and for itself. Snapshots are images
//! whose clusters are a guest's block, so that nothing has to be copied, on a `null-co` of that latency, too; every round
//! has daemons of its own, since images stay on top of each other.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use tidemark_benches::clocked::{Clocked, Completed, Operation, Timed, percentile};
use tidemark_benches::cpu::Machine;
use tidemark_benches::daemon::{Daemon, Export};
use tidemark_benches::load::as_f64;
use tidemark_benches::monitor::Monitor;
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::{Median, median};
use tidemark_benches::turns::order;

use crate::cli::Options;
use crate::overlays::Overlays;
use crate::peer::Peer;
use crate::script::{Kind, Script};
use crate::stalls::{Sleepers, Stalls};

const LATENCY_NS: u64 = 100_000_000;
const LATENCY: Duration = Duration::from_nanos(LATENCY_NS);
const NODES: [&str; 4] = ["d0", "d1", "d2", "d3"];
const QUEUES: u16 = 4;
const BLOCK: u64 = 4096;
const DISK: u64 = 1 << 30;
/// From one request to the next, in blocks; odd, so that every block has its turn.
const STRIDE: u64 = 100_003;
/// A round is so many times as long as a measurement elsewhere: a few transactions have to fit in.
const LONGER: u32 = 4;
/// What a request may take longer than latency and scheduling, in milliseconds.
const TOLERATED_MS: f64 = 2.0;

/// What rounds of one state gave.
#[derive(Default)]
struct Series {
    p50: Vec<f64>,
    p99: Vec<f64>,
    max: Vec<f64>,
    writes_max: Vec<f64>,
    late: Vec<f64>,
    excess: Vec<f64>,
    answered: Vec<f64>,
}

/// A daemon, its guest and the results.
struct Contender {
    peer: Peer,
    daemon: Daemon,
    monitor: Monitor,
    guest: Clocked,
    /// Of earlier daemons.
    held: Vec<f64>,
    quiet: Series,
    busy: Series,
}

impl Contender {
    fn start(peer: Peer, options: &Options, machine: &Machine) -> Result<Contender> {
        let (daemon, monitor, guest) = Self::launch(peer, options, machine)?;
        let (quiet, busy) = Default::default();
        Ok(Contender { peer, daemon, monitor, guest, held: Vec::new(), quiet, busy })
    }

    /// Another daemon.
    fn begin_anew(&mut self, options: &Options, machine: &Machine) -> Result<()> {
        self.held = self.holds();
        (self.daemon, self.monitor, self.guest) = Self::launch(self.peer, options, machine)?;
        Ok(())
    }

    fn launch(peer: Peer, options: &Options, machine: &Machine) -> Result<(Daemon, Monitor, Clocked)> {
        let latency = LATENCY.as_nanos();
        let exports = NODES.map(|node| Export { node, queues: QUEUES });
        let disks = NODES.map(|node| format!("driver=null-co,node-name={node},size={DISK},latency-ns={latency}"));
        let targets = NODES.map(|node| format!("driver=null-co,node-name={},size={DISK}", node.replace('d', "t")));
        let blockdevs: Vec<String> = disks.into_iter().chain(targets).collect();
        let daemon = Daemon::start(peer.program(options), &blockdevs, &exports, machine)?;
        let guests = exports.iter().map(|export| daemon.connect(*export)).collect::<Result<Vec<_>>>()?;
        let guest = Clocked::new(guests, options.depth, u32::try_from(BLOCK)?)?;
        let monitor = daemon.monitor()?;
        Ok((daemon, monitor, guest))
    }

    fn round(&mut self, kind: Kind, is_busy: bool, duration: Duration, core: usize) -> Result<()> {
        let mut rng = Rng::with_seed(11);
        let mut number = rng.u64(..DISK / BLOCK);
        let plan = |now| {
            // No block is asked for twice at a time: two writes to a new cluster would wait for each other.
            number = (number + STRIDE) % (DISK / BLOCK);
            let operation = Operation { offset: number * BLOCK, is_write: rng.bool() };
            (now < duration).then_some(operation)
        };
        let overlays = (kind == Kind::Snapshots && is_busy)
            .then(|| Overlays::open(&mut self.monitor, &NODES, DISK, LATENCY))
            .transpose()?;
        let sleepers = Sleepers::start(core);
        let mut script = Script::new(kind, NODES.len(), &mut self.monitor);
        let timed = self.guest.run(LATENCY, plan, |now| if is_busy { script.tick(now) } else { Ok(()) })?;
        let mut stalls = sleepers.end()?;
        stalls.extend(timed.gaps.iter().cloned());
        let answered = script.finish()?;
        drop(overlays);
        let series = if is_busy { &mut self.busy } else { &mut self.quiet };
        series.push(kind, &timed, &Stalls::new(stalls), &answered);
        Ok(())
    }

    /// How long the requests of all disks were held, in microseconds, of each cut.
    fn holds(&self) -> Vec<f64> {
        let log = self.daemon.log();
        let cuts = log.lines().filter(|line| line.contains("nodes=4") && line.contains("held=true"));
        let micros = cuts.filter_map(|line| line.split("micros=").nth(1)?.split(' ').next()?.parse().ok());
        self.held.iter().copied().chain(micros).collect()
    }
}

impl Series {
    fn push(&mut self, kind: Kind, timed: &Timed, stalls: &Stalls, answered: &[Duration]) {
        let ms = |ns: u64| as_f64(ns) / 1e6;
        let judged = if kind == Kind::Backups { timed.reads_ns() } else { timed.all_ns() };
        self.p50.push(ms(percentile(&judged, 0.5)));
        self.p99.push(ms(percentile(&judged, 0.99)));
        self.max.push(ms(percentile(&judged, 1.0)));
        self.writes_max.push(ms(percentile(&timed.writes_ns(), 1.0)));
        self.late.push(ms(stalls.longest()));
        let requests = timed.requests.iter().filter(|request| kind != Kind::Backups || !request.is_write);
        let beyond = requests.map(|request| beyond(request, stalls));
        self.excess.push(beyond.max_by(f64::total_cmp).unwrap_or_default());
        self.answered.extend(answered.iter().map(|answered| answered.as_secs_f64() * 1e3));
    }

    fn show(&self, peer: Peer, state: &str, kind: Kind, report: &mut Report) {
        let requests = if kind == Kind::Backups { "reads" } else { "requests" };
        let mut row = |what: &str, values: &[f64]| {
            if !values.is_empty() {
                report.samples(peer.name(), state, what, values);
            }
        };
        row(&format!("{requests} p50 ms"), &self.p50);
        row(&format!("{requests} p99 ms"), &self.p99);
        row(&format!("{requests} max ms"), &self.max);
        row("writes max ms", &self.writes_max);
        row("longest that core or guest did not run ms", &self.late);
        row("transaction answered ms", &self.answered);
    }
}

/// How much longer than the latency a request took while daemon and guest could run, in milliseconds. Whether they could
/// matters until the latency begins and when it is over, and both are no further from the request's ends than that.
fn beyond(request: &Completed, stalls: &Stalls) -> f64 {
    let Completed { sent, took, .. } = *request;
    let (more, done) = (took.saturating_sub(LATENCY_NS), sent + took);
    let stalled = stalls.within(&(sent..sent + more)) + stalls.within(&(done - more..done));
    (as_f64(more) - as_f64(stalled)) / 1e6
}

/// The worst of all rounds, with the range they span.
fn worst(values: &[f64]) -> Option<Median> {
    let low = values.iter().copied().min_by(f64::total_cmp)?;
    let high = values.iter().copied().max_by(f64::total_cmp)?;
    Some(Median { value: high, low, high, is_95: false })
}

/// Runs a case.
pub fn run(name: &str, options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    let kind = match name {
        name if name.ends_with("backups") => Kind::Backups,
        name if name.ends_with("snapshots") => Kind::Snapshots,
        _ => Kind::Bitmaps,
    };
    let duration = options.duration() * LONGER;
    let mut contenders =
        Peer::BOTH.into_iter().map(|peer| Contender::start(peer, options, machine)).collect::<Result<Vec<_>>>()?;
    for round in 0..options.pairs() {
        for turn in order(contenders.len() * 2, round) {
            let Some(contender) = contenders.get_mut(turn / 2) else { continue };
            print_progress(round, options.pairs(), &format!("{name} {}", contender.peer.name()));
            if kind == Kind::Snapshots {
                contender.begin_anew(options, machine)?;
            }
            contender.round(kind, turn % 2 == 1, duration, machine.peer_core)?;
        }
    }
    print_progress(options.pairs(), options.pairs(), name);
    show(kind, &contenders, report);
    Ok(())
}

fn show(kind: Kind, contenders: &[Contender], report: &mut Report) {
    for Contender { peer, quiet, busy, .. } in contenders {
        quiet.show(*peer, "no transactions", kind, report);
        busy.show(*peer, "transactions", kind, report);
    }
    for Contender { peer, quiet, busy, .. } in contenders {
        let target = if *peer == Peer::Tidemark { Target::AtMost(TOLERATED_MS) } else { Target::Shown };
        let what = format!("{}: longest beyond latency and scheduling, ms, worst round", peer.name());
        report.point(&what, worst(&busy.excess), target);
        let what = format!("{}: the same without transactions", peer.name());
        report.point(&what, worst(&quiet.excess), Target::Shown);
        for (state, rounds) in [("transactions", &busy.excess), ("no transactions", &quiet.excess)] {
            report.samples(peer.name(), state, "longest beyond latency and scheduling ms", rounds);
            let over = rounds.iter().filter(|excess| **excess > TOLERATED_MS).count();
            report.note(&format!(
                "{}, {state}: {over} of {} rounds beyond {TOLERATED_MS} ms",
                peer.name(),
                rounds.len()
            ));
        }
    }
    let holds: Vec<f64> = contenders.first().map(Contender::holds).unwrap_or_default();
    report.note(&format!("{} points in time of four disks were cut by tidemark", holds.len()));
    if !holds.is_empty() {
        report.samples("tidemark", "transactions", "hold us", &holds);
        report.point("tidemark: hold, us, median", Some(median(holds.iter().copied())), Target::AtMost(1000.0));
        report.point("tidemark: hold, us, p99", p99(&holds), Target::Shown);
    }
}

fn p99(values: &[f64]) -> Option<Median> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let value = *sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1))?;
    Some(Median { value, low: *sorted.first()?, high: *sorted.last()?, is_95: false })
}
