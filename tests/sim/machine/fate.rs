//! What happens to a run: rings stop and start, memory moves, the process dies, the power fails.

use super::{Machine, demand};
use crate::process::RingState;
use std::sync::mpsc::channel;
use tidemark_backend::export::vhost::queue::Letter;

impl Machine {
    /// What a front-end, an operator or fate may do at any moment.
    pub(super) fn interfere(&mut self) -> Result<(), String> {
        let [stop, memory, disable, kill, power] = self.scenario.chances;
        let index = self.random.usize(0..self.guests.len());
        let mut happens = |chance: u16| self.random.u16(0..4096) < chance;
        let (stop, memory, disable) = (happens(stop), happens(memory), happens(disable));
        let (kill, power, resume) = (happens(kill), happens(power), happens(200));
        if stop {
            self.stop_ring(index);
        }
        if let (true, Some(process)) = (memory, &self.process) {
            let (reply, _) = channel();
            let letter = Letter::Memory(process.map(&self.memory), reply);
            process.queues[index].queue.mail().send(letter);
        }
        if let (true, Some(process)) = (disable, &mut self.process) {
            process.queues[index].enabled = false;
            process.queues[index].queue.mail().send(Letter::Enabled(false));
        }
        if kill {
            self.kill();
            self.start_process();
        }
        if power {
            self.cut_power()?;
            self.boot();
        }
        if resume {
            self.resume();
        }
        Ok(())
    }

    fn stop_ring(&mut self, index: usize) {
        let Some(process) = &mut self.process else { return };
        let served = &mut process.queues[index];
        if matches!(served.state, RingState::Running) {
            let (reply, answer) = channel();
            served.queue.mail().send(Letter::Stop(reply));
            served.state = RingState::Stopping(answer);
            self.report.stops += 1;
        }
    }

    /// Starts what was stopped and enables what was disabled.
    pub(super) fn resume(&mut self) {
        let Some(process) = &mut self.process else { return };
        for index in 0..self.guests.len() {
            let served = &mut process.queues[index];
            if !served.enabled {
                served.enabled = true;
                served.queue.mail().send(Letter::Enabled(true));
            }
            if let RingState::Stopped(base) = served.state {
                process.start_ring(index, &self.scenario, &self.guests[index], &self.memory, base);
            }
        }
    }

    pub(super) fn read_replies(&mut self) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        for (served, guest) in process.queues.iter_mut().zip(&self.guests) {
            match &served.state {
                RingState::Starting(answer) => {
                    if let Ok(result) = answer.try_recv() {
                        result.map_err(|error| format!("a ring is refused: {error}"))?;
                        served.state = RingState::Running;
                    }
                }
                RingState::Stopping(answer) => {
                    let Ok(base) = answer.try_recv() else { continue };
                    let (used, left) = (guest.used_idx(), self.world.in_flight(served.port));
                    demand(used == base && left == 0, || {
                        format!("ring given back at {base} with {used} used and {left} operations under way")
                    })?;
                    served.state = RingState::Stopped(base);
                }
                RingState::Stopped(base) if guest.used_idx() != *base => {
                    return Err(format!("a ring that was given back at {base} has {} used", guest.used_idx()));
                }
                RingState::Running | RingState::Stopped(_) => {}
            }
        }
        Ok(())
    }

    fn kill(&mut self) {
        self.process = None;
        self.report.kills += 1;
        if self.scenario.faults.flush_error > 0 {
            self.oracle.doubt();
        }
    }

    pub(super) fn cut_power(&mut self) -> Result<(), String> {
        let Some(process) = self.process.take() else { return Ok(()) };
        let file = process.file;
        drop(process);
        self.world.crash();
        self.report.power_cuts += 1;
        let content = self.disk(file);
        self.oracle.check_power_cut(&content).map_err(|why| format!("after a power cut: {why}"))
    }
}
