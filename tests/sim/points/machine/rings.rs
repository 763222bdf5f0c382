//! Rings are taken back from queues and given to them again, also while requests wait for copies.

use super::{Machine, demand};
use crate::points::setting::DISKS;
use crate::process::RingState;
use std::sync::mpsc::channel;
use tidemark_backend::export::vhost::queue::Letter;

impl Machine {
    /// Stops a ring now and then, and notes what comes of it.
    pub(super) fn stop(&mut self, goes_on: bool) -> Result<(), String> {
        let (disk, stop) = (self.random.usize(0..DISKS), self.random.u16(0..2048) == 0);
        let served = &mut self.site.disks[disk].served;
        let index = self.random.usize(0..served.guests.len());
        let (queue, guest) = (&mut served.process.queues[index], &served.guests[index]);
        match &queue.state {
            RingState::Starting(answer) => {
                if let Ok(result) = answer.try_recv() {
                    result.map_err(|error| format!("a ring is refused: {error}"))?;
                    queue.state = RingState::Running;
                }
            }
            RingState::Running if stop && goes_on => {
                let (reply, answer) = channel();
                queue.queue.mail().send(Letter::Stop(reply));
                queue.state = RingState::Stopping(answer);
            }
            RingState::Stopping(answer) => {
                let Ok(base) = answer.try_recv() else { return Ok(()) };
                let used = guest.used_idx();
                demand(used == base, || format!("a ring was given back at {base} with {used} used"))?;
                queue.state = RingState::Stopped(base);
                self.quiet = 0;
            }
            _ => {}
        }
        Ok(())
    }

    /// Gives out what was given back; whether there was any.
    pub(super) fn start_stopped(&mut self) -> bool {
        let mut any = false;
        for served in self.site.disks.iter_mut().map(|disk| &mut disk.served) {
            for index in 0..served.guests.len() {
                if let RingState::Stopped(base) = served.process.queues[index].state {
                    let (queues, guest) = (&self.setting.queues, &served.guests[index]);
                    served.process.start_ring(index, queues, guest, &served.memory, base);
                    any = true;
                }
            }
        }
        any
    }

    /// Whether a queue has something to do for its guest.
    pub(super) fn serves(&self) -> bool {
        let works = |served: &crate::points::site::Served| {
            let mut queues = served.process.queues.iter().zip(&served.guests);
            queues.any(|(queue, guest)| match queue.state {
                RingState::Running => guest.in_flight() > 0,
                RingState::Starting(_) | RingState::Stopping(_) => queue.queue.has_work(),
                RingState::Stopped(_) => false,
            })
        };
        self.served().any(works)
    }
}
