//! The end of a use of a bitmap: it or its successor goes on.

use super::Tracking;
use super::history::Cause;
use super::unsettled::Counted;
use std::sync::Arc;
use tidemark_cbt::Bitmap;

/// What becomes of a bitmap that somebody has used.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It stays what it was, and gets what was recorded meanwhile.
    Keep,
    /// It is used up: what was recorded meanwhile takes its place, and what could not be used, if there is such.
    Replace(Option<Arc<Bitmap>>),
}

/// What is left to do after grace.
#[must_use]
pub struct Released(Option<(Arc<Bitmap>, Arc<Bitmap>, Counted)>);

impl Released {
    /// Merges what belongs together, while writes go on.
    pub fn settle(self) {
        if let Some((target, source, _counted)) = self.0 {
            target.merge(&source);
        }
    }
}

impl Tracking {
    /// Ends the use of a bitmap, under a hold of its node.
    pub fn release(&self, name: &str, outcome: Outcome) -> Released {
        let mut records = self.lock();
        let record = records.iter_mut().find(|record| record.name == name);
        let Some((record, successor)) = record.and_then(|record| {
            let successor = record.successor.take()?;
            Some((record, successor))
        }) else {
            return Released(None);
        };
        let counted = self.unsettled.count();
        record.enabled = successor.enabled;
        match outcome {
            Outcome::Keep => {
                record.recorded.merge(&successor.recorded);
                Released(Some((record.bits.clone(), successor.bits, counted)))
            }
            Outcome::Replace(left) => {
                record.bits = successor.bits;
                let used = std::mem::replace(&mut record.recorded, successor.recorded);
                left.iter().for_each(|_| record.recorded.add_foreign());
                self.history().lose(name, &used, &record.recorded, Cause::UsedUp, successor.since);
                Released(left.map(|left| (record.bits.clone(), left, counted)))
            }
        }
    }
}
