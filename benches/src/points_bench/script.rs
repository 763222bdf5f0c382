//! Transactions over all disks, one every 200 ms, sent and answered between two turns of the guest: nothing here waits
//! while the guest runs.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tidemark_benches::monitor::{Monitor, is_gone};

use crate::overlays;

/// From one transaction to the next.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two looks at the control socket: each is a system call of the guest's thread.
const LOOK: Duration = Duration::from_micros(500);

/// What the transactions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `block-dirty-bitmap-add`, -clear, -remove.
    Bitmaps,
    /// `blockdev-backup` with sync=none, cancelled after a while.
    Backups,
    /// `blockdev-snapshot`, with images opened by [`crate::overlays`].
    Snapshots,
}

/// A script and where it is.
pub struct Script<'a> {
    monitor: &'a mut Monitor,
    kind: Kind,
    disks: usize,
    step: usize,
    due: Duration,
    looked: Duration,
    /// Replies not there yet, and jobs that have been cancelled and are not gone.
    replies: usize,
    jobs: usize,
    /// When the last transaction was sent, until it is answered.
    sent: Option<Instant>,
    /// How long each transaction took to be answered.
    pub answered: Vec<Duration>,
}

impl<'a> Script<'a> {
    /// A script for nodes `d0`, `d1` and so on, with targets `t0`, `t1`.
    pub fn new(kind: Kind, disks: usize, monitor: &'a mut Monitor) -> Script<'a> {
        let (due, looked) = (PAUSE, Duration::ZERO);
        Script { monitor, kind, disks, step: 0, due, looked, replies: 0, jobs: 0, sent: None, answered: Vec::new() }
    }

    /// Sends what is due and reads what has come; never waits.
    ///
    /// # Errors
    /// What the daemon answers, if it is an error.
    pub fn tick(&mut self, now: Duration) -> Result<()> {
        if now < self.looked + LOOK {
            return Ok(());
        }
        self.looked = now;
        self.read()?;
        if now >= self.due && self.is_idle() && !self.is_used_up() {
            self.due = now + PAUSE;
            self.send()?;
        }
        Ok(())
    }

    /// Takes back what the last step left, and waits for it.
    ///
    /// # Errors
    /// As [`Script::tick`]; if a job does not end.
    pub fn finish(mut self) -> Result<Vec<Duration>> {
        let until = Instant::now() + Duration::from_secs(30);
        while self.is_in_the_middle() || !self.is_idle() {
            anyhow::ensure!(Instant::now() < until, "jobs do not end");
            self.read()?;
            if self.is_in_the_middle() && self.is_idle() {
                self.send()?;
            }
            std::thread::sleep(LOOK);
        }
        Ok(self.answered)
    }

    /// Whether something has to be taken back.
    fn is_in_the_middle(&self) -> bool {
        self.kind != Kind::Snapshots && self.step != 0
    }

    /// Whether there are no more images to put on top.
    fn is_used_up(&self) -> bool {
        self.kind == Kind::Snapshots && self.step == crate::overlays::MOST
    }

    fn is_idle(&self) -> bool {
        self.replies == 0 && self.jobs == 0
    }

    fn read(&mut self) -> Result<()> {
        while self.replies > 0 && self.monitor.reply()?.is_some() {
            self.replies -= 1;
            self.answered.extend(self.sent.take().map(|sent| sent.elapsed()));
        }
        while let Some(event) = self.monitor.event()? {
            let gone = (0..self.disks).any(|index| is_gone(&event, &format!("j{index}")));
            self.jobs = self.jobs.saturating_sub(usize::from(gone));
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let bitmap = |index: usize| json!({ "node": format!("d{index}"), "name": "b" });
        let backup = |index: usize| {
            let [job, disk, target] = ["j", "d", "t"].map(|letter| format!("{letter}{index}"));
            json!({ "job-id": job, "device": disk, "target": target, "sync": "none" })
        };
        let step = self.step;
        let snapshot = |index: usize| {
            let node = if step == 0 { format!("d{index}") } else { overlays::name(step - 1, index) };
            json!({ "node": node, "overlay": overlays::name(step, index) })
        };
        match (self.kind, self.step) {
            (Kind::Snapshots, step) => self.transaction(step + 1, "blockdev-snapshot", snapshot),
            (Kind::Bitmaps, 0) => self.transaction(1, "block-dirty-bitmap-add", bitmap),
            (Kind::Bitmaps, 1) => self.transaction(2, "block-dirty-bitmap-clear", bitmap),
            (Kind::Bitmaps, _) => self.transaction(0, "block-dirty-bitmap-remove", bitmap),
            (Kind::Backups, 0) => self.transaction(1, "blockdev-backup", backup),
            (Kind::Backups, _) => self.cancel(),
        }
    }

    fn transaction(&mut self, next: usize, kind: &str, data: impl Fn(usize) -> Value) -> Result<()> {
        let action = |index| json!({ "type": kind, "data": data(index) });
        let actions: Vec<Value> = (0..self.disks).map(action).collect();
        self.sent = Some(Instant::now());
        (self.step, self.replies) = (next, 1);
        self.monitor.send("transaction", json!({ "actions": actions }))
    }

    fn cancel(&mut self) -> Result<()> {
        (self.step, self.replies, self.jobs) = (0, self.disks, self.disks);
        for index in 0..self.disks {
            self.monitor.send("block-job-cancel", json!({ "device": format!("j{index}"), "force": true }))?;
        }
        Ok(())
    }
}
