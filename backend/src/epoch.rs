//! Stamp, hold, grace: a point in time that waits for nobody's storage.
//!
//! Whoever injects requests sits on a [`Seat`]. A changing request is *stamped* with the seat's epoch inside a short
//! section, counted, and counted off when it has ended. A [`Hold`] keeps everybody out of that section while pointers are
//! swapped, then moves the epochs on; it waits only for seats that are inside the section at that moment, never for
//! I/O. [`Grace`] ends when the requests of the epoch before have ended. Knows no nodes: what is swapped is the caller's.
//!
//! Entering stores `inside` and then loads `held`; holding stores `held` and then loads `inside`. One of the two must see
//! the other, so both need a full fence between; the frequent side's is moved to the rare one by membarrier(2) where the
//! kernel has it.

mod barrier;
mod passage;

pub use passage::{Passage, Traffic};

use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering};

/// What one injector of requests and whoever holds it share. Written by one thread, but for `held` and `epoch`.
#[derive(Default)]
#[repr(align(128))]
pub struct Seat {
    inside: AtomicBool,
    held: AtomicBool,
    epoch: AtomicU64,
    /// Changing requests under way, by the epoch's parity.
    changes: [AtomicU64; 2],
    /// All requests under way but flushes, by round.
    passing: passage::Passing,
    /// Flushes under way, by rounds of their own.
    flushing: passage::Passing,
    wake: Option<Wake>,
}

/// Wakes the thread of a seat if it sleeps.
pub type Wake = Box<dyn Fn() + Send + Sync>;

impl Seat {
    /// A seat nobody holds.
    pub fn new(wake: Option<Wake>) -> Arc<Self> {
        barrier::prepare();
        Arc::new(Self { wake, ..Self::default() })
    }

    /// Has its thread look at its epoch soon, even if it sleeps.
    pub fn nudge(&self) {
        self.wake.iter().for_each(|wake| wake());
    }

    /// Begins the stamp section. False if the seat is held: try again.
    #[inline]
    pub fn enter(&self) -> bool {
        self.inside.store(true, Ordering::Relaxed);
        barrier::light();
        // Acquire: what was changed under the last hold is seen inside.
        let held = self.held.load(Ordering::Acquire);
        if held {
            self.leave();
        }
        !held
    }

    /// Ends the stamp section.
    #[inline]
    pub fn leave(&self) {
        // Release: whoever holds next sees what was counted inside.
        self.inside.store(false, Ordering::Release);
    }

    /// The epoch; inside the section it does not move.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Says how many changing requests of an epoch's parity are under way. What they have marked must be marked before.
    #[inline]
    pub fn set_changes(&self, parity: usize, count: u64) {
        // Release: whoever sees the count at zero sees the marks.
        self.changes[parity & 1].store(count, Ordering::Release);
    }

    /// Whether the requests of the epoch before this one have ended.
    fn is_settled(&self) -> bool {
        self.changes[parity(self.epoch().wrapping_add(1))].load(Ordering::Acquire) == 0
    }

    fn is_inside(&self) -> bool {
        self.inside.load(Ordering::Acquire)
    }
}

/// The half of the counters that an epoch uses.
#[inline]
pub fn parity(epoch: u64) -> usize {
    usize::from(epoch & 1 != 0)
}

/// Nobody of these seats is in the stamp section, nor comes in, until this is released or dropped.
pub struct Hold(Vec<Arc<Seat>>);

impl Hold {
    /// Asks all to stay outside and looks whether they are, until `patient` says no. `None` if somebody stayed inside;
    /// then nobody is held. The seats' last grace must be over, and no other hold may take any of them meanwhile.
    pub fn begin(seats: Vec<Arc<Seat>>, mut patient: impl FnMut() -> bool) -> Option<Self> {
        debug_assert!(seats.iter().all(|seat| seat.is_settled()), "the last grace is not over");
        for seat in &seats {
            seat.held.store(true, Ordering::Relaxed);
        }
        let hold = Self(seats);
        barrier::heavy();
        while hold.0.iter().any(|seat| seat.is_inside()) {
            if !patient() {
                return None;
            }
        }
        Some(hold)
    }

    /// Moves the epochs on and lets everybody in again.
    pub fn release(mut self) -> Grace {
        for seat in &self.0 {
            seat.epoch.fetch_add(1, Ordering::Release);
        }
        Grace::of(self.let_go())
    }

    fn let_go(&mut self) -> Vec<Arc<Seat>> {
        let seats = std::mem::take(&mut self.0);
        for seat in &seats {
            // Release: what was changed meanwhile is seen by whoever comes in.
            seat.held.store(false, Ordering::Release);
        }
        seats
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// The time in which requests from before a hold may still be under way: seats, and the epoch that each had after it.
#[derive(Default)]
pub struct Grace(Vec<(Arc<Seat>, u64)>);

impl Grace {
    /// Of seats whose last hold may not be settled yet.
    pub fn of(seats: Vec<Arc<Seat>>) -> Self {
        let with_epoch = |seat: Arc<Seat>| {
            let epoch = seat.epoch();
            (seat, epoch)
        };
        Self(seats.into_iter().map(with_epoch).collect())
    }

    /// Whether they have all ended; what they marked is then visible.
    pub fn is_over(&self) -> bool {
        // Where another hold has come since, it was over by then: whoever waits for it may be under way to that one.
        self.0.iter().all(|(seat, epoch)| seat.epoch() != *epoch || seat.is_settled())
    }
}

#[cfg(test)]
mod tests;
