//! The limits of a group, in QEMU's terms: bytes and requests per second, of reads, of writes and of both together.
//!
//! Which of them can stand together is checked here, with QEMU's texts. Knows no time.

use super::bucket::{Bucket, Limit, UNIT};
use crate::node::Kind;

/// The largest number of a limit.
const VALUE_MAX: u64 = 1_000_000_000_000_000;

/// What a request counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
}

impl Way {
    pub(super) const BOTH: [Self; 2] = [Self::Read, Self::Write];

    /// That of a kind of request; `None` passes.
    pub(super) fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Read => Some(Self::Read),
            Kind::Write | Kind::Zero { .. } | Kind::Discard => Some(Self::Write),
            Kind::Flush => None,
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Read => Self::Write,
            Self::Write => Self::Read,
        }
    }
}

/// Limits of reads, writes, and both together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Of both together.
    pub total: Limit,
    /// Of reads.
    pub read: Limit,
    /// Of writes.
    pub write: Limit,
}

/// All limits of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThrottleLimits {
    /// Of bytes.
    pub bps: Rates,
    /// Of requests.
    pub iops: Rates,
    /// A request of more bytes counts as several; 0 has each count once.
    pub iops_size: u64,
}

/// Why limits cannot stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// One of the total and one of its parts.
    #[error("bps/iops/max total values and read/write values cannot be used at the same time")]
    TotalAndPart,
    /// A size of requests that nobody counts.
    #[error("iops size requires an iops value to be set")]
    SizeAlone,
    /// A number too large.
    #[error("bps/iops/max values must be within [0, {VALUE_MAX}]")]
    Range,
    /// A burst of no time.
    #[error("the burst length cannot be 0")]
    NoLength,
    /// A burst that may last, of no rate.
    #[error("burst length set without burst rate")]
    LengthAlone,
    /// A burst of too much in all.
    #[error("burst length too high for this burst rate")]
    LengthTooHigh,
    /// A burst of what is not limited.
    #[error("bps_max/iops_max require corresponding bps/iops values")]
    MaxAlone,
    /// A burst that is slower than the limit.
    #[error("bps_max/iops_max cannot be lower than bps/iops")]
    MaxTooLow,
}

impl Rates {
    fn each(&self) -> [Limit; 3] {
        [self.total, self.read, self.write]
    }

    /// Whether something is said of the total and of one of its parts.
    fn overlaps(&self, what: impl Fn(Limit) -> u64) -> bool {
        let [total, read, write] = self.each().map(|limit| what(limit) > 0);
        total && (read || write)
    }
}

impl ThrottleLimits {
    /// Whether these can stand together.
    ///
    /// # Errors
    /// Why not, with QEMU's text; of several reasons the one that QEMU names.
    pub fn check(&self) -> Result<(), LimitsError> {
        let overlap = |rates: &Rates| rates.overlaps(|limit| limit.avg) || rates.overlaps(|limit| limit.max);
        if overlap(&self.bps) || overlap(&self.iops) {
            return Err(LimitsError::TotalAndPart);
        }
        if self.iops_size > 0 && self.iops.each().iter().all(|limit| limit.avg == 0) {
            return Err(LimitsError::SizeAlone);
        }
        [self.bps, self.iops].iter().flat_map(Rates::each).try_for_each(check)
    }
}

fn check(Limit { avg, max, max_length }: Limit) -> Result<(), LimitsError> {
    let rules = [
        (avg > VALUE_MAX || max > VALUE_MAX, LimitsError::Range),
        (max_length == 0, LimitsError::NoLength),
        (max_length > 1 && max == 0, LimitsError::LengthAlone),
        (max > 0 && max.saturating_mul(max_length) > VALUE_MAX, LimitsError::LengthTooHigh),
        (max > 0 && avg == 0, LimitsError::MaxAlone),
        (max > 0 && max < avg, LimitsError::MaxTooLow),
    ];
    rules.into_iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, error)| Err(error))
}

/// What a group has used of its limits.
#[derive(Debug, Default)]
pub(super) struct Meter {
    limits: ThrottleLimits,
    bytes: [Bucket; 3],
    requests: [Bucket; 3],
    /// When something last ran out, by a reactor's clock.
    now: u64,
}

/// The places of the buckets that a request looks into.
fn places(way: Way) -> [usize; 2] {
    match way {
        Way::Read => [0, 1],
        Way::Write => [0, 2],
    }
}

impl Meter {
    pub(super) fn limits(&self) -> ThrottleLimits {
        self.limits
    }

    /// Other limits from now on.
    pub(super) fn change(&mut self, limits: ThrottleLimits) {
        self.limits = limits;
        let buckets = self.bytes.iter_mut().chain(&mut self.requests);
        let each = [limits.bps.each(), limits.iops.each()];
        buckets.zip(each.into_iter().flatten()).for_each(|(bucket, limit)| bucket.change(limit));
    }

    /// Whether requests of this kind are limited at all.
    pub(super) fn limits_any(&self, way: Way) -> bool {
        self.of(way).any(Bucket::is_limited)
    }

    /// Lets time pass. Clocks of other threads may be a little behind.
    pub(super) fn advance(&mut self, now: u64) {
        let passed = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        self.bytes.iter_mut().chain(&mut self.requests).for_each(|bucket| bucket.leak(passed));
    }

    /// When the next request of this kind may pass; at the earliest now.
    pub(super) fn next(&self, way: Way) -> u64 {
        let wait = self.of(way).map(Bucket::wait).max().unwrap_or(0);
        self.now.saturating_add(wait)
    }

    /// Whether one may pass now.
    pub(super) fn is_open(&self, way: Way) -> bool {
        self.of(way).all(|bucket| bucket.wait() == 0)
    }

    /// A request of so many bytes passes.
    pub(super) fn take(&mut self, way: Way, len: u64) {
        let size = self.limits.iops_size;
        let bytes = u128::from(len) * UNIT;
        let requests = if size > 0 && len > size { bytes / u128::from(size) } else { UNIT };
        for place in places(way) {
            self.bytes[place].take(bytes);
            self.requests[place].take(requests);
        }
    }

    fn of(&self, way: Way) -> impl Iterator<Item = &Bucket> {
        places(way).into_iter().flat_map(|place| [&self.bytes[place], &self.requests[place]])
    }
}
