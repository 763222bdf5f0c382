//! Threads for what io_uring lacks or would block on: discard and zero ioctls of block devices, looking for holes,
//! giving a file another length; and for what would keep a processor busy for long.
//!
//! A worker never sees memory of a request, only a range, or what a job owns. Results go to the inbox of the ring that asked.
#![allow(unsafe_code)]

use super::op::extent_code;
use super::{FileInfo, Job, OpKind};
use crate::error::IoError;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Threads at most; ioctls of one device queue behind each other anyway.
const THREADS_MAX: usize = 4;

/// What waits for a thread.
enum Work {
    Range(Box<Ranged>),
    Job(Job),
}

/// An operation on a range of a file.
struct Ranged {
    file: FileInfo,
    kind: OpKind,
    range: [u64; 2],
    inbox: Arc<Inbox>,
    index: u32,
}

#[derive(Default)]
struct State {
    jobs: std::collections::VecDeque<Work>,
    threads: usize,
    idle: usize,
}

/// The pool, one per process; threads start with the first work and stay.
#[derive(Default)]
pub struct Workers {
    state: Mutex<State>,
    more: Condvar,
}

impl Workers {
    /// A pool without threads.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn run(
        self: &Arc<Self>,
        file: FileInfo,
        kind: OpKind,
        offset: u64,
        len: u64,
        inbox: Arc<Inbox>,
        index: u32,
    ) {
        self.put(Work::Range(Box::new(Ranged { file, kind, range: [offset, len], inbox, index })));
    }

    /// Has a job done.
    pub(crate) fn offload(self: &Arc<Self>, job: Job) {
        self.put(Work::Job(job));
    }

    fn put(self: &Arc<Self>, work: Work) {
        let mut state = lock(&self.state);
        state.jobs.push_back(work);
        if state.idle == 0 && state.threads < THREADS_MAX {
            let pool = self.clone();
            let started = std::thread::Builder::new().name("tidemark-worker".into()).spawn(move || pool.serve());
            state.threads += usize::from(started.is_ok());
        }
        if state.threads == 0 {
            let work = state.jobs.pop_front();
            drop(state);
            match work {
                // No thread to be had: an answer beats a hang.
                Some(Work::Range(range)) => range.inbox.put(range.index, Err(IoError::NoMemory)),
                Some(Work::Job(job)) => job(),
                None => {}
            }
            return;
        }
        self.more.notify_one();
    }

    fn serve(&self) {
        let mut state = lock(&self.state);
        loop {
            while let Some(work) = state.jobs.pop_front() {
                drop(state);
                match work {
                    Work::Range(range) => range.inbox.put(range.index, run(&range)),
                    // Whoever waits for it is told by what the job owns. The thread goes on.
                    Work::Job(job) => drop(catch_unwind(AssertUnwindSafe(job))),
                }
                state = lock(&self.state);
            }
            state.idle += 1;
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

fn run(job: &Ranged) -> Result<u64, IoError> {
    match job.kind {
        OpKind::Extent { .. } => find_extent(job),
        OpKind::Grow => grow(job),
        OpKind::Cut => cut(job),
        _ => run_ioctl(job),
    }
}

/// ftruncate(2). Whoever grows a file sees to it that nobody else does at the same time.
fn grow(job: &Ranged) -> Result<u64, IoError> {
    let [offset, len] = job.range;
    let end = offset.checked_add(len).ok_or(IoError::Invalid)?;
    truncate_if(job, end, |size| size < end)
}

/// ftruncate(2), for who has what comes after the end to himself.
fn cut(job: &Ranged) -> Result<u64, IoError> {
    let [end, _] = job.range;
    truncate_if(job, end, |size| size > end)
}

fn truncate_if(job: &Ranged, end: u64, is_such: impl Fn(u64) -> bool) -> Result<u64, IoError> {
    let errno = |errno: rustix::io::Errno| IoError::from_errno(errno.raw_os_error());
    let size = rustix::fs::fstat(&job.file.fd).map_err(errno)?.st_size;
    if u64::try_from(size).is_ok_and(is_such) {
        rustix::fs::ftruncate(&job.file.fd, end).map_err(errno)?;
    }
    Ok(0)
}

/// lseek(2) with SEEK_DATA, and with SEEK_HOLE where data begins at once. A file system that cannot tell has data only.
fn find_extent(job: &Ranged) -> Result<u64, IoError> {
    use rustix::fs::{SeekFrom, seek};
    let [offset, len] = job.range;
    let end = offset.saturating_add(len);
    let (data, next) = match seek(&job.file.fd, SeekFrom::Data(offset)) {
        Ok(found) if found > offset => (false, found),
        Ok(_) => (true, seek(&job.file.fd, SeekFrom::Hole(offset)).unwrap_or(end)),
        // Nothing but a hole up to the end of the file.
        Err(rustix::io::Errno::NXIO) => (false, end),
        Err(_) => (true, end),
    };
    Ok(extent_code(next.clamp(offset, end) - offset, data))
}

fn run_ioctl(job: &Ranged) -> Result<u64, IoError> {
    // linux/fs.h: _IO(0x12, 119) and _IO(0x12, 127).
    const BLKDISCARD: libc::Ioctl = 0x1277;
    const BLKZEROOUT: libc::Ioctl = 0x127f;
    let request = match job.kind {
        OpKind::Discard => BLKDISCARD,
        OpKind::Zero { .. } => BLKZEROOUT,
        _ => return Err(IoError::Unsupported),
    };
    let fd = job.file.fd.as_fd().as_raw_fd();
    // SAFETY: both take a pointer to two u64 (start, length), which `range` is.
    match unsafe { libc::ioctl(fd, request, job.range.as_ptr()) } {
        0 => Ok(0),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// Where workers leave the results for one ring.
pub struct Inbox {
    bell: Arc<OwnedFd>,
    results: Mutex<Vec<(u32, Result<u64, IoError>)>>,
}

impl Inbox {
    pub(super) fn new() -> std::io::Result<Self> {
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(Self { bell: Arc::new(bell), results: Mutex::default() })
    }

    pub(super) fn bell(&self) -> Arc<OwnedFd> {
        self.bell.clone()
    }

    pub(super) fn take(&self) -> Vec<(u32, Result<u64, IoError>)> {
        std::mem::take(&mut *lock(&self.results))
    }

    fn put(&self, index: u32, result: Result<u64, IoError>) {
        lock(&self.results).push((index, result));
        // An eventfd write of 1 fails only when 2^64 of them were never read.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
