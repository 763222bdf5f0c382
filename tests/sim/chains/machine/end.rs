//! The end of a process: in order, killed, or with the machine's power; and what is left then.

use super::super::images::Format;
use super::{Carried, Life, Machine, demand};
use crate::points::history::Content;
use crate::points::setting::DISKS;
use tidemark_backend::export::vhost::queue::Letter;
use tidemark_backend::io::sim::{Faults, World};

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    PowerCut,
    Killed,
    InOrder,
}

impl Machine {
    /// Once nothing is under way: every node is free, the disks are what their guests have made of them, and what lies
    /// below snapshots is what it was.
    pub(super) fn check_end(&mut self) -> Result<(), String> {
        for node in self.life.graph.nodes() {
            demand(node.busy().is_none(), || format!("{} is still busy: {:?}", node.name(), node.busy()))?;
        }
        self.check_frozen()?;
        let start = self.history.tick();
        for disk in 0..DISKS {
            let bytes = self.aside(|_| super::super::judge::content(&self.life, self.disks[disk].top()))?;
            let checked = self.history.check_read(start, Content { disk, first: 0, bytes: &bytes });
            checked.map_err(|why| format!("at the end: {why}"))?;
        }
        Ok(())
    }

    pub(super) fn end(mut self, sudden: bool) -> Result<Carried, String> {
        let hows = [How::PowerCut, How::Killed, How::InOrder];
        let how = hows[self.random.usize(0..if sudden { 2 } else { 3 })];
        self.report.ends[how as usize] += 1;
        self.report.trace = self.report.trace.rotate_left(7) ^ self.life.world.trace();
        let Self { setting, random, life, mut disks, oracles, mut history, report, sent, .. } = self;
        let world = life.world.clone();
        world.set_faults(Faults::default());
        disks.iter().flat_map(|disk| &disk.images).for_each(|image| image.show(&world));
        match how {
            How::PowerCut => {
                drop(life);
                world.crash();
            }
            How::Killed => drop(life),
            How::InOrder => close(life, &world, &disks)?,
        }
        let may_leak = setting.may_fail() || report.ends[..2] != [0, 0] || how != How::InOrder;
        // Where flushes fail, what was not flushed by then may never be; and who knows which images are the disk.
        let mut kept = how != How::PowerCut && !setting.may_fail();
        for (number, (disk, oracle)) in disks.iter_mut().zip(&oracles).enumerate() {
            let judged = disk.choose(
                |image| image.found(&world),
                |content, leaks| {
                    demand(may_leak || leaks == 0, || format!("{leaks} clusters of closed images leak"))?;
                    oracle.check_stable(content)
                },
            );
            let chain = judged.map_err(|why| format!("disk {number}, {how:?}: {why}"))?;
            kept &= disk.other.is_none() && chain.iter().all(|at| outlives(&disk.images[*at]));
            disk.leave(chain, &world, how == How::PowerCut);
        }
        if kept {
            history.tick();
        }
        Ok(Carried { random, disks, oracles, history: kept.then_some(history), sent, report })
    }
}

/// Whether what was not flushed outlives the process.
fn outlives(image: &super::super::images::Image) -> bool {
    !matches!(image.format, Format::Qcow2 { version: 2, .. })
}

fn close(mut life: Life, world: &World, disks: &[super::Disk]) -> Result<(), String> {
    for served in life.served.iter_mut().flat_map(|served| served.process.queues.iter_mut()) {
        served.queue.mail().send(Letter::End);
        demand((0..1000).any(|_| !served.queue.step()), || "a queue does not end".to_owned())?;
    }
    let Life { graph, served, engine, .. } = life;
    drop((served, engine));
    let above = (0..DISKS).map(|number| format!("above{number}")).filter(|name| graph.find(name).is_some());
    let images = disks.iter().flat_map(|disk| disk.chain.iter().rev().map(|at| disk.images[*at].name.clone()));
    for name in above.collect::<Vec<_>>().into_iter().chain(images) {
        graph.close_on(&super::super::errands::Errands(world), &name).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}
