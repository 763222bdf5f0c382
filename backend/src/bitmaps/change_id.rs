//! Names of points in time of a node, for those who ask later what has changed since.
//!
//! A name is good as long as the node is open: only what has recorded since then can answer, and only this process knows
//! what did. So each time that a node is opened its names have another beginning, which nobody can guess.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

/// What is common to all names that a node gives from its opening to its closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life(u64);

impl Default for Life {
    fn default() -> Self {
        Self(RandomState::new().hash_one(std::process::id()))
    }
}

/// The name of a point in time of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeId {
    pub(super) life: Life,
    pub(super) generation: u64,
}

impl fmt::Display for ChangeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}-{}", self.life.0, self.generation)
    }
}

/// What is no [`ChangeId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no change ID")]
pub struct NoChangeId(String);

impl FromStr for ChangeId {
    type Err = NoChangeId;

    /// Only what [`ChangeId::to_string`] has made.
    fn from_str(text: &str) -> Result<Self, NoChangeId> {
        let parts = text.split_once('-').and_then(|(life, generation)| {
            Some(Self { life: Life(u64::from_str_radix(life, 16).ok()?), generation: generation.parse().ok()? })
        });
        // What was written otherwise is somebody else's.
        parts.filter(|id| id.to_string() == text).ok_or_else(|| NoChangeId(text.to_owned()))
    }
}
