//! An image behind two queues: what a request costs beside one queue, all queues on one core.

use anyhow::Result;
use tidemark_benches::case::{Case, Pattern};
use tidemark_benches::cpu::Machine;
use tidemark_benches::report::{Report, Target};
use tidemark_benches::statistics::ratio;
use tidemark_benches::storage::Storage;

use crate::cli::Options;
use crate::mapped::{Entrant, in_turn};
use tidemark_benches::images::Format;

/// Runs a case.
pub fn run(
    storage: Storage,
    pattern: Pattern,
    options: &Options,
    machine: &Machine,
    report: &mut Report,
) -> Result<()> {
    let images = options.images(storage)?.filled(2)?;
    let entrant = |copy, queues| {
        let case = Case { storage, pattern, depth: 32, queues };
        let entrant = Entrant::ours(Format::Qcow2, images.image(copy), &case, images.size(), options, machine)?;
        anyhow::Ok(entrant.with_queues(queues))
    };
    let mut entrants = [entrant(0, 1)?, entrant(1, 2)?];
    in_turn(&mut entrants, options, machine, report)?;
    let [one, two] = &entrants;
    report.point("CPU per I/O: 2 queues / 1 queue", ratio(&two.cpu, &one.cpu), Target::AtMost(1.1));
    report.point("IOPS: 2 queues / 1 queue", ratio(&two.iops, &one.iops), Target::Shown);
    Ok(())
}
