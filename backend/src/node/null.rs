//! Driver `null-co`: no storage, for measuring everything else.

use super::{Kind, Map, Outcome, Request};
use crate::node::options::NullOptions;
use crate::reactor::Handle;

/// A disk that forgets what is written.
pub struct Null {
    options: NullOptions,
}

impl Null {
    /// A disk with these options.
    pub fn new(options: NullOptions) -> Self {
        Self { options }
    }

    /// The options.
    pub fn options(&self) -> &NullOptions {
        &self.options
    }

    pub(super) fn map(&self, request: &Request) -> Map {
        match request.kind {
            _ if self.options.latency_ns > 0 => Map::Task,
            Kind::Read if self.options.read_zeroes => Map::Zeroes,
            _ => Map::Ended(Ok(())),
        }
    }

    pub(super) async fn handle(&self, io: &Handle, mut request: Request) -> Outcome {
        if self.options.latency_ns > 0 {
            io.sleep_until(io.read_clock().saturating_add(self.options.latency_ns)).await;
        }
        if request.kind == Kind::Read && self.options.read_zeroes {
            request.memory.fill_zero(0, request.len);
        }
        (request.memory, Ok(()))
    }
}
