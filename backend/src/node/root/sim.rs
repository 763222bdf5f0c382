//! A root used as an export's queue uses it, for guests on the simulator.

use super::{Root, Stamp};
use crate::io::Op;
use crate::node::{Map, Outcome, Request};
use crate::reactor::Handle;

impl Root {
    /// Runs a request to its end: on the fast path where it leads somewhere, else as a task.
    pub async fn through_queue(&self, io: &Handle, mut request: Request) -> Outcome {
        let len = request.len;
        let (map, stamp) = {
            let section = self.enter();
            let map = section.map(&request);
            let submitted = !matches!(map, Map::Task | Map::Ended(Err(_)));
            let stamp = if submitted { section.stamp(&request) } else { Stamp::default() };
            (map, stamp)
        };
        let outcome = match map {
            Map::File { file, offset, kind } => {
                let (op, result) = io.run(Op { kind, file, offset, len, memory: request.memory }).await;
                (op.memory, result)
            }
            Map::Ended(result) => (request.memory, result),
            Map::Zeroes => {
                request.memory.fill_zero(0, len);
                (request.memory, Ok(()))
            }
            Map::Task => return self.handle(io, request).await,
        };
        self.end(stamp);
        outcome
    }
}
