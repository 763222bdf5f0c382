//! Looks at every hold: it must succeed at once, without time passing, and so without any storage completing meanwhile.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// What became of the holds of a run.
#[derive(Default)]
pub struct Holds {
    made: AtomicU64,
    waited: AtomicU64,
}

impl Holds {
    /// How many were made, and how many of them not at once.
    pub fn count(&self) -> (u64, u64) {
        (self.made.load(Ordering::Relaxed), self.waited.load(Ordering::Relaxed))
    }
}

/// A way for the run to tell.
pub struct Witness(pub std::sync::Arc<Holds>);

/// What is told of one hold.
#[derive(Default)]
struct Told {
    micros: u64,
    held: bool,
}

impl Visit for Told {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "micros" {
            self.micros = value;
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.held |= field.name() == "held" && value;
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

impl Subscriber for Witness {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "hold"
    }

    fn event(&self, event: &Event<'_>) {
        let mut told = Told::default();
        event.record(&mut told);
        self.0.made.fetch_add(1, Ordering::Relaxed);
        self.0.waited.fetch_add(u64::from(!told.held || told.micros > 0), Ordering::Relaxed);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
