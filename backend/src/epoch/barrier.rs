//! The two halves of a full fence between a frequent and a rare side: membarrier(2), or a fence on each.

#[cfg(not(loom))]
mod system {
    use crate::sync::{AtomicBool, Ordering, fence};
    use rustix::thread::{MembarrierCommand, membarrier};
    use std::sync::Once;

    static REGISTER: Once = Once::new();
    /// Whether the kernel makes the frequent side's fence for it.
    static EXPEDITED: AtomicBool = AtomicBool::new(false);

    /// To be called before the first fence of either kind.
    pub fn prepare() {
        REGISTER.call_once(|| {
            let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
            EXPEDITED.store(registered, Ordering::SeqCst);
        });
    }

    /// The frequent side's.
    #[inline]
    pub fn light() {
        if EXPEDITED.load(Ordering::Relaxed) {
            std::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// The rare side's.
    pub fn heavy() {
        fence(Ordering::SeqCst);
        if EXPEDITED.load(Ordering::Relaxed) && membarrier(MembarrierCommand::PrivateExpedited).is_err() {
            // Registered, so it cannot fail but for want of memory: then everybody fences for himself from now on, and
            // whoever is between its two steps at this moment has had time for them when the scheduler has been here.
            EXPEDITED.store(false, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// In the model a light fence is a full one: that is what membarrier(2) makes of it.
#[cfg(loom)]
mod system {
    use crate::sync::{Ordering, fence};

    pub fn prepare() {}

    pub fn light() {
        fence(Ordering::SeqCst);
    }

    pub fn heavy() {
        fence(Ordering::SeqCst);
    }
}

pub use system::{heavy, light, prepare};
