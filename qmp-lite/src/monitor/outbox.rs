//! What a client has not read yet.
//!
//! Knows text and its bounds, no socket. Replies wait for room, so that a client that asks without
//! reading is not listened to any more; events never wait, and a client that lets too many of them
//! lie is given up. So no client costs more memory than [`EVENT_BYTES`] and one reply, and none
//! makes anybody else wait.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::event::Listener;

/// With more than this unread, no further command of the client is run.
pub(super) const REPLY_BYTES: usize = 1 << 20;

/// With more than this unread, an event ends the connection.
pub(super) const EVENT_BYTES: usize = 8 << 20;

/// How texts are printed.
pub(super) type Print = fn(&Value) -> String;

/// A queue of texts between those who have something to say and the thread that sends it.
pub(super) struct Outbox {
    print: Print,
    state: Mutex<State>,
    changed: Condvar,
    /// Ends the connection, whatever waits for it.
    give_up: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Default)]
struct State {
    texts: VecDeque<String>,
    bytes: usize,
    phase: Phase,
    /// Since when the connection is to end: replies no longer wait for room.
    hurrying: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Texts are taken.
    #[default]
    Open,
    /// No more texts come; those that are there are still sent.
    Finishing,
    /// Nothing more is sent.
    Closed,
}

impl Outbox {
    /// An empty queue. `give_up` is called when too many events are unread.
    pub(super) fn new(print: Print, give_up: impl Fn() + Send + Sync + 'static) -> Self {
        let give_up = Box::new(give_up);
        Self { print, state: Mutex::default(), changed: Condvar::new(), give_up }
    }

    /// Adds a reply once there is room. False if the client is gone.
    pub(super) fn reply(&self, reply: &Value) -> bool {
        let text = (self.print)(reply);
        let mut state = self.lock();
        while state.phase == Phase::Open && state.hurrying.is_none() && state.bytes > REPLY_BYTES {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.phase == Phase::Closed {
            return false;
        }
        state.push(text);
        self.changed.notify_all();
        true
    }

    /// The next text to send; waits for one. `None` when there will be none.
    pub(super) fn next(&self) -> Option<String> {
        let mut state = self.lock();
        loop {
            if state.phase == Phase::Closed {
                return None;
            }
            if let Some(text) = state.texts.pop_front() {
                return Some(text);
            }
            if state.phase == Phase::Finishing {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// `bytes` of a text that [`Outbox::next`] gave out have been sent.
    pub(super) fn sent(&self, bytes: usize) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        self.changed.notify_all();
    }

    /// No more requests are read; the reply to the one that is running is still awaited.
    pub(super) fn hurry(&self) {
        self.lock().hurrying.get_or_insert_with(Instant::now);
        self.changed.notify_all();
    }

    /// No more texts come; those that are there are still sent.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Finishing;
            state.hurrying.get_or_insert_with(Instant::now);
        }
        self.changed.notify_all();
    }

    /// Nothing more is sent.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        state.texts = VecDeque::new();
        self.changed.notify_all();
    }

    /// How long the connection has been about to end, if it is.
    pub(super) fn hurrying(&self) -> Option<Duration> {
        self.lock().hurrying.map(|since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, text: String) {
        self.bytes += text.len();
        self.texts.push_back(text);
    }
}

impl Listener for Outbox {
    fn event(&self, event: &Value) {
        let text = (self.print)(event);
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return;
        }
        if state.bytes + text.len() > EVENT_BYTES {
            drop(state);
            tracing::warn!("a QMP client does not read its events and is disconnected");
            self.close();
            (self.give_up)();
            return;
        }
        state.push(text);
        self.changed.notify_all();
    }
}
