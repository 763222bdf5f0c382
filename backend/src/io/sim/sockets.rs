//! Simulated connections: bytes come in order, in pieces of any size, and stop at any byte.
//!
//! An end holds what has come and was not received, up to a window; whoever sends more waits. A connection that is shut
//! down or cut lets its receivers have what had come, or not, and then shows them the end or an error.

use crate::error::IoError;
use crate::io::{FileId, Op, OpKind, Socket};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes on the way in one direction at most.
const WINDOW: usize = 64 * 1024;
/// Files of tests have low numbers.
const FIRST: u32 = 1 << 30;

struct End {
    peer: FileId,
    shut: Arc<AtomicBool>,
    dead: bool,
    inbound: VecDeque<u8>,
    /// Bytes that can still be sent before the connection is cut.
    left: Option<u64>,
    /// Operations that wait for the other end.
    waiting: Vec<u64>,
}

/// All ends of all connections.
#[derive(Default)]
pub(super) struct Sockets(BTreeMap<FileId, End>);

impl Sockets {
    /// A connection's two ends.
    pub(super) fn pair(&mut self) -> (Socket, Socket) {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX - FIRST - 1);
        let ids = [FileId(FIRST + count), FileId(FIRST + count + 1)];
        let end = |id, peer| {
            let shut = Arc::new(AtomicBool::new(false));
            let end = End {
                peer,
                shut: shut.clone(),
                dead: false,
                inbound: VecDeque::new(),
                left: None,
                waiting: Vec::new(),
            };
            (end, Socket::simulated(id, shut))
        };
        let ((first, one), (second, other)) = (end(ids[0], ids[1]), end(ids[1], ids[0]));
        self.0.extend([(ids[0], first), (ids[1], second)]);
        (one, other)
    }

    pub(super) fn contains(&self, id: FileId) -> bool {
        self.0.contains_key(&id)
    }

    /// Cuts the connection when so many more bytes have been sent from this end.
    pub(super) fn cut_after(&mut self, id: FileId, bytes: u64) {
        if let Some(end) = self.0.get_mut(&id) {
            end.left = Some(bytes);
        }
    }

    /// Kills connections that were shut down since the last call; the operations that learn of it.
    pub(super) fn hear(&mut self) -> Vec<u64> {
        let shut: Vec<FileId> =
            self.0.iter().filter(|(_, end)| !end.dead && end.shut.load(Ordering::Acquire)).map(|(id, _)| *id).collect();
        shut.into_iter().flat_map(|id| self.kill(id)).collect()
    }

    fn kill(&mut self, id: FileId) -> Vec<u64> {
        let peer = self.0.get(&id).map(|end| end.peer);
        let mut woken = Vec::new();
        for id in [Some(id), peer].into_iter().flatten() {
            if let Some(end) = self.0.get_mut(&id) {
                end.dead = true;
                woken.append(&mut end.waiting);
            }
        }
        woken
    }

    /// Runs an operation if it need not wait: its result, and the operations that need wait no longer.
    pub(super) fn run(
        &mut self,
        number: u64,
        op: &mut Op,
        random: &mut fastrand::Rng,
    ) -> Option<(Result<u64, IoError>, Vec<u64>)> {
        let result = match op.kind {
            OpKind::Send => self.send(op, random),
            OpKind::Receive => self.receive(op, random),
            _ => Some(Err(IoError::Invalid)),
        };
        let end = self.0.get_mut(&op.file)?;
        let Some(result) = result else {
            end.waiting.push(number);
            return None;
        };
        let peer = end.peer;
        let mut woken = self.0.get_mut(&peer).map(|end| std::mem::take(&mut end.waiting)).unwrap_or_default();
        if self.0.get(&op.file).is_some_and(|end| end.left == Some(0) && !end.dead) {
            woken.extend(self.kill(op.file));
        }
        Some((result, woken))
    }

    fn send(&mut self, op: &Op, random: &mut fastrand::Rng) -> Option<Result<u64, IoError>> {
        let end = self.0.get_mut(&op.file)?;
        let (peer, dead, left) = (end.peer, end.dead, end.left);
        if dead || left == Some(0) {
            return Some(Err(IoError::Io));
        }
        let peer = self.0.get_mut(&peer)?;
        let most = op.memory.len().min((WINDOW - peer.inbound.len().min(WINDOW)) as u64).min(left.unwrap_or(u64::MAX));
        if most == 0 && !op.memory.is_empty() {
            return None;
        }
        let len = if random.bool() { most } else { random.u64(most.min(1)..=most) };
        let mut bytes = vec![0; crate::io::byte_count(len)];
        op.memory.copy_to(0, &mut bytes);
        peer.inbound.extend(bytes);
        if let Some(end) = self.0.get_mut(&op.file) {
            end.left = left.map(|left| left - len);
        }
        Some(Ok(len))
    }

    fn receive(&mut self, op: &mut Op, random: &mut fastrand::Rng) -> Option<Result<u64, IoError>> {
        let end = self.0.get_mut(&op.file)?;
        if end.dead && random.u8(0..4) == 0 {
            end.inbound.clear();
            return Some(Err(IoError::Io));
        }
        let most = op.memory.len().min(end.inbound.len() as u64);
        if most == 0 {
            return end.dead.then_some(Ok(0));
        }
        let len = if random.bool() { most } else { random.u64(1..=most) };
        let bytes: Vec<u8> = end.inbound.drain(..crate::io::byte_count(len)).collect();
        op.memory.copy_from(0, &bytes);
        Some(Ok(len))
    }
}
