//! What an image is doing at each moment of a recording, as it says itself by `tracing`.

use crate::io::sim::World;
use std::cell::RefCell;
use std::fmt::Debug;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

thread_local! {
    /// Whose recording this thread makes, and what was said so far.
    static HEARD: RefCell<Option<Heard>> = const { RefCell::new(None) };
}

/// What one recording hears.
struct Heard {
    world: World,
    said: Vec<Said>,
    /// Is told what the image begins to do.
    tell: Box<dyn Fn(&str)>,
}

/// At which event of the recording an image began to do something.
#[derive(Clone, Debug)]
struct Said {
    event: usize,
    what: String,
    /// In a write-back cycle.
    inside: bool,
}

/// What an image is doing, by events of a recording.
#[derive(Clone, Debug)]
pub struct Phases(Vec<Said>);

/// Writing nothing back.
pub const OUTSIDE: &str = "outside of cycles";

impl Phases {
    /// What the image is doing when the events before this one have happened.
    pub fn at(&self, event: usize) -> &str {
        let until = self.0.partition_point(|said| said.event <= event);
        self.0[..until].last().map_or(OUTSIDE, |said| &said.what)
    }
}

/// Does something with images of this world, listening to what they say and telling it.
pub fn listen(world: &World, tell: impl Fn(&str) + 'static, work: impl FnOnce()) -> Phases {
    HEARD.set(Some(Heard { world: world.clone(), said: Vec::new(), tell: Box::new(tell) }));
    tracing::subscriber::with_default(Listener, work);
    Phases(HEARD.take().expect("set above").said)
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
fn note(what: &str) {
    HEARD.with_borrow_mut(|heard| {
        let Some(Heard { world, said, tell }) = heard else { return };
        let was_inside = said.last().is_some_and(|said| said.inside);
        let (what, inside) = match (what, was_inside) {
            ("begins", _) => (what.to_owned(), true),
            ("ends", _) | ("counts are written", false) => (OUTSIDE.to_owned(), false),
            ("counts are written", true) => return,
            (_, true) => (what.to_owned(), true),
            (_, false) => (format!("between cycles: {what}"), false),
        };
        tell(&what);
        said.push(Said { event: world.recorded(), what, inside });
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
        message.0.iter().for_each(|what| note(what));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
