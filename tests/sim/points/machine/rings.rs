//! Rings are taken back from queues and given to them again, also while requests wait for copies.

use super::Machine;
use crate::points::setting::DISKS;
use crate::served::Served;

impl Machine {
    /// Stops a ring now and then, and notes what comes of it.
    pub(super) fn stop(&mut self, goes_on: bool) -> Result<(), String> {
        let (disk, stop) = (self.random.usize(0..DISKS), self.random.u16(0..2048) == 0);
        let served = &mut self.site.disks[disk].served;
        let index = self.random.usize(0..served.guests.len());
        if served.look_at_ring(index, stop && goes_on)? {
            self.quiet = 0;
        }
        Ok(())
    }

    /// Gives out what was given back; whether there was any.
    pub(super) fn start_stopped(&mut self) -> bool {
        let queues = &self.setting.queues;
        self.site.disks.iter_mut().fold(false, |any, disk| disk.served.start_stopped(queues) | any)
    }

    /// Whether a queue has something to do for its guest.
    pub(super) fn serves(&self) -> bool {
        self.served().any(Served::serves)
    }
}
