//! What an image is doing at each moment of a recording, as it says itself by `tracing`.

use crate::io::sim::World;
use std::cell::RefCell;
use std::fmt::Debug;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

thread_local! {
    /// Whose recording this thread makes, and what was said so far.
    static HEARD: RefCell<Option<(World, Vec<Said>)>> = const { RefCell::new(None) };
}

/// At which event of the recording an image began to do something.
#[derive(Clone, Debug)]
struct Said {
    event: usize,
    what: String,
}

/// What an image is doing, by events of a recording.
#[derive(Clone, Debug)]
pub struct Phases(Vec<Said>);

/// Of no write-back cycle.
pub const OUTSIDE: &str = "outside of cycles";

impl Phases {
    /// What the image is doing when the events before this one have happened.
    pub fn at(&self, event: usize) -> &str {
        let until = self.0.partition_point(|said| said.event <= event);
        self.0[..until].last().map_or(OUTSIDE, |said| &said.what)
    }
}

/// Does something with images of this world, listening to what they say.
pub fn listen(world: &World, work: impl FnOnce()) -> Phases {
    HEARD.set(Some((world.clone(), Vec::new())));
    tracing::subscriber::with_default(Listener, work);
    Phases(HEARD.take().expect("set above").1)
}

struct Listener;

struct Message(Option<String>);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}").strip_prefix("write-back: ").map(str::to_owned);
        }
    }
}

/// Counts are also written back between cycles, when they fill the memory there is.
fn note(what: String) {
    HEARD.with_borrow_mut(|heard| {
        let Some((world, said)) = heard else { return };
        let outside = said.last().is_none_or(|said| said.what == OUTSIDE);
        if outside && what != "begins" {
            return;
        }
        let what = if what == "ends" { OUTSIDE.to_owned() } else { what };
        said.push(Said { event: world.recorded(), what });
    });
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(None);
        event.record(&mut message);
        message.0.into_iter().for_each(note);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
