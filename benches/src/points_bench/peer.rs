//! The two daemons compared, and the order they take turns in.

use std::path::Path;

use crate::cli::Options;

/// A daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The one under test.
    Tidemark,
    /// qemu-storage-daemon.
    Qsd,
}

impl Peer {
    /// Both.
    pub const BOTH: [Peer; 2] = [Peer::Tidemark, Peer::Qsd];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Tidemark => "tidemark",
            Peer::Qsd => "qsd",
        }
    }

    /// Its program.
    pub fn program(self, options: &Options) -> &Path {
        match self {
            Peer::Tidemark => &options.tidemark,
            Peer::Qsd => &options.qsd,
        }
    }
}

/// The indices below `count` in the order of a round: everybody is first as often as everybody else, and has either
/// neighbour before him.
pub fn order(count: usize, round: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(usize::try_from(round / 2).unwrap_or(0) % count.max(1));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_first_as_often_as_everybody_else() {
        for count in [2, 3] {
            let mut first = vec![0; count];
            for round in 0..12 {
                first[order(count, round)[0]] += 1;
            }
            assert!(first.iter().all(|times| *times == 12 / count), "{first:?}");
        }
    }
}
