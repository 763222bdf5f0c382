//! An export with its guest: the device's queues, their drivers, and the rings between the two.

use crate::guest::{DATA, GuestQueue};
use crate::process::{Process, RingState};
use crate::scenario::Scenario;
use std::sync::Arc;
use std::sync::mpsc::channel;
use tidemark_backend::export::vhost::queue::Letter;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::sim::World;
use tidemark_backend::node::Node;
use tidemark_frontend::{Arena, GuestMemory, RegionSpec};

/// An export with its guest.
pub struct Served {
    /// The device.
    pub process: Process,
    /// Its drivers, by queue.
    pub guests: Vec<GuestQueue>,
    /// Their memory.
    pub memory: GuestMemory,
}

impl Served {
    /// An export of `node` with a guest that has just booted.
    pub fn new(world: &World, queues: &Scenario, graph: &Arc<Graph>, node: &Arc<Node>) -> Self {
        let size = queues.queue_size;
        let low = RegionSpec { addr: 0x10_0000, len: 1 << 20 };
        let high_len = (u64::from(queues.queues) * u64::from(size) * u64::from(DATA)).next_multiple_of(4096);
        let high = RegionSpec { addr: 1 << 32, len: high_len };
        let memory = GuestMemory::new(&[high, low]).unwrap();
        let (mut low, mut high) = (Arena::new(low), Arena::new(high));
        let flags = [queues.event_idx, queues.indirect, queues.waits_for_calls];
        let guest = |_| GuestQueue::new(&memory, [&mut low, &mut high], size, flags);
        let guests: Vec<GuestQueue> = (0..queues.queues).map(guest).collect();
        let mut process = Process::serve(world, queues, graph.clone(), node, None);
        for (index, guest) in guests.iter().enumerate() {
            process.start_ring(index, queues, guest, &memory, 0);
        }
        Self { process, guests, memory }
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> usize {
        self.guests.iter().map(GuestQueue::in_flight).sum()
    }

    /// Notes what has become of a ring, and stops it if that is asked for and it runs. True if it was given back.
    pub fn look_at_ring(&mut self, index: usize, stops: bool) -> Result<bool, String> {
        let (served, guest) = (&mut self.process.queues[index], &self.guests[index]);
        match &served.state {
            RingState::Starting(answer) => {
                if let Ok(result) = answer.try_recv() {
                    result.map_err(|error| format!("a ring is refused: {error}"))?;
                    served.state = RingState::Running;
                }
            }
            RingState::Running if stops => {
                let (reply, answer) = channel();
                served.queue.mail().send(Letter::Stop(reply));
                served.state = RingState::Stopping(answer);
            }
            RingState::Stopping(answer) => {
                let Ok(base) = answer.try_recv() else { return Ok(false) };
                let used = guest.used_idx();
                if used != base {
                    return Err(format!("a ring was given back at {base} with {used} used"));
                }
                served.state = RingState::Stopped(base);
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }

    /// Gives out what was given back; whether there was any.
    pub fn start_stopped(&mut self, queues: &Scenario) -> bool {
        let mut any = false;
        for index in 0..self.guests.len() {
            if let RingState::Stopped(base) = self.process.queues[index].state {
                self.process.start_ring(index, queues, &self.guests[index], &self.memory, base);
                any = true;
            }
        }
        any
    }

    /// Whether a queue has something to do for its guest.
    pub fn serves(&self) -> bool {
        let mut queues = self.process.queues.iter().zip(&self.guests);
        queues.any(|(queue, guest)| match queue.state {
            RingState::Running => guest.in_flight() > 0,
            RingState::Starting(_) | RingState::Stopping(_) => queue.queue.has_work(),
            RingState::Stopped(_) => false,
        })
    }
}
