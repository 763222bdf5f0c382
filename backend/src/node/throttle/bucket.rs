//! Leaky buckets: what was used runs out of them at a steady rate, and who finds one full waits.
//!
//! Exact: levels are counted in billionths of a unit, so that a nanosecond of any rate is a whole number. Knows no clock
//! and no requests. What is used is paid for afterwards: a request passes when the bucket is not over its brim, however
//! much it pours in.

/// Billionths of a unit.
type Level = u128;
/// So many of them are one unit.
pub(super) const UNIT: Level = 1_000_000_000;
/// The part of a second's worth that may be used at once where nothing is said of bursts.
const SHORT: Level = 10;

/// How much may be used of something, in units: bytes or requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Per second, in the long run; 0 is without limit.
    pub avg: u64,
    /// Per second, in bursts; 0 is none but short ones.
    pub max: u64,
    /// How many seconds a burst may last.
    pub max_length: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self { avg: 0, max: 0, max_length: 1 }
    }
}

/// What has been used, and has not run out yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    limit: Limit,
    level: Level,
    /// The same for the rate within a burst.
    burst: Level,
}

impl Bucket {
    /// Another limit from now on. What was used stays used, as far as it does not keep anybody waiting.
    pub(super) fn change(&mut self, limit: Limit) {
        self.limit = limit;
        self.level = self.level.min(self.brim());
        self.burst = self.burst.min(self.burst_brim());
    }

    /// Whether it limits anything.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.avg > 0
    }

    /// So much time has passed.
    pub(super) fn leak(&mut self, nanoseconds: u64) {
        let ran_out = |rate: u64| Level::from(nanoseconds).saturating_mul(rate.into());
        self.level = self.level.saturating_sub(ran_out(self.limit.avg));
        self.burst = self.burst.saturating_sub(ran_out(self.limit.max));
    }

    /// Nanoseconds until something may be used.
    pub(super) fn wait(&self) -> u64 {
        let Limit { avg, max, .. } = self.limit;
        let over = time(self.level.saturating_sub(self.brim()), avg);
        match self.has_rate_in_bursts() {
            true => over.max(time(self.burst.saturating_sub(self.burst_brim()), max)),
            false => over,
        }
    }

    /// Uses so many billionths of a unit.
    pub(super) fn take(&mut self, amount: Level) {
        if self.is_limited() {
            self.level = self.level.saturating_add(amount);
        }
        if self.has_rate_in_bursts() {
            self.burst = self.burst.saturating_add(amount);
        }
    }

    /// What may be in it without anybody waiting.
    fn brim(&self) -> Level {
        let Limit { avg, max, max_length } = self.limit;
        match max {
            0 => Level::from(avg) * UNIT / SHORT,
            // No more than 2^50 units, as is checked where limits come from; whatever it is, it does not wrap.
            max => Level::from(max).saturating_mul(max_length.into()).saturating_mul(UNIT),
        }
    }

    fn burst_brim(&self) -> Level {
        Level::from(self.limit.max) * UNIT / SHORT
    }

    /// A burst of a second is used as fast as it can be; only longer ones have a rate.
    fn has_rate_in_bursts(&self) -> bool {
        self.is_limited() && self.limit.max > 0 && self.limit.max_length > 1
    }
}

/// Nanoseconds until so much has run out.
fn time(amount: Level, rate: u64) -> u64 {
    if rate == 0 {
        return 0;
    }
    u64::try_from(amount.div_ceil(rate.into())).unwrap_or(u64::MAX)
}
