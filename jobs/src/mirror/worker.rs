//! One copy of chunks that were owed: a task that has them to itself, reads, writes and reports.
//!
//! What it was given it has taken from the bitmap. Whatever it does not bring to the target is owed again when it ends,
//! however that comes about. It looks itself whether there is a hole: what was found out before may have been written to.

use super::{COPY_MAX, Mirror};
use crate::copy::crew::{Crew, Failed, Member};
use crate::copy::piece::bring;
use crate::event::Operation;
use std::ops::Range;
use std::rc::Rc;
use tidemark_backend::io::Memory;
use tidemark_backend::node::{Kind, Request};
use tidemark_backend::reactor::Handle;

/// A run of chunks on its way.
struct Taken {
    mirror: Rc<Mirror>,
    crew: Rc<Crew>,
    run: Range<u64>,
    _member: Member,
}

/// Starts the copy of a run that was taken; `hole` says that it looked like one.
pub(super) fn start(mirror: &Rc<Mirror>, crew: &Rc<Crew>, run: Range<u64>, hole: bool) {
    let (io, under_way) = (mirror.io().clone(), &mirror.state.under_way);
    under_way.set(under_way.get() + (run.end - run.start));
    let mut taken = Taken { mirror: mirror.clone(), crew: crew.clone(), run, _member: crew.begin() };
    io.clone().spawn(async move {
        let _held = taken.mirror.clone().mirroring.hold_range(taken.run.clone()).await;
        if let Err(failed) = taken.bring(&io, hole).await {
            taken.crew.fail(failed);
        }
    });
}

impl Taken {
    async fn bring(&mut self, io: &Handle, hole: bool) -> Result<(), Failed> {
        while !self.run.is_empty() {
            let (at, left) = (self.run.start, self.run.end - self.run.start);
            let zeroes = if hole { self.zeroes(io, at, left).await? } else { 0 };
            let len = if zeroes > 0 { zeroes } else { left.min(COPY_MAX) };
            match zeroes {
                0 => self.copy(io, at, len).await?,
                _ => self.zero(io, at, len).await?,
            }
            self.done(len);
        }
        Ok(())
    }

    /// Bytes from `at` on that read as zeroes.
    async fn zeroes(&self, io: &Handle, at: u64, left: u64) -> Result<u64, Failed> {
        let found = self.mirror.source.visit().extent(io, at, left).await;
        let (len, data) = found.map_err(|error| (Operation::Read, error))?;
        Ok(if data { 0 } else { len.min(left) })
    }

    async fn copy(&self, io: &Handle, offset: u64, len: u64) -> Result<(), Failed> {
        let (Mirror { source, target, .. }, started) = (&*self.mirror, io.read_clock());
        let read = async |request| source.handle(io, request).await;
        let write = async |request| target.handle(io, request).await;
        let brought = bring(&self.crew, offset..offset + len, read, write).await;
        self.crew.took(len, io.read_clock().saturating_sub(started));
        brought
    }

    /// Zeroes, if the target does not have zeroes there already that stay: nobody else writes to it.
    async fn zero(&self, io: &Handle, offset: u64, len: u64) -> Result<(), Failed> {
        let unmap = self.mirror.plan.unmap;
        if unmap && self.mirror.plan.keeps_its_zeroes() {
            let there = self.mirror.target.visit().extent(io, offset, len).await;
            if there.is_ok_and(|(zeroes, data)| !data && zeroes >= len) {
                return Ok(());
            }
        }
        let (kind, started) = (Kind::Zero { unmap }, io.read_clock());
        let zero = Request { kind, fua: false, offset, len, memory: Memory::empty() };
        let (_, result) = self.mirror.target.handle(io, zero).await;
        self.crew.zeroed(len, io.read_clock().saturating_sub(started));
        result.map_err(|error| (Operation::Write, error))
    }

    /// So many bytes of it are on the target.
    fn done(&mut self, len: u64) {
        let state = &self.mirror.state;
        state.under_way.set(state.under_way.get().saturating_sub(len));
        state.done.set(state.done.get() + len);
        self.run.start += len;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.run.is_empty() {
            let (state, len) = (&self.mirror.state, self.run.end - self.run.start);
            state.under_way.set(state.under_way.get().saturating_sub(len));
            self.mirror.mirroring.owed().mark(self.run.start, len);
        }
    }
}
