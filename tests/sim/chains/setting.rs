//! What one run with chains is made of: every choice follows from its seed.

use super::images::Format;
use crate::points::setting::DISKS;
use crate::scenario::{Scenario, Stack};
use tidemark_backend::io::sim::{Faults, Lie};

/// One disk.
#[derive(Clone, Debug)]
pub struct DiskSetting {
    /// Its sectors.
    pub sectors: usize,
    /// Its images at the beginning, the bottom first.
    pub chain: Vec<Format>,
    /// The export is of a raw node over the chain, and not of the chain's top.
    pub raw_above: bool,
    /// Bytes per bit of bitmaps.
    pub grain: u64,
}

/// What the tests of the judge do behind everybody's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Betrayal {
    /// Nothing, to compare with.
    Nothing,
    /// Flushes of an image that was just put on top are no flushes of what is below.
    FlushAlone,
    /// Storage lies.
    Storage(Lie),
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
    /// Processes, one after the other.
    pub lives: u32,
    /// Transactions to send in each.
    pub plans: u32,
    /// The chance in 4096 per turn of a transaction.
    pub chance: u16,
    /// Most looks in each life at what a power cut would leave.
    pub looks: u32,
    /// Most requests in each.
    pub requests: u32,
    /// Whether there are mirrors, commits and streams.
    pub moves: bool,
    /// Guests flush when they have just come to an image on top, and not at other times.
    pub flushes_late: bool,
    /// For tests of the judge.
    pub betrayal: Option<Betrayal>,
}

impl Setting {
    /// The run of this seed.
    pub fn new(seed: u64) -> Self {
        let random = &mut fastrand::Rng::with_seed(seed ^ 0x0063_6861_696e_7321);
        let scenario = Scenario::new(seed);
        let quiet = Faults { write_error: 0, no_space: 0, flush_error: 0, read_error: 0, ..scenario.faults };
        let queues = Scenario {
            stack: Stack::File,
            queues: random.u16(1..=3),
            queue_size: scenario.queue_size.max(8),
            inflight: false,
            // A queue that looks for work all the time lets time hardly pass.
            capacity: 64,
            without_kicks: false,
            chances: [0; 5],
            faults: if random.u8(0..3) == 0 { scenario.faults } else { quiet },
            ..scenario
        };
        Self {
            seed,
            queues,
            disks: [DiskSetting::new(random), DiskSetting::new(random)],
            lives: random.u32(1..=3),
            plans: random.u32(3..10),
            chance: random.u16(10..100),
            looks: 12,
            requests: 1200,
            moves: true,
            flushes_late: false,
            betrayal: None,
        }
    }

    /// A run in which somebody betrays the judge and no fault explains anything. It is one of those in which that matters.
    pub fn betrayed(seed: u64, betrayal: Betrayal) -> Self {
        let honest = Self::new(seed);
        let faults = match betrayal {
            Betrayal::Storage(lie) => Faults { lie: Some(lie), ..Faults::default() },
            _ => Faults { long_delay: 500, ..Faults::default() },
        };
        let flushes_late = betrayal == Betrayal::FlushAlone;
        Self { betrayal: Some(betrayal), flushes_late, ..honest.directed(faults) }
    }

    /// A run in which guests flush when they have just come to an image on top, on storage that may take long.
    pub fn switching(seed: u64) -> Self {
        let slow = Faults { long_delay: 500, ..Faults::default() };
        Self { flushes_late: true, looks: 400, ..Self::new(seed).directed(slow) }
    }

    /// The same with small requests that are not stable by themselves, one process, and images put on top alone.
    fn directed(self, faults: Faults) -> Self {
        let queues = Scenario { longest: 2, write_cache: true, faults, ..self.queues };
        let disks = self.disks.map(|disk| DiskSetting { grain: 512, ..disk });
        Self { lives: 1, plans: 8, looks: 40, moves: false, queues, disks, ..self }
    }

    /// Whether a fault explains that a request fails which changes something or makes it stable.
    pub fn may_fail(&self) -> bool {
        let faults = &self.queues.faults;
        faults.read_error + faults.write_error + faults.no_space + faults.flush_error > 0
    }
}

impl DiskSetting {
    fn new(random: &mut fastrand::Rng) -> Self {
        let bottom = if random.bool() { Format::Raw } else { Format::image(random) };
        let mut chain = vec![bottom];
        if random.bool() {
            chain.push(Format::image(random));
        }
        Self {
            sectors: [131, 512, 1500][random.usize(0..3)],
            chain,
            raw_above: random.u8(0..3) == 0,
            grain: 512 << random.u32(0..8),
        }
    }
}

impl Format {
    /// Some kind of image.
    pub fn image(random: &mut fastrand::Rng) -> Self {
        Self::Qcow2 { cluster_bits: random.u32(9..=16), version: random.u32(2..=3) }
    }
}
