//! Jobs that have a disk in other images than before while its guest writes on: mirrors, commits, streams.

use super::errands::Errands;
use super::images::{Format, Image};
use super::life::writable;
use super::machine::{Machine, demand};
use crate::points::history::{Content, Cut, Moment};
use crate::points::setting::DISKS;
use tidemark_jobs::commit::{self, CommitOptions};
use tidemark_jobs::mirror::{self, CopyMode, MirrorOptions, MirrorSync};
use tidemark_jobs::stream::{self, StreamOptions};
use tidemark_jobs::transaction::TransactionError;
use tidemark_jobs::{Answer, Command, Family, JobError, JobEvent, OnError, Registry, Status};

/// What becomes of a disk's images, by their heights.
#[derive(Clone, Debug)]
enum What {
    /// All is copied to this image, which takes the chain's place, or is left as it is.
    Mirror { image: usize, pivots: bool },
    /// The images above the base go into it.
    Commit { base: usize, top: usize },
    /// The top gets what those above the base have.
    Stream { base: Option<usize> },
}

/// Such a job.
pub(super) struct Move {
    id: String,
    pub disk: usize,
    what: What,
    begun: Option<Answer<Result<(), TransactionError>>>,
    commands: Vec<Answer<Result<(), JobError>>>,
    ready: bool,
    /// When it was told to end.
    told: Option<Moment>,
    outcome: Option<Result<(), String>>,
}

impl Machine {
    /// Begins a job now and then, and tells those to end that wait for it.
    pub(super) fn operate_moves(&mut self, goes_on: bool) -> Result<(), String> {
        let disk = self.random.usize(0..DISKS);
        let may_begin = goes_on && self.setting.moves && self.operator.asked.is_none();
        if may_begin && self.random.u16(0..4096) < self.setting.chance {
            self.begin_move(disk)?;
        }
        for at in 0..self.operator.moves.len() {
            let (tells, force) = (self.random.u8(0..64) == 0, self.random.u16(0..8192) == 0);
            let job = &self.operator.moves[at];
            let command = match job.what {
                _ if job.begun.is_some() || job.told.is_some() => continue,
                _ if force && goes_on => Command::Cancel { force: true },
                What::Mirror { pivots: false, .. } if job.ready && tells => Command::Cancel { force: false },
                _ if job.ready && tells => Command::Complete,
                _ => continue,
            };
            let (id, now) = (job.id.clone(), self.history.tick());
            let work = async move |registry: Registry| registry.command(Family::BlockJob, &id, command).await;
            let answer = self.life.jobs.send_async(work).unwrap();
            let job = &mut self.operator.moves[at];
            job.told = Some(now);
            job.commands.push(answer);
        }
        Ok(())
    }

    fn begin_move(&mut self, disk: usize) -> Result<(), String> {
        let is_busy = self.operator.moves.iter().any(|job| job.disk == disk)
            || self.operator.jobs.iter().any(|job| job.disk == disk);
        let height = self.disks[disk].chain.len();
        // A node with another one above it can be streamed into and nothing else.
        let is_root = !self.setting.disks[disk].raw_above;
        if is_busy {
            return Ok(());
        }
        let what = match self.random.u8(0..4) {
            0 if is_root => self.plan_mirror(disk)?,
            1 if height > 1 && is_root => What::Commit { base: self.random.usize(0..height - 1), top: height - 1 },
            2 if height > 2 && is_root => {
                let top = self.random.usize(1..height - 1);
                What::Commit { base: self.random.usize(0..top), top }
            }
            3 if height > 1 => {
                let base = self.random.usize(0..height);
                What::Stream { base: base.checked_sub(1).filter(|base| base + 2 < height) }
            }
            _ => return Ok(()),
        };
        self.operator.begun += 1;
        let id = format!("move{}", self.operator.begun);
        let begun = self.send_move(disk, &id, &what);
        self.expect_move(disk, &what);
        let (commands, ready, told, outcome) = (Vec::new(), false, None, None);
        self.operator.moves.push(Move { id, disk, what, begun: Some(begun), commands, ready, told, outcome });
        Ok(())
    }

    fn plan_mirror(&mut self, disk: usize) -> Result<What, String> {
        let format = if self.random.bool() { Format::Raw } else { Format::image(&mut self.random) };
        let image = self.disks[disk].images.len();
        let mut target = Image::empty(format!("disk{disk}-{image}"), format, self.setting.disks[disk].sectors);
        let opened = writable(&self.setting);
        let node = self.aside(|world| target.open(world, &self.life.graph, None, opened));
        node.map_err(|error| format!("a mirror's target cannot be opened: {error}"))?;
        self.disks[disk].images.push(target);
        Ok(What::Mirror { image, pivots: self.random.u8(0..4) > 0 })
    }

    /// What may be otherwise as long as it runs.
    fn expect_move(&mut self, disk: usize, what: &What) {
        let pivots = match what {
            What::Mirror { pivots, .. } => *pivots,
            What::Commit { top, .. } => top + 1 == self.disks[disk].chain.len(),
            What::Stream { .. } => false,
        };
        // An image that has left those below it behind shows zeroes where it has nothing.
        self.disks[disk].other = Some(self.after(disk, what));
        if pivots {
            let top = self.disks[disk].top().name.clone();
            self.operator.recorded.retain(|recorded| recorded.node != top);
        }
        if let What::Commit { base, top } = what {
            // The header of the image above names another one then.
            let images = &self.disks[disk];
            let written = [images.chain.get(*base), images.chain.get(top + 1)];
            let written = written.into_iter().flatten().map(|at| &images.images[*at].name);
            written.for_each(|name| self.operator.frozen.retain(|frozen| frozen.name != *name));
        }
    }

    /// The disk's images when it has succeeded.
    fn after(&self, disk: usize, what: &What) -> Vec<usize> {
        let mut chain = self.disks[disk].chain.clone();
        match what {
            What::Mirror { image, pivots: true } => chain = vec![*image],
            What::Mirror { pivots: false, .. } => {}
            What::Commit { base, top } => drop(chain.drain(base + 1..=*top)),
            What::Stream { base } => {
                let last = chain.len() - 1;
                drop(chain.drain(base.map_or(0, |base| base + 1)..last));
            }
        }
        chain
    }

    fn send_move(&mut self, disk: usize, id: &str, what: &What) -> Answer<Result<(), TransactionError>> {
        let graph = self.life.graph.clone();
        let name = |height: usize| self.disks[disk].images[self.disks[disk].chain[height]].name.clone();
        let (device, job_id) = (self.disks[disk].top().name.clone(), id.to_owned());
        let speed = [0, 0, 4 << 20][self.random.usize(0..3)];
        let (filter_node_name, auto_finalize, auto_dismiss, on_error) = (None, true, true, OnError::Report);
        match what {
            What::Mirror { image, .. } => {
                let options = MirrorOptions {
                    job_id: Some(job_id),
                    device,
                    target: self.disks[disk].images[*image].name.clone(),
                    replaces: None,
                    sync: MirrorSync::Full,
                    speed,
                    granularity: [0, 512, 4096, 65536][self.random.usize(0..4)],
                    buf_size: 0,
                    on_source_error: on_error,
                    on_target_error: on_error,
                    unmap: self.random.bool(),
                    filter_node_name,
                    copy_mode: [CopyMode::Background, CopyMode::WriteBlocking][self.random.usize(0..2)],
                    auto_finalize,
                    auto_dismiss,
                };
                self.life.jobs.send_async(async move |registry| mirror::run(&registry, &graph, options).await).unwrap()
            }
            What::Commit { base, top } => {
                let options = CommitOptions {
                    job_id,
                    device,
                    base_node: Some(name(*base)),
                    base: None,
                    top_node: Some(name(*top)),
                    top: None,
                    backing_file: None,
                    speed,
                    on_error,
                    filter_node_name,
                    auto_finalize,
                    auto_dismiss,
                };
                self.life.jobs.send_async(async move |registry| commit::run(&registry, &graph, options).await).unwrap()
            }
            What::Stream { base } => {
                let options = StreamOptions {
                    job_id,
                    device,
                    base: None,
                    base_node: base.map(name),
                    bottom: None,
                    backing_file: None,
                    speed,
                    on_error,
                    filter_node_name,
                    auto_finalize,
                    auto_dismiss,
                };
                self.life.jobs.send_async(async move |registry| stream::run(&registry, &graph, options).await).unwrap()
            }
        }
    }

    /// Replies to what was asked of such jobs.
    pub(super) fn listen_to_moves(&mut self) -> Result<(), String> {
        for at in (0..self.operator.moves.len()).rev() {
            let job = &mut self.operator.moves[at];
            let before = job.commands.len();
            job.commands.retain(|answer| answer.poll().is_none());
            if job.commands.len() < before {
                self.quiet = 0;
            }
            let Some(result) = job.begun.as_ref().and_then(Answer::poll) else { continue };
            (job.begun, self.quiet) = (None, 0);
            if let Err(error) = result {
                let (disk, what) = (job.disk, job.what.clone());
                self.operator.moves.remove(at);
                self.disks[disk].other = None;
                demand(self.setting.may_fail(), || format!("{what:?} of disk {disk}: {error}"))?;
            }
        }
        Ok(())
    }

    /// An event of such a job; false if it is no such job's.
    pub(super) fn hear_of_move(&mut self, id: &str, event: &JobEvent) -> Result<bool, String> {
        let Some(at) = self.operator.moves.iter().position(|job| job.id == id) else { return Ok(false) };
        let job = &mut self.operator.moves[at];
        match event {
            JobEvent::Ready(_) => job.ready = true,
            JobEvent::Completed { error, .. } => job.outcome = Some(error.clone().map_or(Ok(()), Err)),
            JobEvent::Cancelled(_) => job.outcome = Some(Err("cancelled".to_owned())),
            JobEvent::StatusChange { status: Status::Concluded, .. } => {
                let job = self.operator.moves.remove(at);
                let what = format!("{:?} of disk {}", job.what, job.disk);
                self.conclude_move(job).map_err(|why| format!("{what}: {why}"))?;
            }
            _ => {}
        }
        Ok(true)
    }

    /// Closes the images that are not the disk's any more, those above before those below.
    fn close_dropped(&mut self, disk: usize, before: &[usize]) -> Result<(), String> {
        let images = &self.disks[disk];
        let dropped = before.iter().rev().filter(|at| !images.chain.contains(at));
        let names: Vec<String> = dropped.map(|at| images.images[*at].name.clone()).collect();
        for name in &names {
            let closed = self.aside(|world| self.life.graph.close_on(&Errands(world), name));
            closed.map_err(|error| format!("{name} is not free: {error}"))?;
        }
        self.operator.frozen.retain(|frozen| !names.contains(&frozen.name));
        self.operator.recorded.retain(|recorded| !names.contains(&recorded.node));
        Ok(())
    }

    fn conclude_move(&mut self, job: Move) -> Result<(), String> {
        let disk = job.disk;
        self.disks[disk].other = None;
        match job.outcome.ok_or("it is concluded without a result")? {
            Ok(()) => {}
            Err(error) if error == "cancelled" && job.told.is_some() => {
                self.report.moves[1] += 1;
                return Ok(());
            }
            Err(error) => return demand(self.setting.may_fail(), || format!("nothing explains '{error}'")),
        }
        self.report.moves[0] += 1;
        let chain = self.after(disk, &job.what);
        if let (What::Mirror { image, pivots: false }, Some(from)) = (&job.what, job.told) {
            let cut = Cut { from, to: self.history.tick() };
            let bytes = self.aside(|_| super::judge::content(&self.life, &self.disks[disk].images[*image]))?;
            self.history.check_cut(cut, &[Content { disk, first: 0, bytes: &bytes }])?;
        }
        let before = std::mem::replace(&mut self.disks[disk].chain, chain);
        self.close_dropped(disk, &before)?;
        let node = self.life.served[disk].process.node();
        let reached = node.name() == self.disks[disk].top().name || node.name().starts_with("above");
        demand(reached, || format!("guests come to {}", node.name()))
    }
}
