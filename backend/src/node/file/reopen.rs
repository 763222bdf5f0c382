//! Another access to an open file: for reading only or not, through the page cache or past it.
//!
//! The file is opened once more, beside what is open, and takes the other's place under the number that rings know it
//! by. Through the page cache and past it are two numbers, as they want different requests: a request that is under way
//! finds what it was made for. The image locks move to what is open then, without a gap.

use super::mode::Mode;
use super::open::{alignments, info, open};
use super::{File, Opened};
use crate::error::{GraphError, IoError};
use crate::io::{Op, OpKind};
use crate::node::NodeOptions;
use crate::node::options::FileOptions;
use crate::reactor::Handle;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A file that was opened once more.
pub(crate) struct Reopened {
    /// As it will be used; the number is not known yet.
    mode: Mode,
    /// By whether it bypasses the page cache: what takes the place of what is open.
    fds: [Option<Arc<OwnedFd>>; 2],
}

impl Reopened {
    /// Whether it cannot be written to.
    pub(crate) fn read_only(&self) -> bool {
        self.mode.read_only
    }
}

impl File {
    /// Opens the file as these options want it, unless it is open like that.
    ///
    /// # Errors
    /// As [`File::open`]; it is another file now that has the name.
    pub(crate) fn open_again(&self, node: &NodeOptions, options: &FileOptions) -> Result<Option<Reopened>, GraphError> {
        let fail = |source: io::Error| GraphError::Open { path: self.path.clone(), source };
        let (now, direct) = (self.mode.get(), node.cache_direct.is_on());
        let writable = !node.read_only.is_on() && !now.read_only;
        if direct == now.direct && (writable || (node.read_only.is_on() && now.read_only)) {
            return Ok(None);
        }
        let (fd, read_only) = open(node, options, direct).map_err(fail)?;
        if direct == now.direct && read_only == now.read_only {
            return Ok(None);
        }
        self.check_same(&fd)?;
        let (memory_alignment, alignment) = if direct { alignments(&fd, self.block_device) } else { (1, 1) };
        let mut fds = [None, None];
        fds[usize::from(direct)] = Some(Arc::new(fd));
        let other = usize::from(!direct);
        if self.opened().ids[other].is_some() && read_only != now.read_only {
            fds[other] = Some(Arc::new(open(node, options, !direct).map_err(fail)?.0));
        }
        Ok(Some(Reopened { mode: Mode { id: now.id, direct, read_only, alignment, memory_alignment }, fds }))
    }

    fn check_same(&self, fd: &OwnedFd) -> Result<(), GraphError> {
        let fail = |source: io::Error| GraphError::Open { path: self.path.clone(), source };
        let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino, stat.st_rdev));
        let now = self.fd().and_then(|now| Ok(identity(&now)?)).map_err(fail)?;
        match identity(fd).map_err(|error| fail(error.into()))? == now {
            true => Ok(()),
            false => Err(GraphError::Options(format!("'{}' is another file now than the one that is open", self.path))),
        }
    }

    /// Whether writes through the page cache and past it will be under way at the same time, and some of the latter read
    /// the rest of their block first: then all have to keep out of each other's blocks for a while.
    pub(crate) fn must_lock_blocks(&self, new: &Reopened) -> bool {
        let now = self.mode.get();
        now.direct != new.mode.direct && now.alignment.max(new.mode.alignment) > 512
    }

    /// Has writes keep out of each other's blocks from now on; inside [`crate::node::points::hold`].
    pub(crate) fn lock_blocks(&self, new: &Reopened) {
        let now = self.mode.get();
        self.mode.set(Mode { alignment: now.alignment.max(new.mode.alignment), ..now });
    }

    /// Writes need not keep out of each other's blocks any more, unless it bypasses the page cache.
    pub(crate) fn unlock_blocks(&self) {
        let now = self.mode.get();
        if !now.direct {
            self.mode.set(Mode { alignment: 1, ..now });
        }
    }

    /// Puts what was opened in the place of what is open, and that into `new`: done twice nothing has happened.
    ///
    /// # Errors
    /// The image locks cannot be taken there; nothing has changed.
    pub(crate) fn exchange(&self, new: &mut Reopened) -> Result<(), GraphError> {
        let (last, mode) = (self.mode.get(), new.mode);
        let at = usize::from(mode.direct);
        let Some(fd) = new.fds[at].clone() else { return Ok(()) };
        self.lock.as_ref().map_or(Ok(()), |lock| lock.move_to(&fd))?;
        let mut opened = self.opened();
        let Opened { fd: current, ids } = &mut *opened;
        let before = current.replace(fd.clone());
        for (direct, fd) in [false, true].into_iter().zip(&new.fds) {
            let (Some(fd), id) = (fd, &mut ids[usize::from(direct)]) else { continue };
            let info = info(fd, self.block_device, direct);
            match *id {
                Some(id) => self.table.replace(id, info),
                None => *id = Some(self.table.insert(info)),
            }
        }
        let alignment = if mode.direct { mode.alignment } else { last.alignment.max(mode.alignment) };
        self.mode.set(Mode { id: ids[at].unwrap_or(last.id), alignment, ..mode });
        new.mode = last;
        new.fds[at] = None;
        new.fds[usize::from(last.direct)] = before;
        Ok(())
    }

    /// Makes everything that was written stable. If a flush has failed before, then what was written since the last one
    /// that did not may be lost: true, and the file takes writes again, if this one does not.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) async fn revive(&self, io: &Handle) -> Result<bool, IoError> {
        let _turn = self.flushes.turn().await;
        io.run(Op::bare(OpKind::Flush, self.id(), 0, 0)).await.1?;
        Ok(self.poisoned.swap(false, Ordering::AcqRel))
    }

    /// Whether a flush has failed.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }
}
