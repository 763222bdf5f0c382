//! The cases of the table, in its order.

use tidemark_benches::case::{Case, Pattern};
use tidemark_benches::storage::Storage;

use crate::cli::Options;

/// The cases that the options leave.
pub fn all(options: &Options) -> Vec<Case> {
    let mut cases = Vec::new();
    for storage in [Storage::Null, Storage::Tmpfs, Storage::Cached, Storage::Direct] {
        for depth in [1, 32, 128] {
            for pattern in [Pattern::RandRead, Pattern::RandWrite] {
                cases.push(Case { storage, pattern, depth, queues: 1 });
            }
        }
        for pattern in [Pattern::SeqRead, Pattern::SeqWrite] {
            cases.push(Case { storage, pattern, depth: 8, queues: 1 });
        }
        if matches!(storage, Storage::Null | Storage::Cached) {
            let several = [2, 4].map(|queues| Case { storage, pattern: Pattern::RandRead, depth: 32, queues });
            cases.extend(several);
        }
    }
    cases.retain(|case| options.only.is_empty() || options.only.iter().any(|part| case.to_string().contains(part)));
    cases
}
