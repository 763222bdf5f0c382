//! Corruption that is found while an image is in use: told to whoever operates it, and never made worse.
//!
//! What a write would make worse is *fatal*: the image is marked in its header so that nobody opens it for writing
//! before it is repaired, and nothing is written to it any more, not even what is only in memory. Reads go on. Texts are
//! QEMU's where QEMU finds the same.

mod examine;

use super::header::bits;
use super::image::Image;
use super::refcount::Fault;
use crate::error::IoError;
use crate::node::Kind;
use crate::range_lock::RangeLock;
use crate::reactor::Handle;
use examine::qemu_hex;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// What is wrong, for people.
    pub text: String,
    /// Bytes of the file that were not written because of it.
    pub bytes: Option<Range<u64>>,
    /// Whether nothing is written any more.
    pub fatal: bool,
}

/// Told of what is found, with the name of the image's node.
pub type Listener = Box<dyn Fn(&str, &Corruption) + Send + Sync>;

/// What is known of an image's soundness.
#[derive(Default)]
pub struct Soundness {
    /// Nothing is written any more.
    broken: AtomicBool,
    /// Something that is not fatal has been told: no more of it.
    told: AtomicBool,
    marking: RangeLock,
    listener: OnceLock<(String, Arc<OnceLock<Listener>>)>,
}

impl Soundness {
    /// Has `listener` told what is found, as of node `name`.
    pub fn tell(&self, name: &str, listener: Arc<OnceLock<Listener>>) {
        // There is one at most: who opens the image.
        let _ = self.listener.set((name.to_owned(), listener));
    }

    /// Whether nothing is written any more.
    #[inline]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Nothing is written any more, for a reason that is nobody's fault.
    pub(super) fn end_writing(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    fn report(&self, corruption: &Corruption) {
        if let Some((name, listener)) = self.listener.get()
            && let Some(listener) = listener.get()
        {
            listener(name, corruption);
        }
    }
}

impl Image {
    /// Whether corruption was found that ends all writing.
    pub fn is_broken(&self) -> bool {
        self.soundness.is_broken()
    }

    /// Looks why a request has failed, if that may be the image's fault.
    #[cold]
    pub(super) async fn look_for_corruption(&self, io: &Handle, kind: Kind, range: Range<u64>) {
        self.look_at_counts(io).await;
        if self.is_broken() {
            return;
        }
        if let Some(corruption) = self.examine(io, kind, range).await {
            self.found(io, corruption).await;
        }
    }

    /// Tells what was found to be wrong with the reference counts, if anything was.
    pub(super) async fn look_at_counts(&self, io: &Handle) {
        if let Some(fault) = self.refcounts.take_fault() {
            self.found(io, self.of_fault(fault)).await;
        }
    }

    fn of_fault(&self, fault: Fault) -> Corruption {
        let (text, bytes) = match fault {
            Fault::MetadataFree(host) => {
                let bytes = host..host + self.geometry.cluster();
                let structure = self.tables.metadata().overlapping(bytes.clone());
                let name = structure.map_or("metadata", |structure| structure.name());
                (format!("Preventing invalid write on metadata (overlaps with {name})"), Some(bytes))
            }
            Fault::NotCounted(host) => (format!("Cluster {host:#x} was in use, but its reference count is 0"), None),
            Fault::Block { index, offset } if self.geometry.in_cluster(offset) != 0 => {
                (format!("Refblock offset {offset:#x} unaligned (reftable index: {})", qemu_hex(index)), None)
            }
            Fault::Block { index, offset } => {
                let text = "is outside the file or that of other metadata";
                (format!("Refblock offset {offset:#x} {text} (reftable index: {})", qemu_hex(index)), None)
            }
        };
        Corruption { text, bytes, fatal: true }
    }

    /// Tells of corruption, and ends all writing if it is fatal.
    pub(super) async fn found(&self, io: &Handle, corruption: Corruption) {
        let corruption = Corruption { fatal: corruption.fatal && !self.is_read_only(), ..corruption };
        if !corruption.fatal {
            return self.found_harmless(&corruption);
        }
        let _turn = self.soundness.marking.lock(0..1).await;
        if self.soundness.broken.swap(true, Ordering::SeqCst) {
            return;
        }
        let below = self.store.node();
        let file = below.name();
        tracing::error!(
            file,
            "qcow2: Marking image as corrupt: {}; nothing is written to it any more",
            corruption.text
        );
        if self.geometry.version >= 3
            && let Err(error) = self.change_header(io, |header| header.incompatible |= bits::INCOMPATIBLE_CORRUPT).await
        {
            tracing::error!(file, %error, "the image could not be marked as corrupt");
        }
        self.soundness.report(&corruption);
    }

    /// Tells of corruption that nothing is made worse by.
    pub(super) fn found_harmless(&self, corruption: &Corruption) {
        if self.is_broken() || self.soundness.told.swap(true, Ordering::SeqCst) {
            return;
        }
        let below = self.store.node();
        let file = below.name();
        let text = &corruption.text;
        tracing::warn!(file, "qcow2: Image is corrupt: {text}; no more such events until it is opened again");
        self.soundness.report(corruption);
    }

    /// What a change of the image comes to.
    ///
    /// # Errors
    /// [`IoError::Io`] if nothing is written any more.
    pub(super) fn writable(&self) -> Result<(), IoError> {
        if self.is_broken() { Err(IoError::Io) } else { Ok(()) }
    }
}
