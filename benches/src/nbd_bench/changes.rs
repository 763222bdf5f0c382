//! What has changed on a disk of 1 TiB: all extents of a bitmap with a million marks, as `nbdinfo --map` asks for them
//! and as a reader with requests of 4 GiB does.
//!
//! The image has the bitmap stored in it. The raw file, which is all holes, gets it from that image.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use tidemark_benches::cpu::{CpuTime, Machine};
use tidemark_benches::images::{Format, blockdev};
use tidemark_benches::load::as_f64;
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::{median, ratio};
use tidemark_benches::storage::{Storage, directory};
use tidemark_benches::turns::order;

use crate::bitmap::{self, BLOCK, MARKED, NAME, SIZE};
use crate::cli::Options;
use crate::client::output;
use crate::server::{DISK, Peer, Server};

/// The node of the image, where it is not the disk.
const IMAGE: &str = "image";
/// All of it, in seconds.
const TARGET: f64 = 1.0;

const READER: &str = include_str!("extents.py");

/// Who asks.
#[derive(Clone, Copy)]
enum Asker {
    Nbdinfo,
    Reader,
}

const ASKERS: [(&str, Asker); 2] = [("nbdinfo --map", Asker::Nbdinfo), ("4 GiB requests", Asker::Reader)];

/// What one asker found with one daemon.
#[derive(Default)]
struct Series {
    seconds: Vec<f64>,
    cpu_ms: Vec<f64>,
}

/// A daemon.
struct Entrant {
    peer: Peer,
    server: Server,
    series: [Series; ASKERS.len()],
}

/// Runs a case.
///
/// # Errors
/// If a daemon or a client fails, or does not find the marks.
pub fn run(format: Format, options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    let dir = directory(Storage::Tmpfs, &options.dir)?;
    bitmap::make(&dir.path().join("disk.qcow2"), &options.qemu_img)?;
    File::create(dir.path().join("disk.raw"))?.set_len(SIZE)?;
    let start = |peer| {
        let server = serve(peer, format, dir.path(), options, machine)?;
        Ok(Entrant { peer, server, series: Default::default() })
    };
    let mut entrants = Peer::BOTH.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    report.note(&format!("{MARKED} extents are marked"));
    for round in 0..options.pairs() {
        for index in order(entrants.len(), round) {
            let Some(Entrant { peer, server, series }) = entrants.get_mut(index) else { continue };
            print_progress(round, options.pairs(), peer.name());
            for (series, (_, asker)) in series.iter_mut().zip(ASKERS) {
                let before = CpuTime::of(server.daemon.pid())?;
                series.seconds.push(asker.ask(server, dir.path())?);
                let cpu_ns = CpuTime::of(server.daemon.pid())?.since(&before);
                series.cpu_ms.push(as_f64(cpu_ns) / 1e6);
            }
        }
    }
    print_progress(options.pairs(), options.pairs(), "");
    show(&entrants, report);
    Ok(())
}

fn serve(peer: Peer, format: Format, dir: &Path, options: &Options, machine: &Machine) -> Result<Server> {
    let image = format!("{},read-only=on", blockdev(Format::Qcow2, &dir.join("disk.qcow2"), ""));
    let nodes = match format {
        Format::Qcow2 => vec![image],
        Format::Raw => {
            let image = image.replace(&format!("node-name={DISK},"), &format!("node-name={IMAGE},"));
            vec![image, blockdev(Format::Raw, &dir.join("disk.raw"), "")]
        }
    };
    let server = Server::start(peer, &nodes, None, options, machine)?;
    let mut monitor = server.daemon.monitor()?;
    if format == Format::Raw {
        let bitmap = json!({ "node": DISK, "name": NAME, "granularity": BLOCK, "disabled": true });
        monitor.execute("block-dirty-bitmap-add", bitmap)?;
        let stored = json!([{ "node": IMAGE, "name": NAME }]);
        monitor.execute("block-dirty-bitmap-merge", json!({ "node": DISK, "target": NAME, "bitmaps": stored }))?;
    }
    let export = json!({ "type": "nbd", "id": "e", "node-name": DISK, "name": DISK, "bitmaps": [NAME] });
    monitor.execute("block-export-add", export)?;
    Ok(server)
}

impl Asker {
    /// The seconds that it takes; `dir` is for what it says.
    fn ask(self, server: &Server, dir: &Path) -> Result<f64> {
        let context = format!("qemu:dirty-bitmap:{NAME}");
        let (seconds, marked) = match self {
            Asker::Nbdinfo => nbdinfo(&context, server, &dir.join("map"))?,
            Asker::Reader => reader(&context, server)?,
        };
        anyhow::ensure!(marked == MARKED, "{marked} extents are told to be marked, {MARKED} are");
        Ok(seconds)
    }
}

/// The seconds that it takes, and how many extents are marked. Its text is some 80 MB, so no pipe has it.
fn nbdinfo(context: &str, server: &Server, map: &Path) -> Result<(f64, u64)> {
    let start = Instant::now();
    let mut command = Command::new("nbdinfo");
    command.arg(format!("--map={context}")).arg(server.uri()).stdin(Stdio::null()).stdout(File::create(map)?);
    let status = command.status().context("cannot run nbdinfo (Debian package libnbd-bin)")?;
    let seconds = start.elapsed().as_secs_f64();
    anyhow::ensure!(status.success(), "nbdinfo failed: {status}");
    let text = fs::read(map)?;
    let marked = text.split(|byte| *byte == b'\n').filter(|line| line.ends_with(b"dirty")).count();
    Ok((seconds, marked as u64))
}

/// The same of a reader that only asks.
fn reader(context: &str, server: &Server) -> Result<(f64, u64)> {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", READER, context, server.uri()]);
    let text = String::from_utf8(output(&mut command, "python3 (Debian package python3-libnbd)")?)?;
    let (seconds, marked) = text.trim().split_once(' ').context("the reader prints two numbers")?;
    Ok((seconds.parse()?, marked.parse()?))
}

fn show(entrants: &[Entrant], report: &mut Report) {
    for Entrant { peer, series, .. } in entrants {
        for (series, (asker, _)) in series.iter().zip(ASKERS) {
            report.samples(peer.name(), asker, "s", &series.seconds);
            report.samples(peer.name(), asker, "CPU ms", &series.cpu_ms);
        }
    }
    let [ours, theirs] = entrants else { return };
    for ((ours, theirs), (asker, _)) in ours.series.iter().zip(&theirs.series).zip(ASKERS) {
        let seconds = median(ours.seconds.iter().copied());
        report.point(&format!("tidemark, {asker}: s"), Some(seconds), Target::AtMost(TARGET));
        let mut point = |unit: &str, ratio| {
            report.point(&format!("{asker}, {unit}: tidemark / qsd"), ratio, Target::Shown);
        };
        point("s", ratio(&ours.seconds, &theirs.seconds));
        point("CPU ms", ratio(&ours.cpu_ms, &theirs.cpu_ms));
    }
}
