//! The session's end of a queue thread.

use super::super::inflight::InflightRegion;
use super::super::memory::MemTable;
use super::super::ring::{RingConfig, RingError};
use super::super::shared::ExportShared;
use super::{Mail, Queue};
use crate::export::ExportError;
use crate::io::take_short_turns;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// A ring for a queue thread to take over.
pub struct RingStart {
    /// Where the ring is.
    pub config: RingConfig,
    /// The guest's memory.
    pub memory: Arc<MemTable>,
    /// Written by the front-end when requests are available; without one the ring is looked at every millisecond.
    pub kick: Option<Arc<OwnedFd>>,
    /// Written by us when requests are used.
    pub call: Option<Arc<OwnedFd>>,
    /// Written by us when the ring is broken.
    pub err: Option<Arc<OwnedFd>>,
    /// Where requests in flight are noted, for the next process.
    pub inflight: Option<InflightRegion>,
    /// Whether requests may be fetched yet.
    pub enabled: bool,
}

/// What a session tells a queue. A reply is sent when the command is carried out.
pub enum Letter {
    /// Take this ring over.
    Start(Box<RingStart>, Sender<Result<(), RingError>>),
    /// Stop fetching and drain; the reply is the next available index.
    Stop(Sender<u16>),
    /// Stop and drain, then end.
    End,
    /// Use this memory.
    Memory(Arc<MemTable>, Sender<()>),
    /// Use this kick eventfd.
    Kick(Option<Arc<OwnedFd>>),
    /// Use this call eventfd.
    Call(Option<Arc<OwnedFd>>),
    /// Use this error eventfd.
    Err(Option<Arc<OwnedFd>>),
    /// Let requests be fetched, or not.
    Enabled(bool),
}

/// A running queue thread. Dropping it stops the ring, waits for its I/O and ends the thread.
pub struct QueueHandle {
    mail: Arc<Mail>,
    thread: Option<JoinHandle<()>>,
}

impl QueueHandle {
    /// Starts the thread of queue `index`.
    ///
    /// # Errors
    /// No thread, or no io_uring.
    pub fn spawn(index: u16, export: Arc<ExportShared>) -> Result<Self, ExportError> {
        let (ready, started) = channel();
        let id = export.id.clone();
        let run = move || {
            pin(&export, index);
            take_short_turns();
            match export.reactor().map(|reactor| Queue::new(index, export, reactor)) {
                Ok(mut queue) => {
                    if ready.send(Ok(queue.mail().clone())).is_ok() {
                        while queue.step() {}
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let failed = |source| ExportError::Thread { id: id.clone(), source };
        let thread = std::thread::Builder::new().name(format!("queue-{index}")).spawn(run).map_err(failed)?;
        let mail = started.recv().map_err(|_| failed(std::io::ErrorKind::BrokenPipe.into()))??;
        Ok(Self { mail, thread: Some(thread) })
    }

    /// Hands a ring over; returns once the thread has it.
    ///
    /// # Errors
    /// Why the ring cannot be used; the thread then waits for another.
    pub fn start(&self, start: RingStart) -> Result<(), RingError> {
        self.ask(|reply| Letter::Start(Box::new(start), reply)).unwrap_or(Ok(()))
    }

    /// Stops fetching, waits until no request of the ring is in flight, and returns the next available index.
    pub fn stop(&self) -> u16 {
        self.ask(Letter::Stop).unwrap_or(0)
    }

    /// Gives the thread another memory table; returns once it uses it.
    pub fn set_memory(&self, memory: Arc<MemTable>) {
        self.ask(|reply| Letter::Memory(memory, reply));
    }

    /// Replaces the kick eventfd.
    pub fn set_kick(&self, fd: Option<Arc<OwnedFd>>) {
        self.mail.send(Letter::Kick(fd));
    }

    /// Replaces the call eventfd.
    pub fn set_call(&self, fd: Option<Arc<OwnedFd>>) {
        self.mail.send(Letter::Call(fd));
    }

    /// Replaces the error eventfd.
    pub fn set_err(&self, fd: Option<Arc<OwnedFd>>) {
        self.mail.send(Letter::Err(fd));
    }

    /// Lets requests be fetched, or not.
    pub fn set_enabled(&self, enabled: bool) {
        self.mail.send(Letter::Enabled(enabled));
    }

    /// Sends a letter and waits for its answer; `None` if the thread is gone.
    fn ask<T>(&self, letter: impl FnOnce(Sender<T>) -> Letter) -> Option<T> {
        let (reply, answer) = channel();
        self.mail.send(letter(reply));
        answer.recv().ok()
    }
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        self.mail.send(Letter::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a queue thread ended by a bug; its guest will see requests that never complete");
        }
    }
}

fn pin(export: &ExportShared, index: u16) {
    let Some(cpu) = export.cpus.get(usize::from(index) % export.cpus.len().max(1)) else { return };
    let mut set = rustix::thread::CpuSet::new();
    set.set(*cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(export = %export.id, queue = index, cpu, %error, "cannot pin the queue's thread");
    }
}
