//! Which events may be sent now and which are held back.
//!
//! Knows no clock: the caller says what time it is. Of the events with one key at most one is sent
//! per [`PERIOD`], and at most one, the newest, is held.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Event;

/// The time between two events with one key, as in QEMU.
pub const PERIOD: Duration = Duration::from_secs(1);

/// The state per key. Keys disappear when a period passes without an event.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    keys: HashMap<String, Held>,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    event: Option<Event>,
}

impl RateLimit {
    /// The event if it may be sent at once; else it is held.
    pub(super) fn admit(&mut self, event: Event, now: Instant) -> Option<Event> {
        let Some(key) = event.rate_key() else {
            return Some(event);
        };
        if let Some(held) = self.keys.get_mut(key) {
            held.event = Some(event);
            return None;
        }
        self.keys.insert(key.to_owned(), Held { until: now + PERIOD, event: None });
        Some(event)
    }

    /// The events whose time has come. Each begins a period of its own.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Event> {
        let mut due = Vec::new();
        self.keys.retain(|_, held| {
            if held.until > now {
                return true;
            }
            held.until = now + PERIOD;
            let event = held.event.take();
            let again = event.is_some();
            due.extend(event);
            again
        });
        due
    }

    /// When the next period ends; `None` if none is running.
    pub(super) fn next(&self) -> Option<Instant> {
        self.keys.values().map(|held| held.until).min()
    }
}
