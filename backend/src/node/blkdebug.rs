//! Driver `blkdebug`: a filter that fails requests by rule, as QEMU's does, and delays them (`x-delay-ns`).
//!
//! Rules are armed by events. `none` arms from the start; `pwritev`, `pwritev_zero` and `pwritev_done` are the filter's
//! own; `read_aio`, `write_aio`, `flush_to_os` and `flush_to_disk` come from a `raw` node above, others from the formats
//! that have them. A rule armed by an event replaces those armed by the event before. With `align` the filter is storage
//! of larger blocks: rules meet whole blocks, and writes of less read the rest of their blocks first.

mod align;
mod config;
mod event;

pub use event::EVENTS;

use super::link::Link;
use super::{Kind, Node, Outcome, Request};
use crate::error::{GraphError, IoError};
use crate::node::options::{BlkDebugOptions, Delays, InjectError, IoType, SetState};
use crate::range_lock::RangeLock;
use crate::reactor::Handle;
use std::sync::{Arc, Mutex, PoisonError};

/// Kinds a rule without `iotype` applies to.
const DEFAULT_TYPES: [IoType; 5] = [IoType::Read, IoType::Write, IoType::WriteZeroes, IoType::Discard, IoType::Flush];

#[derive(Debug)]
struct State {
    state: i64,
    /// `None` in place of a rule that is used up.
    inject: Vec<Option<InjectError>>,
    set_state: Vec<SetState>,
    /// Indices of the rules that the last event armed.
    armed: Vec<usize>,
}

/// A filter with rules.
pub struct BlkDebug {
    child: Link,
    delay: Delays,
    /// Bytes of a block.
    alignment: u32,
    /// Writes that read the rest of their blocks.
    ranges: RangeLock,
    state: Mutex<State>,
}

impl BlkDebug {
    /// A filter over `child`.
    ///
    /// # Errors
    /// When the config file cannot be read or makes no sense; the alignment is none.
    pub fn new(child: Arc<Node>, options: &BlkDebugOptions) -> Result<Self, GraphError> {
        let (mut inject, mut set_state) = (options.inject_error.clone(), options.set_state.clone());
        if let Some(path) = &options.config {
            config::read(path, &mut inject, &mut set_state)?;
        }
        let inject = inject.into_iter().map(Some).collect();
        let state = State { state: 1, inject, set_state, armed: Vec::new() };
        let alignment = align::alignment(options.align, child.request_alignment())?;
        let (delay, state) = (options.delay, Mutex::new(state));
        let filter = Self { child: Link::new(child), delay, alignment, ranges: RangeLock::default(), state };
        filter.event("none");
        Ok(filter)
    }

    /// The node below.
    pub fn child(&self) -> Arc<Node> {
        self.child.get()
    }

    /// Over another node, which is as long; inside [`crate::node::points::hold`].
    pub(crate) fn lead(&self, child: &Arc<Node>) {
        self.child.change(child.clone());
    }

    /// Tells the filter that `name` happened above it.
    pub fn event(&self, name: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = state.state;
        let applies = |event: &str, wanted: Option<i64>| event == name && wanted.is_none_or(|state| state == now);
        let rules = state.inject.iter().enumerate().filter_map(|(index, rule)| Some((index, rule.as_ref()?)));
        let armed: Vec<_> =
            rules.filter(|(_, rule)| applies(&rule.event, rule.state)).map(|(index, _)| index).collect();
        // Of several the first one counts, as in QEMU.
        let next = state.set_state.iter().find(|rule| applies(&rule.event, rule.state)).map(|rule| rule.new_state);
        if !armed.is_empty() {
            state.armed = armed;
        }
        state.state = next.unwrap_or(now);
    }

    pub(super) fn alignment(&self) -> u32 {
        self.alignment
    }

    pub(super) async fn handle(&self, io: &Handle, request: Request) -> Outcome {
        if self.is_aligned(&request) {
            return self.handle_blocks(io, request).await;
        }
        self.handle_parts(io, request).await
    }

    /// A request of whole blocks.
    async fn handle_blocks(&self, io: &Handle, request: Request) -> Outcome {
        let kind = io_type(request.kind);
        match kind {
            IoType::Write => self.event("pwritev"),
            IoType::WriteZeroes => self.event("pwritev_zero"),
            _ => {}
        }
        let outcome = self.filtered(io, request, kind).await;
        if matches!(kind, IoType::Write | IoType::WriteZeroes) {
            self.event("pwritev_done");
        }
        outcome
    }

    async fn filtered(&self, io: &Handle, request: Request, kind: IoType) -> Outcome {
        if let Some(error) = self.hit(kind, request.offset, request.len) {
            return (request.memory, Err(error));
        }
        let delay = match kind {
            IoType::Read => self.delay.read,
            IoType::Write => self.delay.write,
            IoType::WriteZeroes => self.delay.write_zeroes,
            IoType::Discard => self.delay.discard,
            IoType::Flush | IoType::BlockStatus => self.delay.flush,
        };
        if delay > 0 {
            io.sleep_until(io.read_clock().saturating_add(delay)).await;
        }
        self.child().handle(io, request).await
    }

    /// The error of the first armed rule that the request meets; a rule for `once` is then used up.
    fn hit(&self, kind: IoType, offset: u64, len: u64) -> Option<IoError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let meets = |rule: &InjectError| {
            let kind_fits = rule.iotype.map_or(DEFAULT_TYPES.contains(&kind), |wanted| wanted == kind);
            let at = rule.sector.map(|sector| sector.saturating_mul(512));
            kind_fits && at.is_none_or(|at| at >= offset && at < offset.saturating_add(len))
        };
        let State { armed, inject, .. } = &mut *state;
        let index =
            armed.iter().find(|index| inject.get(**index).is_some_and(|rule| rule.as_ref().is_some_and(meets)))?;
        let rule = inject.get_mut(*index)?;
        let errno = rule.as_ref().map(|rule| rule.errno).filter(|errno| *errno != 0)?;
        rule.take_if(|rule| rule.once);
        Some(IoError::from_errno(errno))
    }
}

fn io_type(kind: Kind) -> IoType {
    match kind {
        Kind::Read => IoType::Read,
        Kind::Write => IoType::Write,
        Kind::Zero { .. } => IoType::WriteZeroes,
        Kind::Discard => IoType::Discard,
        Kind::Flush => IoType::Flush,
    }
}
