//! The connections of a server or of one export: to be counted, ended, and waited for.

use crate::io::Socket;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct State {
    sockets: Vec<Arc<Socket>>,
    closed: bool,
    /// Somebody has come.
    used: bool,
}

/// See the module's description.
#[derive(Default)]
pub struct Clients {
    state: Mutex<State>,
    left: Condvar,
}

/// A connection that is counted until this is dropped, after its last I/O.
pub struct Client {
    clients: Arc<Clients>,
    socket: Arc<Socket>,
}

impl Clients {
    /// Counts a connection; `None` once they are closed, or if there are `limit` of them already.
    pub fn enter(self: &Arc<Self>, socket: &Arc<Socket>, limit: Option<usize>) -> Option<Client> {
        let mut state = self.lock();
        if state.closed || limit.is_some_and(|limit| state.sockets.len() >= limit) {
            return None;
        }
        state.used = true;
        state.sockets.push(socket.clone());
        Some(Client { clients: self.clone(), socket: socket.clone() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().sockets.len()
    }

    /// Whether nobody may come any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Lets nobody in any more and disconnects all; false if that was done before.
    pub fn close(&self) -> bool {
        let mut state = self.lock();
        state.sockets.iter().for_each(|socket| socket.shutdown());
        !std::mem::replace(&mut state.closed, true)
    }

    /// Waits until there is none.
    pub fn wait_empty(&self) {
        self.wait(|state| state.sockets.is_empty());
    }

    /// Waits until they are closed and there is none.
    pub fn wait_closed(&self) {
        self.wait(|state| state.closed && state.sockets.is_empty());
    }

    /// Waits until somebody has come and all who came have left, or they are closed.
    pub fn wait_used(&self) {
        self.wait(|state| state.closed || (state.used && state.sockets.is_empty()));
    }

    /// Waits until there is room for another below `limit`, or they are closed.
    pub fn wait_below(&self, limit: usize) {
        self.wait(|state| state.closed || state.sockets.len() < limit);
    }

    fn wait(&self, is_over: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while !is_over(&state) {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut state = self.clients.lock();
        let place = state.sockets.iter().position(|socket| Arc::ptr_eq(socket, &self.socket));
        place.into_iter().for_each(|place| drop(state.sockets.swap_remove(place)));
        drop(state);
        self.clients.left.notify_all();
    }
}
