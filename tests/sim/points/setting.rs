//! What one run with points in time is made of: every choice follows from its seed.

use crate::oracle::SECTOR;
use crate::scenario::Scenario;
use tidemark_backend::io::sim::{Faults, Lie};
use tidemark_backend::node::copy_before_write::OnCbwError;

/// Disks of a run.
pub const DISKS: usize = 2;
/// Queues of each.
pub const QUEUES: u16 = 4;

/// What a disk's export serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// The file.
    File,
    /// A window into the file that does not begin at its start.
    Raw,
    /// A filter that delays requests.
    BlkDebug,
    /// A filter that keeps what the disk held when the run began.
    Filter {
        /// What it does about copies that fail.
        on_error: OnCbwError,
        /// How long a copy may take, in nanoseconds; 0 is for ever.
        timeout_ns: u64,
    },
}

/// One disk.
#[derive(Clone, Copy, Debug)]
pub struct DiskSetting {
    /// What is served.
    pub stack: Stack,
    /// Its sectors.
    pub sectors: usize,
    /// Whether backups are made of the node that is served, and not of the file below.
    pub backs_up_top: bool,
    /// Whether bitmaps are looked at on the node that is served, and not on the file below.
    pub watches_top: bool,
    /// Bytes per bit of the bitmap that backups are made of.
    pub chain_grain: u64,
    /// Bytes per bit of the bitmap that is looked at.
    pub watch_grain: u64,
}

/// What the tests of the judge do behind everybody's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Betrayal {
    /// Nothing, to compare with.
    Nothing,
    /// The disks that backups are made onto lie.
    Target(Lie),
    /// A bit is lost from a bitmap before a backup uses it.
    LostBit,
    /// A bit is lost from a bitmap before the judge looks at it.
    LostMark,
}

/// The choices of one run.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The seed.
    pub seed: u64,
    /// How the queues are, and what goes wrong with the disks.
    pub queues: Scenario,
    /// The disks.
    pub disks: [DiskSetting; DISKS],
    /// What goes wrong with what backups are made onto.
    pub target_faults: Faults,
    /// Transactions to send.
    pub points: u32,
    /// Chances in 4096 per turn: a transaction, a command to a job.
    pub chances: [u16; 2],
    /// Most requests.
    pub requests: u32,
    /// For tests of the judge.
    pub betrayal: Option<Betrayal>,
}

impl Setting {
    /// The run of this seed.
    pub fn new(seed: u64) -> Self {
        let random = &mut fastrand::Rng::with_seed(seed ^ 0x706f_696e_7473);
        let target_faults = if random.bool() { Faults::default() } else { Faults::random(random) };
        let scenario = Scenario::new(seed);
        let queues = Scenario {
            stack: crate::scenario::Stack::File,
            queues: QUEUES,
            queue_size: scenario.queue_size.max(8),
            inflight: false,
            // A queue without room looks for more all the time, and so time hardly passes.
            capacity: if scenario.faults.long_delay + target_faults.long_delay > 0 { 64 } else { scenario.capacity },
            chances: [0; 5],
            ..scenario
        };
        Self {
            seed,
            queues,
            disks: [DiskSetting::new(random), DiskSetting::new(random)],
            target_faults,
            points: random.u32(10..40),
            chances: [random.u16(10..150), random.u16(20..200)],
            requests: 2500,
            betrayal: None,
        }
    }

    /// A run in which somebody betrays the judge, and a lost bit is not made up for by its neighbours.
    pub fn betrayed(seed: u64, betrayal: Betrayal) -> Self {
        let honest = Self::new(seed);
        let disks = honest.disks.map(|disk| DiskSetting { sectors: 3000, chain_grain: 65536, ..disk });
        let target_faults = Faults { short: 200, ..Faults::default() };
        let queues = Scenario { longest: 2, faults: Faults::default(), ..honest.queues };
        Self { betrayal: Some(betrayal), points: 60, target_faults, disks, queues, ..honest }
    }

    /// Whether a fault explains that a guest's change fails.
    pub fn change_may_fail(&self) -> bool {
        let (disk, target) = (&self.queues.faults, &self.target_faults);
        // A target whose flush has failed takes no more writes.
        let copies = disk.read_error + target.write_error + target.no_space + target.flush_error;
        let timeout = self.disks.iter().any(|disk| matches!(disk.stack, Stack::Filter { timeout_ns: 1.., .. }));
        disk.write_error + disk.no_space + disk.flush_error + copies > 0 || timeout
    }
}

impl DiskSetting {
    fn new(random: &mut fastrand::Rng) -> Self {
        let on_error = [OnCbwError::BreakGuestWrite, OnCbwError::BreakSnapshot][random.usize(0..2)];
        let timeout_ns = [0, 0, 10_000_000][random.usize(0..3)];
        let stacks = [Stack::File, Stack::Raw, Stack::BlkDebug, Stack::Filter { on_error, timeout_ns }];
        Self {
            stack: stacks[random.usize(0..stacks.len())],
            sectors: [131, 1024, 3000][random.usize(0..3)],
            backs_up_top: random.bool(),
            watches_top: random.bool(),
            chain_grain: 512 << random.u32(0..9),
            watch_grain: 512 << random.u32(0..8),
        }
    }

    /// Bytes of the file in front of the disk.
    pub fn window(&self) -> u64 {
        if self.stack == Stack::Raw { 1536 } else { 0 }
    }

    /// Bytes of the file.
    pub fn image_len(&self) -> u64 {
        self.window() + (self.sectors * SECTOR) as u64
    }
}
