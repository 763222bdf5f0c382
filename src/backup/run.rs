//! `tidemark backup SOCKET --to DIR`: one more point in time of a daemon's disks.
//!
//! The manifest is the only truth, and each step leaves what the next run understands, whoever is killed:
//!
//! | State | What is there | What the next run does |
//! |---|---|---|
//! | *begun* | the manifest has used up the point's number and calls its files garbage | removes the files |
//! | *prepared* | empty images, nodes of the daemon over them | closes the nodes, removes the files |
//! | *started* | with one transaction: jobs, and a new bitmap beside the old one | cancels the jobs, removes the new bitmap |
//! | *copied* | complete images, jobs with results | the same: nobody knows whether they are on stable storage |
//! | *published* | the manifest has the point, and the old bitmap is of no use | removes the old bitmap |
//!
//! The bitmap that the newest point in the manifest names is never changed by a backup (`bitmap-mode=never`): until the
//! next point is published it marks all that has changed since its own. The new bitmap records from the very point in
//! time on. So nothing is lost at any moment, and nothing is believed that another run, another copy of the directory or
//! another disk has made: names of bitmaps are drawn at random for each attempt.
//!
//! A daemon that was killed has its persistent bitmaps if it keeps them crash-safe. Otherwise they are inconsistent or
//! gone, and the next backup is a full one.

use super::directory::{Directory, Purpose};
use super::manifest::{ALGORITHM, BLOCK, Bitmap, Checksums, Entry, Point};
use super::plan::{DiskState, Plan, plan};
use super::server::{self, Action};
use super::{BackupOptions, files, layer, offline, prune, seal};
use crate::ctl::backup::interrupt::Interrupt;
use crate::ctl::backup::progress::Progress;
use crate::ctl::daemon::{Daemon, Job};
use crate::info::size::size;
use crate::inspect;
use anyhow::{Context as _, Result, anyhow, bail};
use jiff::Timestamp;
use qmp_lite::context::Context;
use std::path::Path;

/// Bytes of a bit of the bitmaps that are added: those of a cluster.
const GRANULARITY: u64 = BLOCK;
/// Bytes that an image takes besides its clusters, about: a 4096th of them, and some tables.
const TABLES: u64 = 1 << 20;

/// How a run has ended that did not fail.
pub enum End {
    /// There is one more point.
    Complete,
    /// A signal came, and all was cleaned up.
    Cancelled {
        /// Which.
        signal: i32,
    },
}

/// Makes one more point in time.
///
/// # Errors
/// There is no such daemon, disk or directory, or a job failed. The directory has the points that it had.
pub fn run(socket: &Path, options: &BackupOptions) -> Result<End> {
    let interrupt = Interrupt::watch()?;
    let to = options.to.as_deref().context("--to DIR says where the backup goes")?;
    let mut directory = Directory::open(to, Purpose::Create)?;
    let mut daemon = Daemon::connect(socket)?;
    let context = Context::new();
    let prefix = format!("tidemark-backup-{}-", directory.manifest.id);
    server::clean(&mut daemon, &prefix).context("what an earlier run has left in the daemon is in the way")?;
    prune::finish(&context, &mut directory)?;
    directory.remove_garbage()?;
    let disks = server::disks(&mut daemon, &options.node)?;
    let mut run = Run { daemon, directory, context, interrupt, prefix, parts: Vec::new(), published: false };
    run.plan(&disks, options.full)?;
    match run.make() {
        Ok(point) => tell(&run.directory, &point).map(|()| End::Complete),
        Err(error) => {
            let left = run.abandon().map_or_else(|error| format!("; {error:#}"), |()| String::new());
            match run.interrupt.signal() {
                Some(signal) => {
                    eprintln!("tidemark: cancelled; '{}' has the points that it had{left}", to.display());
                    Ok(End::Cancelled { signal })
                }
                None => Err(anyhow!("{error:#}; '{}' has the points that it had{left}", to.display())),
            }
        }
    }
}

/// A disk of the point that is made.
struct Part {
    disk: DiskState,
    plan: Plan,
    /// Its image.
    file: String,
    /// Its checksums.
    sums: String,
    /// Its bitmap.
    bitmap: String,
    /// Its job and its node.
    name: String,
}

struct Run {
    daemon: Daemon,
    directory: Directory,
    context: Context,
    interrupt: Interrupt,
    prefix: String,
    parts: Vec<Part>,
    /// Whether the manifest that is on the storage may have the point.
    published: bool,
}

impl Run {
    /// Says of each disk how it is backed up, and sees that there is room.
    fn plan(&mut self, disks: &[DiskState], full: bool) -> Result<()> {
        let number = self.directory.manifest.next;
        for (index, disk) in disks.iter().enumerate() {
            let manifest = &self.directory.manifest;
            let last = manifest.last(&disk.node);
            let keep = last.and_then(|last| last.bitmap.as_ref()).map(|bitmap| bitmap.name.as_str());
            server::remove_bitmaps(&mut self.daemon, disk, &self.prefix, keep)?;
            let chain = last.map_or(Ok(()), |last| {
                let chain = manifest.chain(last);
                layer::check_chain(&self.context, &self.directory, &chain).map_err(|error| format!("{error:#}"))
            });
            let stem = files::stem(&disk.node, index, number);
            self.parts.push(Part {
                plan: plan(last, chain, disk, full),
                file: format!("{stem}.qcow2"),
                sums: format!("{stem}.sums"),
                bitmap: format!("{}{:08x}", self.prefix, fastrand::u32(..)),
                name: format!("{}{index}", self.prefix),
                disk: disk.clone(),
            });
        }
        self.check_room()
    }

    fn check_room(&self) -> Result<()> {
        let of_part = |part: &Part| part.plan.bytes(&part.disk);
        let bytes: u64 = self.parts.iter().map(of_part).sum();
        let needed = bytes + bytes / 4096 + TABLES * self.parts.len() as u64;
        let available = self.directory.available()?;
        if needed > available {
            bail!(
                "the backup may take {}, and '{}' has room for {}. Free some, or remove points with `tidemark backup prune`",
                size(needed),
                self.directory.path().display(),
                size(available)
            );
        }
        Ok(())
    }

    /// From *begun* to *published*.
    fn make(&mut self) -> Result<Point> {
        self.begin()?;
        self.prepare()?;
        let time = self.start()?;
        let changed = self.change_ids()?;
        self.copy()?;
        self.release()?;
        let entries = self.seal(changed)?;
        self.publish(time, entries)
    }

    fn begin(&mut self) -> Result<()> {
        let manifest = &mut self.directory.manifest;
        manifest.next += 1;
        manifest.discard(self.parts.iter().flat_map(|part| [part.file.clone(), part.sums.clone()]));
        self.directory.store()
    }

    fn prepare(&mut self) -> Result<()> {
        for part in &self.parts {
            let parent = match &part.plan {
                Plan::Full { .. } => None,
                Plan::Incremental { parent, .. } => Some(parent.as_str()),
            };
            let path = self.directory.file(&part.file);
            layer::create(&path, part.disk.size, parent)?;
            let refused = || format!("the daemon cannot use '{}'", path.display());
            let filename = path.to_str().with_context(refused)?;
            server::add_image(&mut self.daemon, &part.name, filename, true).with_context(refused)?;
        }
        self.directory.sync()
    }

    /// The point in time; returns when it was.
    fn start(&mut self) -> Result<String> {
        let bitmaps = self.parts.iter().map(|part| Action::BlockDirtyBitmapAdd {
            node: part.disk.node.clone(),
            name: part.bitmap.clone(),
            granularity: GRANULARITY,
            persistent: part.disk.keeps_bitmaps,
        });
        let (x_on_cbw_error, x_cbw_timeout) = server::spare_guests(&self.daemon);
        let jobs = self.parts.iter().map(|part| {
            let (sync, bitmap) = match &part.plan {
                Plan::Full { .. } => ("full", None),
                Plan::Incremental { bitmap, .. } => ("bitmap", Some(bitmap.clone())),
            };
            Action::BlockdevBackup {
                job_id: part.name.clone(),
                device: part.disk.node.clone(),
                target: part.name.clone(),
                sync,
                bitmap_mode: bitmap.is_some().then_some("never"),
                bitmap,
                auto_dismiss: false,
                x_on_cbw_error,
                x_cbw_timeout,
            }
        });
        let actions = bitmaps.chain(jobs).collect();
        server::transact(&mut self.daemon, actions).context("the backup does not start")?;
        now()
    }

    /// What the daemon calls the point in time, of each disk.
    fn change_ids(&mut self) -> Result<Vec<Option<String>>> {
        let names: Vec<_> = self.parts.iter().map(|part| part.disk.node.clone()).collect();
        let disks = server::disks(&mut self.daemon, &names)?;
        let id = |part: &Part| {
            let disk = disks.iter().find(|disk| disk.node == part.disk.node)?;
            disk.bitmap(&part.bitmap)?.change_id.clone()
        };
        Ok(self.parts.iter().map(id).collect())
    }

    fn copy(&mut self) -> Result<()> {
        let ids: Vec<_> = self.parts.iter().map(|part| part.name.clone()).collect();
        let names: Vec<_> = self.parts.iter().map(|part| part.disk.node.as_str()).collect();
        let mut progress = Progress::new(&names.join(", "))?;
        loop {
            let Job { status, error, .. } = &server::progress(&mut self.daemon, &ids)?;
            if let Some(error) = error {
                bail!("the copy failed: {error}");
            }
            if status == "concluded" {
                return Ok(());
            }
            self.check_interrupt()?;
            progress.show(&server::progress(&mut self.daemon, &ids)?);
            std::thread::sleep(server::TICK);
        }
    }

    fn check_interrupt(&self) -> Result<()> {
        match self.interrupt.signal() {
            Some(signal) => bail!("signal {signal}"),
            None => Ok(()),
        }
    }

    /// The daemon lets go of the images.
    fn release(&mut self) -> Result<()> {
        for part in &self.parts {
            self.daemon.dismiss(&part.name)?;
            self.daemon.delete_node(&part.name).context("the daemon does not let go of the image")?;
        }
        Ok(())
    }

    /// Makes the images stable and writes their checksums.
    fn seal(&self, changed: Vec<Option<String>>) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for (part, change_id) in self.parts.iter().zip(changed) {
            let sha256 = seal::seal(&self.context, &self.directory, &part.file, &part.sums, Some(&self.interrupt))?;
            let (parent, full_because) = match &part.plan {
                Plan::Full { because } => (None, Some(because.clone())),
                Plan::Incremental { parent, .. } => (Some(parent.clone()), None),
            };
            entries.push(Entry {
                disk: part.disk.node.clone(),
                file: part.file.clone(),
                parent,
                size: part.disk.size,
                checksums: Checksums { file: part.sums.clone(), algorithm: ALGORITHM.to_owned(), block: BLOCK, sha256 },
                bitmap: Some(Bitmap {
                    name: part.bitmap.clone(),
                    granularity: GRANULARITY,
                    persistent: part.disk.keeps_bitmaps,
                }),
                change_id,
                full_because,
                merging: None,
            });
        }
        self.directory.sync()?;
        Ok(entries)
    }

    /// From here on there is the point.
    fn publish(&mut self, time: String, disks: Vec<Entry>) -> Result<Point> {
        self.check_interrupt()?;
        let number = self.directory.manifest.next - 1;
        let point = Point { number, time, disks };
        let files: Vec<_> = point.disks.iter().flat_map(Entry::files).collect();
        self.directory.manifest.adopt(&files);
        self.directory.manifest.points.push(point.clone());
        self.published = true;
        self.directory.store()?;
        self.forget_old_bitmaps();
        Ok(point)
    }

    /// A bitmap that stays because the daemon has gone meanwhile is removed by the next run.
    fn forget_old_bitmaps(&mut self) {
        for part in &self.parts {
            let removed = server::remove_bitmaps(&mut self.daemon, &part.disk, &self.prefix, Some(&part.bitmap));
            if let Err(error) = removed {
                eprintln!("tidemark: warning: an old bitmap of '{}' stays for now: {error}", part.disk.node);
            }
        }
    }

    /// Removes what there is of a point that is not published, here and in the daemon if that is still there. What may
    /// be published stays as it is for the next run, which reads what the storage has.
    fn abandon(&mut self) -> Result<()> {
        if self.published {
            return Ok(());
        }
        let of_daemon = self.abandon_in_daemon();
        self.directory.remove_garbage().context("what there is of the new one is removed by the next run")?;
        of_daemon.context("what there is in the daemon is removed by the next run")
    }

    fn abandon_in_daemon(&mut self) -> Result<()> {
        server::clean(&mut self.daemon, &self.prefix)?;
        let names: Vec<_> = self.parts.iter().map(|part| part.disk.node.clone()).collect();
        for disk in server::disks(&mut self.daemon, &names)? {
            let last = self.directory.manifest.last(&disk.node);
            let keep = last.and_then(|last| last.bitmap.as_ref()).map(|bitmap| bitmap.name.as_str());
            server::remove_bitmaps(&mut self.daemon, &disk, &self.prefix, keep)?;
        }
        Ok(())
    }
}

/// Says what a point has.
///
/// # Errors
/// Nobody can read it.
pub fn tell(directory: &Directory, point: &Point) -> Result<()> {
    let mut text = format!("point {} of {} in '{}'\n", point.number, point.time, directory.path().display());
    for entry in &point.disks {
        let bytes = std::fs::metadata(directory.file(&entry.file)).map_or(0, |meta| offline::allocated(&meta));
        let (disk, file, bytes) = (inspect::printable(&entry.disk), &entry.file, size(bytes));
        let kind = match &entry.full_because {
            Some(because) => format!("full, because {because}"),
            None => "incremental".to_owned(),
        };
        text += &format!("  {disk}: {bytes} in '{file}', {kind}\n");
    }
    inspect::print(&text)
}

/// This moment, as manifests have it.
///
/// # Errors
/// None in practice: the clock is off by thousands of years.
pub fn now() -> Result<String> {
    Ok(Timestamp::from_second(Timestamp::now().as_second()).context("there is no such time")?.to_string())
}
