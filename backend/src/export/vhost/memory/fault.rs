//! SIGBUS on memory whose file was truncated: it ends the session, not the daemon.
//!
//! The front-end owns the files that guest memory is mapped from. When it truncates one, our next access beyond the
//! end raises SIGBUS. The handler here puts anonymous memory in the place of the missing page, so that the access
//! goes on, and raises a flag and an eventfd that the session and its queues look at. A SIGBUS anywhere else goes to
//! whoever handled it before.
//!
//! Invariant: everything the handler touches is static or kept alive by the mapping in which the fault happened, and
//! it takes no lock and allocates nothing.
#![allow(unsafe_code)]

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::event::EventfdFlags;

/// Whether an access hit a truncated file; readable as a flag and as an eventfd.
#[derive(Debug)]
pub struct MemoryFault {
    is_set: AtomicBool,
    event: OwnedFd,
}

impl MemoryFault {
    /// No fault yet.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> std::io::Result<Arc<MemoryFault>> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(MemoryFault { is_set: AtomicBool::new(false), event }))
    }

    /// Whether a fault happened.
    #[must_use]
    #[inline]
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Becomes readable with the first fault and stays so.
    #[must_use]
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn raise(&self) {
        if !self.is_set.swap(true, Ordering::Relaxed) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: write(2) is async-signal-safe; the buffer is ours and the descriptor is open while `self` lives.
            unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}

/// One watched range. `sequence` is odd while the others change, and the handler skips the slot then.
struct Slot {
    sequence: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    page_len: AtomicUsize,
    fault: AtomicPtr<MemoryFault>,
}

/// Enough for the largest tables of several front-ends, in 160 KiB.
const SLOT_COUNT: usize = 4096;

static SLOTS: [Slot; SLOT_COUNT] = [const {
    Slot {
        sequence: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page_len: AtomicUsize::new(0),
        fault: AtomicPtr::new(std::ptr::null_mut()),
    }
}; SLOT_COUNT];

/// Serialises those who change slots; the handler never takes it.
static CHANGE: Mutex<()> = Mutex::new(());

/// A range that is being watched; given up on drop.
#[derive(Debug)]
pub(super) struct Watch {
    index: usize,
    // The slot points to it.
    _fault: Arc<MemoryFault>,
}

impl Watch {
    /// Watches `range`, made of pages of `page_len` bytes. `None` when every slot is taken.
    pub(super) fn new(range: Range<usize>, page_len: usize, fault: Arc<MemoryFault>) -> Option<Watch> {
        install_handler();
        let _change = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
        let index = SLOTS.iter().position(|slot| slot.fault.load(Ordering::Relaxed).is_null())?;
        SLOTS.get(index)?.set(range, page_len, Arc::as_ptr(&fault).cast_mut());
        Some(Watch { index, _fault: fault })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _change = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = SLOTS.get(self.index) {
            slot.set(0..0, 0, std::ptr::null_mut());
        }
    }
}

impl Slot {
    /// Only with `CHANGE` held.
    fn set(&self, range: Range<usize>, page_len: usize, fault: *mut MemoryFault) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(range.start, Ordering::Relaxed);
        self.end.store(range.end, Ordering::Relaxed);
        self.page_len.store(page_len, Ordering::Relaxed);
        self.fault.store(fault, Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// The page that holds `addr`, its length, and whom to tell; `None` when `addr` is not in this slot's range.
    /// The slot of a range in which a fault happens is stable, because the faulting access keeps the mapping alive.
    fn page_of(&self, addr: usize) -> Option<(usize, usize, *const MemoryFault)> {
        let before = self.sequence.load(Ordering::Acquire);
        let (start, end) = (self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        let page_len = self.page_len.load(Ordering::Relaxed);
        let fault = self.fault.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let stable = before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before;
        let inside = stable && (start..end).contains(&addr);
        (inside && page_len > 0).then(|| (addr - (addr - start) % page_len, page_len, fault.cast_const()))
    }
}

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

fn install_handler() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: `sigaction` is plain data, for which zeros are valid; SIGBUS exists, so the calls cannot fail.
        unsafe {
            let mut previous: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous);
            // Known before the handler can run.
            let _ = PREVIOUS.set(previous);
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    });
}

extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo. A code above zero means a fault, and then it carries an address;
    // errno belongs to this thread and is put back, as the code that was interrupted may be about to read it.
    unsafe {
        let errno = *libc::__errno_location();
        let is_fault = (*info).si_code > 0;
        if !(is_fault && replace_page((*info).si_addr().addr())) {
            forward(signal, info, context);
        }
        *libc::__errno_location() = errno;
    }
}

/// Replaces the page at `addr` by anonymous memory if it is watched, and tells. Async-signal-safe.
fn replace_page(addr: usize) -> bool {
    let Some((page, len, fault)) = SLOTS.iter().find_map(|slot| slot.page_of(addr)) else {
        return false;
    };
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
    let page = std::ptr::with_exposed_provenance_mut(page);
    // SAFETY: the page lies in a watched mapping, which is alive because this thread was using it; its contents are
    // gone with the file, and everyone who may look at it treats it as memory that changes at any time.
    let mapped = unsafe { libc::mmap(page, len, prot, flags, -1, 0) };
    // SAFETY: the watch of a live mapping holds the fault it points to.
    unsafe { (*fault).raise() };
    mapped != libc::MAP_FAILED
}

/// Lets the handler that was there before have the signal, or the default action.
///
/// # Safety
/// Only from the handler, with its arguments.
unsafe fn forward(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get().filter(|action| !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN));
    // SAFETY: the previous action is a function of the kind its flags say, as sigaction(2) returned it. Without one
    // the default action is set; a fault then happens again at once, and a signal somebody sent is raised again.
    unsafe {
        match previous {
            Some(action) if action.sa_flags & libc::SA_SIGINFO != 0 => {
                let call: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(action.sa_sigaction);
                call(signal, info, context);
            }
            Some(action) => {
                let call: extern "C" fn(i32) = std::mem::transmute(action.sa_sigaction);
                call(signal);
            }
            None => {
                libc::signal(signal, libc::SIG_DFL);
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
        }
    }
}
