//! Who waits at a throttle: in turn by disk, and of one disk in the order in which requests came. Knows no time.

use std::collections::VecDeque;
use std::task::Waker;

/// A request that waits.
#[derive(Debug)]
pub(super) struct Ticket {
    /// Later ones have more.
    pub(super) number: u64,
    /// Its bytes.
    pub(super) len: u64,
    pub(super) waker: Option<Waker>,
}

/// What one disk has waiting; never nothing.
#[derive(Debug)]
struct Disk {
    member: u64,
    tickets: VecDeque<Ticket>,
}

/// Those who wait for one thing.
#[derive(Debug, Default)]
pub(super) struct Line(VecDeque<Disk>);

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A request of a disk comes last of that disk's; a disk that had none waiting has its turn after all others.
    pub(super) fn add(&mut self, member: u64, ticket: Ticket) {
        match self.0.iter_mut().find(|disk| disk.member == member) {
            Some(disk) => disk.tickets.push_back(ticket),
            None => self.0.push_back(Disk { member, tickets: VecDeque::from([ticket]) }),
        }
    }

    /// Who is next.
    pub(super) fn first(&self) -> Option<&Ticket> {
        self.0.front()?.tickets.front()
    }

    /// Takes who is next; its disk has its next turn after all others.
    pub(super) fn next(&mut self) -> Option<Ticket> {
        let mut disk = self.0.pop_front()?;
        let ticket = disk.tickets.pop_front();
        if !disk.tickets.is_empty() {
            self.0.push_back(disk);
        }
        ticket
    }

    /// A request that waits.
    pub(super) fn find(&mut self, member: u64, number: u64) -> Option<&mut Ticket> {
        let disk = self.0.iter_mut().find(|disk| disk.member == member)?;
        let place = disk.tickets.binary_search_by_key(&number, |ticket| ticket.number).ok()?;
        disk.tickets.get_mut(place)
    }

    /// A request waits no more.
    pub(super) fn remove(&mut self, member: u64, number: u64) {
        if let Some(disk) = self.0.iter_mut().find(|disk| disk.member == member) {
            disk.tickets.retain(|ticket| ticket.number != number);
        }
        self.0.retain(|disk| !disk.tickets.is_empty());
    }

    /// Takes all that a disk has waiting.
    pub(super) fn take(&mut self, member: u64) -> VecDeque<Ticket> {
        let place = self.0.iter().position(|disk| disk.member == member);
        place.and_then(|place| self.0.remove(place)).map(|disk| disk.tickets).unwrap_or_default()
    }

    /// Wakes who is next, to look when that will be.
    pub(super) fn wake_first(&self) {
        self.first().and_then(|ticket| ticket.waker.as_ref()).into_iter().for_each(Waker::wake_by_ref);
    }
}
