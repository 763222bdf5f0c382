//! The threads that connections live on: up to four, started when they are needed, ended when they have had nothing to do
//! for some seconds.

use super::connection::{self, Arrival};
use crate::graph::Graph;
use crate::io::{Uring, Wait, Workers, give_back_unused_memory};
use crate::mailbox::Mailbox;
use crate::reactor::{Reactor, Waker};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Threads at most, and at most one per CPU.
pub const THREADS_MAX: usize = 4;

/// How long a thread without connections stays, in nanoseconds.
const IDLE_NS: u64 = 5_000_000_000;

enum Letter {
    Arrival(Arrival),
    End,
}

type Mail = Mailbox<Letter, Waker>;

/// One thread, as others see it.
struct Lane {
    mail: Arc<Mail>,
    /// Connections that it was given and that have not ended.
    load: usize,
    thread: JoinHandle<()>,
}

/// See the module's description.
pub struct Pool {
    graph: Arc<Graph>,
    workers: Arc<Workers>,
    most: usize,
    lanes: Mutex<[Option<Lane>; THREADS_MAX]>,
}

impl Pool {
    /// No threads.
    pub fn new(graph: Arc<Graph>, workers: Arc<Workers>) -> Arc<Self> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self { graph, workers, most: cpus.min(THREADS_MAX), lanes: Mutex::default() })
    }

    /// Finds a thread for a connection: one that has none, a new one, or the one with the fewest.
    ///
    /// # Errors
    /// There is no thread, and none can be started.
    pub fn give(self: &Arc<Self>, arrival: Arrival) -> io::Result<()> {
        let mut lanes = self.lock();
        let index = match self.choose(&lanes) {
            (index, true) => index,
            (index, false) => self.start(index, &mut lanes).or_else(|error| least_loaded(&lanes).ok_or(error))?,
        };
        if let Some(lane) = &mut lanes[index] {
            lane.load += 1;
            lane.mail.send(Letter::Arrival(arrival));
        }
        Ok(())
    }

    /// The place of the thread to take, and whether there is one.
    fn choose(&self, lanes: &[Option<Lane>; THREADS_MAX]) -> (usize, bool) {
        let free = lanes[..self.most].iter().position(Option::is_none);
        match (least_loaded(lanes), free) {
            (Some(index), None) => (index, true),
            (Some(index), Some(_)) if lanes[index].as_ref().is_some_and(|lane| lane.load == 0) => (index, true),
            (_, free) => (free.unwrap_or(0), false),
        }
    }

    fn start(self: &Arc<Self>, index: usize, lanes: &mut [Option<Lane>; THREADS_MAX]) -> io::Result<usize> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let pool = self.clone();
        // The reactor is made by its thread: it is nobody else's.
        let run = move || match pool.reactor() {
            Ok(reactor) => {
                let mail = Arc::new(Mailbox::new(reactor.bell()));
                // Whoever started the thread waits for this.
                let _ = sender.send(Ok(mail.clone()));
                pool.run(index, reactor, &mail);
            }
            Err(error) => drop(sender.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name(format!("nbd-{index}")).spawn(run)?;
        let mail = receiver.recv().map_err(io::Error::other)??;
        lanes[index] = Some(Lane { mail, load: 0, thread });
        Ok(index)
    }

    fn reactor(&self) -> io::Result<Reactor> {
        let ring = Uring::new(self.graph.files().clone(), self.workers.clone()).map_err(io::Error::other)?;
        Reactor::new(Box::new(ring))
    }

    /// One thread's life.
    fn run(self: &Arc<Self>, index: usize, mut reactor: Reactor, mail: &Arc<Mail>) {
        let mut idle_since = reactor.handle().now();
        let mut ending = false;
        loop {
            for letter in mail.take() {
                match letter {
                    Letter::Arrival(arrival) => self.begin(index, &reactor, arrival),
                    Letter::End => ending = true,
                }
            }
            let now = reactor.handle().now();
            if reactor.has_tasks() {
                idle_since = now;
            } else if ending || (now >= idle_since.saturating_add(IDLE_NS) && self.retire(index)) {
                return;
            }
            let wait =
                if reactor.has_tasks() { Wait::Forever } else { Wait::Until(idle_since.saturating_add(IDLE_NS)) };
            reactor.turn(wait, || mail.is_filled(), |_| ());
        }
    }

    fn begin(self: &Arc<Self>, index: usize, reactor: &Reactor, arrival: Arrival) {
        let (pool, io, bell) = (self.clone(), reactor.handle().clone(), reactor.bell());
        reactor.handle().spawn(async move {
            connection::serve(&io, &bell, arrival, index).await;
            if let Some(lane) = &mut pool.lock()[index] {
                lane.load -= 1;
            }
        });
    }

    /// Whether nothing was given to a thread that wants to end; then it is gone for everybody.
    fn retire(&self, index: usize) -> bool {
        let mut lanes = self.lock();
        let is_unused = lanes[index].as_ref().is_none_or(|lane| lane.load == 0);
        if let Some(lane) = lanes[index].take_if(|_| is_unused) {
            self.workers.offload(Box::new(move || clear_up_after(lane.thread)));
        }
        is_unused
    }

    /// Ends all threads. Their connections have ended.
    pub fn end(&self) {
        let lanes = std::mem::take(&mut *self.lock());
        for lane in lanes.into_iter().flatten() {
            lane.mail.send(Letter::End);
            clear_up_after(lane.thread);
        }
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Lane>; THREADS_MAX]> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the end of a thread and gives back what many clients had between them in small pieces: some of that the
/// allocator keeps for the thread as long as it is there.
fn clear_up_after(thread: JoinHandle<()>) {
    // It is the thread itself if no other is to be had.
    if thread.thread().id() == std::thread::current().id() {
        return;
    }
    if thread.join().is_err() {
        tracing::error!("a thread of the NBD server ended by a bug");
    }
    give_back_unused_memory();
}

/// The thread with the fewest connections.
fn least_loaded(lanes: &[Option<Lane>; THREADS_MAX]) -> Option<usize> {
    let loads = lanes.iter().enumerate().filter_map(|(index, lane)| Some((lane.as_ref()?.load, index)));
    loads.min().map(|(_, index)| index)
}
