//! Ctrl-C and its relatives: noted the first time, obeyed at once the second.

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Which signal has asked for the end.
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Begins to note signals.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn watch() -> Result<Self> {
        let (which, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal)?;
            // In this order: the first signal finds `again` unset.
            flag::register_conditional_shutdown(signal, 128 + signal, again.clone())
                .and_then(|_| flag::register(signal, again.clone()))
                .and_then(|_| flag::register_usize(signal, which.clone(), number))
                .context("cannot handle signals")?;
        }
        Ok(Self(which))
    }

    /// The signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        let number = self.0.load(Ordering::Relaxed);
        i32::try_from(number).ok().filter(|number| *number != 0)
    }
}
