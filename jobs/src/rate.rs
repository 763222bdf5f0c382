//! A job's speed limit: a budget per slice of 100 ms, as QEMU counts it.
//!
//! What is asked for is granted as long as the running slice has anything left, so the first request always passes,
//! whatever its size. An overdrawn slice is extended until the average fits.

/// Length of a slice in nanoseconds.
const SLICE: u64 = 100_000_000;

/// The limit and what was used of the current slice.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RateLimit {
    speed: u64,
    start: u64,
    used: u64,
}

impl RateLimit {
    pub(crate) fn speed(&self) -> u64 {
        self.speed
    }

    /// Bytes per second, 0 for no limit. Valid for the slice under way too.
    pub(crate) fn set_speed(&mut self, speed: u64) {
        self.speed = speed;
    }

    /// Bytes per slice, if there is a limit.
    fn quota(&self) -> Option<u64> {
        (self.speed > 0).then(|| (self.speed / 10).max(1))
    }

    /// When the next request is granted, if that is after `now` (nanoseconds).
    pub(crate) fn wait_until(&self, now: u64) -> Option<u64> {
        let quota = self.quota()?;
        if self.used < quota {
            return None;
        }
        let length = u128::from(self.used) * u128::from(SLICE) / u128::from(quota);
        let end = self.start.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        (end > now).then_some(end)
    }

    /// Takes `bytes` from the budget, whether it has them or not.
    pub(crate) fn account(&mut self, bytes: u64, now: u64) {
        if self.wait_until(now).is_none() && now.saturating_sub(self.start) >= SLICE {
            (self.start, self.used) = (now, 0);
        }
        self.used = self.used.saturating_add(bytes);
    }
}
