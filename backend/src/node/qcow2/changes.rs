//! Change tracking that outlives a crash: an image's persistent bitmaps with a change journal beside them.
//!
//! While the image is open its bitmaps are marked as in use, so nobody else believes them. What they were when they were
//! stored last and the areas that the journal has are at least what they are, and that is what the next opening begins
//! with. A journal is believed only if the image names it, which whoever writes to the image and does not know it
//! undoes; see [`super::journal::tie`]. A journal that fails is first given up in the image, then no write waits for
//! it: the bitmaps in memory are still right, and lost only by a crash.

mod attach;
mod checkpoint;
mod event;
mod give_up;
mod left;
mod recover;
mod save;

pub use event::{ChangesEvent, Listener};
pub(super) use left::is_changed;
#[cfg(test)]
pub(super) use left::state as data_state;
pub use recover::Recovered;
pub(super) use recover::{find, tell_disbelief};

use super::journal::Journal;
use super::journal::tie::Changes as Where;
use crate::error::GraphError;
use crate::node::Node;
use crate::node::changes::{ChangeJournal, Medium};
use crate::range_lock::RangeLock;
use event::Told;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Words of memory for a journal in memory: what 1 TiB takes, or 16 TiB in larger areas.
const CHANGES_WORDS: usize = (2 + 2 * 274) * 64;

/// What the bitmaps of an image survive (`x-crash-safe`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashSafe {
    /// That the power is cut.
    Power,
    /// That the process is killed.
    Process,
    /// Neither, as in QEMU.
    Off,
}

/// Which file is opened for a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The one that the image names, if it is there.
    Found,
    /// The same, whatever it has; made if it is not there.
    Own,
    /// One that has nothing else than a journal; made if it is not there.
    New,
}

/// Opens the file of an image's journal; `None` if it is not there.
pub type OpenFile = Arc<dyn Fn(Wanted) -> Result<Option<Arc<Node>>, GraphError> + Send + Sync>;

/// What an image is opened with for its changes.
#[derive(Clone)]
pub struct ChangesOptions {
    /// What is wanted.
    pub crash_safe: CrashSafe,
    /// Whether the user has asked for it: it is an error then if it cannot be had.
    pub demanded: bool,
    /// The journal's file.
    pub file: OpenFile,
}

impl std::fmt::Debug for ChangesOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChangesOptions({:?})", self.crash_safe)
    }
}

/// The changes of an open image.
pub struct Changes {
    options: Option<ChangesOptions>,
    journal: Mutex<Option<Arc<ChangeJournal>>>,
    recovered: Mutex<Option<Recovered>>,
    /// Where the journal is that the image does not name yet.
    unnamed: Mutex<Option<Where>>,
    /// Of those who begin a journal.
    turn: RangeLock,
    told: Told,
    /// Why bitmaps that were in use are inconsistent.
    disbelief: String,
    /// The bitmaps are in the image as they are.
    stored: AtomicBool,
}

impl Changes {
    /// None so far.
    pub(super) fn new(options: Option<ChangesOptions>, found: Result<Recovered, String>) -> Self {
        let (recovered, disbelief) = match found {
            Ok(recovered) => (Some(recovered), recover::BEFORE.to_owned()),
            Err(reason) => (None, reason),
        };
        Self {
            options,
            disbelief,
            journal: Mutex::default(),
            recovered: Mutex::new(recovered),
            unnamed: Mutex::default(),
            turn: RangeLock::default(),
            told: Told::new(),
            stored: AtomicBool::new(false),
        }
    }

    /// The journal, if there is one that is kept.
    pub fn journal(&self) -> Option<Arc<ChangeJournal>> {
        locked(&self.journal).clone().filter(|journal| !journal.has_failed())
    }

    fn set_journal(&self, journal: Option<ChangeJournal>) {
        *locked(&self.journal) = journal.map(Arc::new);
    }

    /// What was found in a journal when the image was opened.
    pub fn recovered(&self) -> Option<Recovered> {
        locked(&self.recovered).clone()
    }

    /// Why bitmaps that were in use, and are not among those recovered, are inconsistent.
    pub fn disbelief(&self) -> &str {
        &self.disbelief
    }

    /// What is wanted.
    fn crash_safe(&self) -> CrashSafe {
        let options = self.options.as_ref();
        options.map_or(CrashSafe::Off, |options| options.crash_safe)
    }

    /// Words of memory that a journal takes where that of tables is.
    pub(super) fn room(&self) -> usize {
        if self.crash_safe() == CrashSafe::Process { CHANGES_WORDS } else { 0 }
    }

    /// Where a journal goes, made if it is not there; `None` if none is wanted. `named` is where the image has one.
    fn medium(&self, tables: Option<&Journal>, named: Option<Where>) -> Result<Option<Medium>, GraphError> {
        let Some(options) = &self.options else { return Ok(None) };
        match options.crash_safe {
            CrashSafe::Off => Ok(None),
            CrashSafe::Process => {
                let medium = tables.and_then(Journal::changes_medium).map(Medium::Shared);
                let none = || GraphError::Options("x-crash-safe=process needs a file in /dev/shm".to_owned());
                medium.ok_or_else(none).map(Some)
            }
            CrashSafe::Power => {
                let wanted = if named == Some(Where::File) { Wanted::Own } else { Wanted::New };
                Ok((options.file)(wanted)?.map(Medium::File))
            }
        }
    }

    /// The bitmaps are in the image, to be believed, and nobody records in them any more.
    pub(super) fn stored(&self) {
        self.stored.store(true, Ordering::Release);
    }

    /// Somebody goes on recording in them.
    pub(super) fn go_on(&self) {
        self.stored.store(false, Ordering::Release);
    }

    /// Somebody records in them again, as if the image had just been opened.
    pub(super) fn begin_anew(&self) {
        self.go_on();
        *locked(&self.recovered) = None;
    }

    /// Whether they are.
    pub(super) fn are_stored(&self) -> bool {
        self.stored.load(Ordering::Acquire)
    }

    /// Whether the user asked for it.
    fn is_demanded(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.demanded)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
