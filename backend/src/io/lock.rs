//! QEMU's image locks: byte-range locks of the open file description (OFD), one byte a permission.
//!
//! Byte 100 + p is read-locked by whoever holds permission p, byte 200 + p by whoever does not share it with others
//! (QEMU, block/file-posix.c describes the protocol; the numbers are its on-disk contract). Read locks never conflict
//! with each other; a conflict is found by asking whether a write lock would meet one.
//!
//! The locks are on the description that the I/O goes through, on purpose: after a kill -9 the kernel keeps it, and so
//! the locks, until the dead process's last write has ended. Whoever gets the locks can have nothing overwritten by it.
#![allow(unsafe_code)]

mod holder;

use crate::error::{GraphError, LockConflict};
use holder::Holder;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a lock without a living holder is waited for; a tenth of it where that cannot be told.
const PATIENCE: Duration = Duration::from_secs(30);

const HELD: i64 = 100;
const UNSHARED: i64 = 200;

/// QEMU's permissions by bit, as its messages name them.
const NAMES: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];
const READ: u8 = 1;
const WRITE: u8 = 2;
const RESIZE: u8 = 8;

/// What a user does with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads.
    Read,
    /// It reads and writes.
    Write,
    /// The same, by a format that makes it longer as it needs.
    Image,
    /// It changes its length.
    Resize,
    /// It is copied to, and not read by whoever copies.
    Target,
    /// The same, and nobody else reads it either.
    Alone,
    /// It is used by other means, and nobody else reads it.
    Hidden,
    /// It is read by a format, or copied from, and relied on to be changed by nobody else.
    Format,
}

impl Access {
    /// That of an export.
    pub fn of_export(writable: bool) -> Self {
        if writable { Self::Write } else { Self::Read }
    }

    /// Whether it writes.
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Image | Self::Target | Self::Alone)
    }

    /// What it needs: permissions held, permissions not shared.
    fn needs(self) -> (u8, u8) {
        match self {
            Self::Read => (READ, RESIZE),
            Self::Write => (READ | WRITE, WRITE | RESIZE),
            Self::Image => (READ | WRITE | RESIZE, WRITE | RESIZE),
            Self::Resize => (RESIZE, 0),
            Self::Target => (WRITE, WRITE | RESIZE),
            Self::Alone => (WRITE, READ | WRITE | RESIZE),
            Self::Hidden => (0, READ),
            Self::Format => (READ, WRITE | RESIZE),
        }
    }
}

/// Each kind of user.
const ALL: [Access; 8] = [
    Access::Read,
    Access::Write,
    Access::Image,
    Access::Resize,
    Access::Target,
    Access::Alone,
    Access::Hidden,
    Access::Format,
];

/// How many users of each kind there are.
#[derive(Debug, Default)]
struct Users([usize; ALL.len()]);

impl Users {
    fn needs(&self) -> (u8, u8) {
        let there = ALL.into_iter().filter(|access| self.0[*access as usize] > 0);
        there.map(Access::needs).fold((0, 0), |(held, unshared), needs| (held | needs.0, unshared | needs.1))
    }

    fn count(&mut self, access: Access) -> &mut usize {
        &mut self.0[access as usize]
    }
}

/// The locks of one open image.
#[derive(Debug)]
pub struct Lock {
    state: Mutex<State>,
    path: String,
    /// Fail where the file system has no locks, instead of going without.
    required: bool,
}

/// The open image, and who uses it.
#[derive(Debug)]
struct State {
    /// `None` when it is closed.
    fd: Option<Arc<OwnedFd>>,
    users: Users,
}

impl Lock {
    /// An image without locks so far.
    pub fn new(fd: Arc<OwnedFd>, path: String, required: bool) -> Self {
        Self { state: Mutex::new(State { fd: Some(fd), users: Users::default() }), path, required }
    }

    /// Adds a user and takes the locks it needs.
    ///
    /// # Errors
    /// [`GraphError::Locked`] names the permission another process has or denies.
    pub fn acquire(&self, access: Access) -> Result<(), GraphError> {
        let State { fd: Some(fd), users } = &mut *self.state() else { return Ok(()) };
        let before = users.needs();
        *users.count(access) += 1;
        let after = users.needs();
        let result = self.apply(fd, before, after).and_then(|()| self.check_patiently(fd, after));
        if result.is_err() {
            *users.count(access) -= 1;
            self.drop_extra(fd, after, before);
        }
        result
    }

    /// Removes a user and gives back the locks nobody needs.
    pub fn release(&self, access: Access) {
        let State { fd: Some(fd), users } = &mut *self.state() else { return };
        let before = users.needs();
        *users.count(access) -= 1;
        self.drop_extra(fd, before, users.needs());
    }

    /// From now on the image is used through `fd`: what is locked is so there, and was all the time.
    ///
    /// # Errors
    /// The locks cannot be taken there; nothing has changed.
    pub fn move_to(&self, fd: &Arc<OwnedFd>) -> Result<(), GraphError> {
        let state = &mut *self.state();
        let needs = state.users.needs();
        if let Err(error) = self.apply(fd, (0, 0), needs) {
            self.drop_extra(fd, needs, (0, 0));
            return Err(error);
        }
        let last = state.fd.replace(fd.clone());
        last.iter().for_each(|last| self.drop_extra(last, needs, (0, 0)));
        Ok(())
    }

    /// Gives all locks back, for good.
    pub fn close(&self) {
        let State { fd, users } = &mut *self.state();
        // Rings may keep the open file a little longer; its locks end here.
        fd.take().iter().for_each(|fd| self.drop_extra(fd, users.needs(), (0, 0)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, fd: &OwnedFd, before: (u8, u8), after: (u8, u8)) -> Result<(), GraphError> {
        for byte in bytes(after).filter(|byte| !bytes(before).any(|old| old == *byte)) {
            match set(fd, byte, libc::F_RDLCK) {
                Ok(()) => {}
                Err(error) if !self.required && no_locks_here(&error) => return Ok(()),
                Err(source) => {
                    return Err(GraphError::File { what: "Failed to lock byte of", path: self.path.clone(), source });
                }
            }
        }
        Ok(())
    }

    /// A process that died may still have writes under way: they end soon, and its locks with them.
    fn check_patiently(&self, fd: &OwnedFd, needs: (u8, u8)) -> Result<(), GraphError> {
        let start = Instant::now();
        loop {
            let result = self.check(fd, needs);
            let patience = match result {
                Ok(()) => return result,
                Err(_) => match holder::find(fd) {
                    Holder::Living => return result,
                    Holder::Nobody => PATIENCE,
                    Holder::Unknown => PATIENCE / 10,
                },
            };
            if start.elapsed() > patience {
                return result;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check(&self, fd: &OwnedFd, (held, unshared): (u8, u8)) -> Result<(), GraphError> {
        let met = |mine: u8, others: i64| {
            let mut names = NAMES.iter().enumerate();
            names.find(|(bit, _)| mine & (1 << bit) != 0 && is_locked(fd, others + *bit as i64))
        };
        // First, as with QEMU: somebody does not share what we hold. Then: somebody holds what we do not share.
        match (met(held, UNSHARED), met(unshared, HELD)) {
            (Some((_, permission)), _) => Err(self.conflict(permission, false)),
            (None, Some((_, permission))) => Err(self.conflict(permission, true)),
            (None, None) => Ok(()),
        }
    }

    fn conflict(&self, permission: &'static str, shared: bool) -> GraphError {
        GraphError::Locked(LockConflict { permission, shared, path: self.path.clone() })
    }

    fn drop_extra(&self, fd: &OwnedFd, before: (u8, u8), after: (u8, u8)) {
        for byte in bytes(before).filter(|byte| !bytes(after).any(|new| new == *byte)) {
            if let Err(error) = set(fd, byte, libc::F_UNLCK) {
                tracing::warn!(file = %self.path, %error, "could not give an image lock back");
            }
        }
    }
}

fn is_locked(fd: &OwnedFd, byte: i64) -> bool {
    let mut ask = range(byte, libc::F_WRLCK);
    control(fd, libc::F_OFD_GETLK, &mut ask).is_ok() && ask.l_type != short(libc::F_UNLCK)
}

fn set(fd: &OwnedFd, byte: i64, kind: i32) -> io::Result<()> {
    control(fd, libc::F_OFD_SETLK, &mut range(byte, kind))
}

fn control(fd: &OwnedFd, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: a valid descriptor and a flock that lives through the call.
    match unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.close();
    }
}

fn bytes((held, unshared): (u8, u8)) -> impl Iterator<Item = i64> {
    let of = |set: u8, base: i64| (0..8).filter(move |bit| set & (1 << bit) != 0).map(move |bit| base + bit);
    of(held, HELD).chain(of(unshared, UNSHARED))
}

fn range(byte: i64, kind: i32) -> libc::flock {
    libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start: byte, l_len: 1, l_pid: 0 }
}

/// The constants of struct flock are all below ten.
fn short(constant: i32) -> i16 {
    i16::try_from(constant).unwrap_or(i16::MAX)
}

fn no_locks_here(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP))
}
