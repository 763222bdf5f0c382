//! Hands every event to every listener, with the time at which it happened.
//!
//! Knows no monitor. A thread exists only while a rate limit is running.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Event;
use super::rate::RateLimit;

/// Somebody who wants events.
pub trait Listener: Send + Sync {
    /// Takes an event as it goes over the wire. Must not wait for anything.
    fn event(&self, event: &Value);
}

/// The listeners and the limits. A listener is forgotten when its owner drops it.
#[derive(Default)]
pub struct EventBus {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listeners: Vec<Weak<dyn Listener>>,
    limit: RateLimit,
    timing: bool,
}

impl EventBus {
    /// A bus without listeners.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a listener.
    pub fn listen(&self, listener: &Arc<impl Listener + 'static>) {
        let listener: Arc<dyn Listener> = listener.clone();
        let mut state = self.lock();
        state.listeners.retain(|listener| listener.strong_count() > 0);
        state.listeners.push(Arc::downgrade(&listener));
    }

    /// Sends an event, now or, if its rate is limited, later or never.
    pub fn send(self: &Arc<Self>, event: Event) {
        let mut state = self.lock();
        if let Some(event) = state.limit.admit(event, Instant::now()) {
            state.broadcast(&event);
        }
        if !state.timing && state.limit.next().is_some() {
            state.timing = true;
            let bus = self.clone();
            let thread = std::thread::Builder::new().name("qmp-events".into());
            if let Err(error) = thread.spawn(move || bus.time()) {
                tracing::error!("no thread for held events: {error}");
                state.timing = false;
            }
        }
    }

    /// Sends what is held when its time has come, until no limit is running.
    fn time(&self) {
        while let Some(next) = self.next_due() {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            let mut state = self.lock();
            for event in state.limit.due(Instant::now()) {
                state.broadcast(&event);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let mut state = self.lock();
        let next = state.limit.next();
        state.timing = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn broadcast(&mut self, event: &Event) {
        let event = on_the_wire(event, SystemTime::now());
        for listener in self.listeners.iter().filter_map(Weak::upgrade) {
            listener.event(&event);
        }
    }
}

/// The event with its time.
fn on_the_wire(event: &Event, time: SystemTime) -> Value {
    // A clock before 1970 is shown as 1970.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "timestamp": {"seconds": since.as_secs(), "microseconds": since.subsec_micros()},
        "event": event.name(),
        "data": event.data(),
    })
}
