//! What runs have done.

/// Sums of a run, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests that ended.
    pub requests: u64,
    /// Of them, with an error that a fault explains.
    pub failed: u64,
    /// Images put on top of others.
    pub snapshots: u64,
    /// Transactions that put images on top of both disks at once.
    pub joint: u64,
    /// Transactions that failed as they had to, or as a fault explains.
    pub undone: u64,
    /// Changing requests that were under way when images were put on top.
    pub under_way: u64,
    /// Old images read alone.
    pub alone: u64,
    /// Backups judged.
    pub backups: u64,
    /// Mirrors, commits and streams that succeeded, and that were cancelled.
    pub moves: [u64; 2],
    /// Bitmaps judged.
    pub bitmaps: u64,
    /// Flushes that ended well.
    pub flushes: u64,
    /// Looks at what a power cut would leave; of them, before a transaction was answered.
    pub looks: [u64; 2],
    /// Power cuts, kills, orderly ends.
    pub ends: [u64; 3],
    /// Images in the longest chain.
    pub longest: u64,
    /// Holds.
    pub holds: u64,
    /// The machines' traces.
    pub trace: u64,
}

impl Report {
    /// Counts another run in.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.snapshots += other.snapshots;
        self.joint += other.joint;
        self.undone += other.undone;
        self.under_way += other.under_way;
        self.alone += other.alone;
        self.backups += other.backups;
        self.moves.iter_mut().zip(other.moves).for_each(|(sum, more)| *sum += more);
        self.bitmaps += other.bitmaps;
        self.flushes += other.flushes;
        self.looks.iter_mut().zip(other.looks).for_each(|(sum, more)| *sum += more);
        self.ends.iter_mut().zip(other.ends).for_each(|(sum, more)| *sum += more);
        self.longest = self.longest.max(other.longest);
        self.holds += other.holds;
        self.trace = self.trace.rotate_left(1) ^ other.trace;
    }
}
