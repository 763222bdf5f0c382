//! Copying what is on one disk to another: looked up, read, searched for zeroes, written; several pieces at a time on
//! several threads, as many as the storage bears, and never two of the same bytes.
//!
//! Zeroes are made by zeroing where the target does not have them already, and what has no space in the source takes
//! none in the target. Knows nodes and not how they were made.

mod rate;
mod salvage;

pub use rate::Rate;

use super::crew::{Sweep, Task};
use crate::backup::window::Window;
use anyhow::{Result, anyhow};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_backend::error::IoError;
use tidemark_backend::io::{Buf, Memory, byte_count};
use tidemark_backend::node::{Kind, Node, Request, Root};
use tidemark_backend::reactor::Handle;
use tidemark_jobs::Flow;

/// Bytes that are zeroed at a time.
const ZERO: u64 = 1 << 30;
/// Bytes that a source is asked about at first. A table is gone through for all of them, whatever comes of it.
const AHEAD: u64 = 16 << 20;
/// What a block of zeroes is compared with.
const ZEROES: [u8; 4096] = [0; 4096];

/// What to copy where, and how.
#[derive(Clone)]
pub struct Copying {
    /// From here.
    pub source: Arc<Node>,
    /// Its name, for messages.
    pub source_path: String,
    /// What the topmost so many images of it have; what is below them is left out.
    pub levels: u32,
    /// Bytes of the disk that these are over: past them is nothing but zeroes where they have nothing.
    pub below: u64,
    /// To here.
    pub target: Arc<Node>,
    /// Its name.
    pub target_path: String,
    /// It is all zeroes, for whoever reads it, where nothing is written.
    pub is_zero: bool,
    /// Zeroes are written as zeroes, and take space.
    pub fills: bool,
    /// Data is searched for blocks of zeroes of so many bytes; not at all if 0. A power of two.
    pub grain: u64,
    /// Runs of the source are taken in blocks of so many bytes: less saves no space. A power of two.
    pub align: u64,
    /// Every write is stable when it ends.
    pub stable: bool,
    /// Bytes of a piece, at most; a multiple of both.
    pub piece: u64,
    /// Pieces under way on one thread, at most.
    pub window: usize,
    /// Where the source's first byte goes.
    pub shift: u64,
    /// What cannot be read becomes zeroes.
    pub salvage: bool,
    /// How fast, at most.
    pub rate: Option<Arc<Rate>>,
}

/// What a run of the source is.
enum Run {
    /// Nothing that is to be copied.
    Absent,
    Zero,
    Data,
}

impl Copying {
    /// What each thread does.
    pub fn task(self) -> Task {
        Arc::new(move |io, sweep| {
            let copying = self.clone();
            Box::pin(async move { Lane::new(copying, io, sweep).run().await })
        })
    }

    /// What comes next in the source, and for how long, of `rest` bytes: whole blocks but at its end.
    async fn run_at(&self, io: &Handle, offset: u64, rest: u64) -> Result<(u64, Run)> {
        let status = match self.source.status(io, offset, rest).await {
            // It is found out by reading.
            Err(_) if self.salvage => return Ok((self.piece.min(rest), Run::Data)),
            status => status.map_err(|error| failed("read", &self.source_path, offset, error))?,
        };
        let (mut len, ours) = (status.len, (1..=self.levels).contains(&status.depth));
        let run = match (ours, status.zero) {
            (false, _) if offset < self.below && self.levels < u32::MAX => {
                len = len.min(self.below - offset);
                Run::Absent
            }
            (false, _) | (true, true) => Run::Zero,
            (true, false) => Run::Data,
        };
        if len >= rest {
            return Ok((rest, run));
        }
        // What does not fill blocks is read with what comes after it, if all of that is to be copied.
        let align = if self.levels == u32::MAX { self.align.max(1) } else { 1 };
        // Blocks are the target's.
        let over = (self.shift + offset + len) % align;
        let next = if over == 0 { len } else { len + align - over }.min(rest);
        Ok(match (run, len.saturating_sub(over)) {
            (Run::Data, _) | (_, 0) => (next, Run::Data),
            (run, whole) => (whole, run),
        })
    }
}

/// Why an image could not be read or written.
pub fn failed(action: &str, path: &str, offset: u64, error: IoError) -> anyhow::Error {
    anyhow!("cannot {action} '{path}' at offset {offset} of the disk: {error}")
}

/// What one thread has.
struct Lane {
    shared: Rc<Shared>,
    window: Window<Result<()>>,
    /// Bytes that the source is asked about next: twice as many each time while there is no data.
    ahead: u64,
}

struct Shared {
    copying: Copying,
    sweep: Arc<Sweep>,
    /// The way to the target: bitmaps there mark what is written.
    target: Rc<Root>,
    io: Handle,
    spare: RefCell<Vec<Buf>>,
    /// Where copying is all there is to do, pieces that wait for their turn are out of the processor's cache when it
    /// comes; where storage takes its time they are what keeps it busy.
    flow: RefCell<Flow>,
}

impl Lane {
    fn new(copying: Copying, io: Handle, sweep: Arc<Sweep>) -> Self {
        let (window, flow) = (Window::of(copying.window), RefCell::new(Flow::new(copying.window)));
        let target = Root::new(&copying.target);
        let shared = Rc::new(Shared { copying, sweep, target, io, spare: RefCell::default(), flow });
        Self { shared, window, ahead: AHEAD }
    }

    async fn run(mut self) -> Result<()> {
        let gone = self.stripes().await;
        let drained = self.window.drain().await;
        gone.and(drained)
    }

    async fn stripes(&mut self) -> Result<()> {
        while let Some(mut stripe) = self.shared.sweep.take() {
            while stripe.start < stripe.end && !self.shared.sweep.is_stopped() {
                stripe = self.step(stripe).await?;
            }
        }
        Ok(())
    }

    /// Begins to copy the beginning of a range; returns what is left of it.
    async fn step(&mut self, range: Range<u64>) -> Result<Range<u64>> {
        let (at, copying) = (range.start, &self.shared.copying);
        let asked = self.ahead.min(self.shared.sweep.end() - at);
        let (len, run) = copying.run_at(&self.shared.io, at, asked).await?;
        let goes_on = len >= asked && !matches!(run, Run::Data);
        self.ahead = if goes_on { self.ahead.saturating_mul(2) } else { AHEAD };
        let piece = copying.piece;
        match run {
            Run::Data => {
                let len = len.min(piece - (copying.shift + at) % piece).min(range.end - at);
                self.begin(at, len, true).await?;
                Ok(at + len..range.end)
            }
            other => {
                let here = at..(at + len).min(range.end);
                // What comes after it is the same, and nobody's yet.
                let more = if at + len > range.end { self.shared.sweep.take_until(at + len) } else { 0..0 };
                for range in [here.clone(), more] {
                    self.skip(range, &other).await?;
                }
                Ok(here.end..range.end)
            }
        }
    }

    /// A range without data.
    async fn skip(&mut self, range: Range<u64>, run: &Run) -> Result<()> {
        let copying = &self.shared.copying;
        let (fills, piece, shift) = (copying.fills, copying.piece, copying.shift);
        let needless = matches!(run, Run::Absent) || (copying.is_zero && !fills);
        if needless || range.is_empty() {
            self.shared.sweep.done(range.end - range.start);
            return Ok(());
        }
        let mut at = range.start;
        while at < range.end && !self.shared.sweep.is_stopped() {
            let len = if fills { piece - (shift + at) % piece } else { ZERO }.min(range.end - at);
            self.begin(at, len, fills).await?;
            at += len;
        }
        Ok(())
    }

    /// Begins to copy data, or to zero.
    async fn begin(&mut self, at: u64, len: u64, data: bool) -> Result<()> {
        self.window.limit(self.shared.flow.borrow().window());
        self.window.room().await?;
        let (shared, sweep) = (self.shared.clone(), self.shared.sweep.clone());
        self.window.begin(&self.shared.io, async move {
            let copied = match data {
                true => shared.copy(at, len).await,
                false => shared.zero(at, len).await,
            };
            sweep.done(len);
            copied
        });
        Ok(())
    }
}

impl Shared {
    async fn copy(&self, at: u64, len: u64) -> Result<()> {
        let copying = &self.copying;
        if let Some(rate) = &copying.rate {
            rate.wait(&self.io, len, &self.sweep).await;
        }
        let started = self.io.read_clock();
        let spare = self.spare.borrow_mut().pop();
        let mut memory = Memory::from(spare.unwrap_or_else(|| Buf::mapped(byte_count(copying.piece))));
        memory.narrow(0, len);
        let read = Request { kind: Kind::Read, fua: false, offset: at, len, memory };
        let (memory, result) = copying.source.handle(&self.io, read).await;
        let mut buf = memory.into_buf().ok_or_else(|| failed("read", &copying.source_path, at, IoError::Io))?;
        match result {
            Err(_) if copying.salvage => self.salvage(at, len, &mut buf).await?,
            result => result.map_err(|error| failed("read", &copying.source_path, at, error))?,
        }
        let bytes = buf.as_slice().get(..byte_count(len)).unwrap_or_default();
        for (run, zero) in runs(bytes, copying.grain, copying.shift + at) {
            let (offset, len) = (at + run.start, run.end - run.start);
            match zero {
                true if copying.is_zero => {}
                true => self.zero(offset, len).await?,
                false => buf = self.write(offset, run, buf).await?,
            }
        }
        self.spare.borrow_mut().push(buf);
        self.flow.borrow_mut().took(len, self.io.read_clock().saturating_sub(started));
        Ok(())
    }

    async fn write(&self, offset: u64, part: Range<u64>, buf: Buf) -> Result<Buf> {
        let (copying, len) = (&self.copying, part.end - part.start);
        let mut memory = Memory::from(buf);
        memory.narrow(part.start, len);
        let write = Request { kind: Kind::Write, fua: copying.stable, offset: copying.shift + offset, len, memory };
        let (memory, result) = self.target.handle(&self.io, write).await;
        result.map_err(|error| failed("write", &copying.target_path, offset, error))?;
        memory.into_buf().ok_or_else(|| failed("write", &copying.target_path, offset, IoError::Io))
    }

    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let (copying, kind) = (&self.copying, Kind::Zero { unmap: true });
        let at = copying.shift + offset;
        let zero = Request { kind, fua: copying.stable, offset: at, len, memory: Memory::empty() };
        let (_, result) = self.target.handle(&self.io, zero).await;
        result.map_err(|error| failed("write", &copying.target_path, offset, error))
    }
}

/// Runs of blocks that are all zero, and of others; the bytes come from `at` on.
fn runs(bytes: &[u8], grain: u64, at: u64) -> Vec<(Range<u64>, bool)> {
    let whole = bytes.len() as u64;
    if grain == 0 {
        return vec![(0..whole, false)];
    }
    let (mut runs, mut start): (Vec<(Range<u64>, bool)>, u64) = (Vec::new(), 0);
    while start < whole {
        let end = (start + grain - (at + start) % grain).min(whole);
        let zero = bytes.get(byte_count(start)..byte_count(end)).is_some_and(is_zero);
        match runs.last_mut().filter(|(_, last)| *last == zero) {
            Some((run, _)) => run.end = end,
            None => runs.push((start..end, zero)),
        }
        start = end;
    }
    runs
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROES.len()).all(|chunk| ZEROES.get(..chunk.len()) == Some(chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_zeroes_are_whole_blocks() {
        let mut bytes = vec![0; 5 * 4096 + 512];
        bytes[4095] = 1;
        bytes[3 * 4096] = 1;
        let found =
            [(0..4096, false), (4096..3 * 4096, true), (3 * 4096..4 * 4096, false), (4 * 4096..5 * 4096 + 512, true)];
        assert_eq!(runs(&bytes, 4096, 1 << 20), found);
        assert_eq!(runs(&bytes, 65536, 0), [(0..5 * 4096 + 512, false)]);
        assert_eq!(runs(&bytes, 0, 0), [(0..5 * 4096 + 512, false)], "nobody has asked");
        assert_eq!(runs(&[], 4096, 0), []);
        let end = 7 * 512 + 4 * 4096;
        let shifted = [(0..7 * 512, true), (7 * 512..end, false), (end..5 * 4096 + 512, true)];
        assert_eq!(runs(&bytes, 4 * 4096, 4 * 4096 - 7 * 512), shifted, "blocks of the target");
    }

    #[test]
    fn one_byte_anywhere_is_data() {
        for at in [0, 1, 4095, 4096, 9000, 9999] {
            let mut bytes = vec![0; 10_000];
            assert!(is_zero(&bytes));
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes), "{at}");
        }
    }
}
