//! The tasks of one reactor and which of them are ready.

use super::EventBell;
use crate::mailbox::Mailbox;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Wake, Waker};

pub(super) type Task = Pin<Box<dyn Future<Output = ()>>>;

type Ready = Mailbox<usize, super::Waker>;

/// Wakes one task, from its own thread or another.
struct TaskWaker {
    id: usize,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.send(self.id);
    }
}

enum Slot {
    Free,
    /// Being polled right now.
    Running(Waker),
    Waits(Task, Waker),
}

/// All tasks, and a queue of the ready ones that any thread can add to.
pub(super) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<usize>,
    ready: Arc<Ready>,
    queue: std::collections::VecDeque<usize>,
}

impl Tasks {
    pub(super) fn new(bell: Arc<EventBell>) -> Self {
        let ready = Arc::new(Mailbox::new(bell));
        Self { slots: Vec::new(), free: Vec::new(), ready, queue: std::collections::VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.queue.is_empty() || self.ready.is_filled()
    }

    pub(super) fn add(&mut self, tasks: Vec<Task>) {
        for task in tasks {
            let id = self.free.pop().unwrap_or(self.slots.len());
            if id == self.slots.len() {
                self.slots.push(Slot::Free);
            }
            let waker = Waker::from(Arc::new(TaskWaker { id, ready: self.ready.clone() }));
            self.slots[id] = Slot::Waits(task, waker);
            self.queue.push_back(id);
        }
    }

    /// Takes the next ready task out to be polled. A wake-up of an ended task is passed over; one meant for an earlier
    /// task of the same slot costs its successor a needless poll.
    pub(super) fn next_ready(&mut self) -> Option<(usize, Task, Waker)> {
        self.queue.extend(self.ready.take());
        while let Some(id) = self.queue.pop_front() {
            if let Slot::Waits(task, waker) = std::mem::replace(&mut self.slots[id], Slot::Free) {
                self.slots[id] = Slot::Running(waker.clone());
                return Some((id, task, waker));
            }
        }
        None
    }

    pub(super) fn keep(&mut self, id: usize, task: Task) {
        if let Slot::Running(waker) = std::mem::replace(&mut self.slots[id], Slot::Free) {
            self.slots[id] = Slot::Waits(task, waker);
        }
    }

    pub(super) fn end(&mut self, id: usize) {
        self.slots[id] = Slot::Free;
        self.free.push(id);
    }
}
