//! What was found out last of a disk's content, and how far to look next.
//!
//! Whoever asks an image for a run has it go through its tables for all that was asked about, also where the next image
//! then says that only the beginning of it is the same. So little is asked about where runs are short, and twice as much
//! each time where they are longer. Knows not what is asked.

use std::cell::Cell;

/// Bytes that are asked about where runs are short, or one chunk.
const LEAST: u64 = 16 << 20;

/// What was found last.
pub(crate) struct Survey<T> {
    known: Cell<Option<Known<T>>>,
    least: u64,
    ahead: Cell<u64>,
}

#[derive(Clone, Copy)]
struct Known<T> {
    from: u64,
    until: u64,
    what: T,
}

impl<T: Copy> Survey<T> {
    /// Nothing is known of a disk that is worked on in chunks of so many bytes.
    pub(crate) fn new(chunk: u64) -> Self {
        let least = LEAST.max(chunk);
        Self { known: Cell::new(None), least, ahead: Cell::new(least) }
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&self) {
        self.known.set(None);
    }

    /// Where the run ends that `offset` is in, and what it is.
    pub(crate) fn at(&self, offset: u64) -> Option<(u64, T)> {
        let known = self.known.get().filter(|known| (known.from..known.until).contains(&offset));
        known.map(|known| (known.until, known.what))
    }

    /// How many bytes to ask about where `left` may be asked about.
    pub(crate) fn ahead(&self, left: u64) -> u64 {
        left.min(self.ahead.get())
    }

    /// Of `asked` bytes from `offset` on `len` are `what`.
    pub(crate) fn learn(&self, offset: u64, asked: u64, len: u64, what: T) {
        let longer = len >= self.ahead.get();
        self.ahead.set(if longer { self.ahead.get().saturating_mul(2) } else { self.least });
        self.known.set(Some(Known { from: offset, until: offset.saturating_add(len.min(asked)), what }));
    }
}

impl Survey<bool> {
    /// Bytes from `offset` that look like a hole where what was learnt says whether there is data: whole chunks, and not
    /// more than `most`, of a disk of `len` bytes. 0 if it is data.
    pub(crate) fn hole_at(&self, offset: u64, chunk: u64, most: u64, len: u64) -> u64 {
        let Some((until, false)) = self.at(offset) else { return 0 };
        let most = most.max(chunk).min(len - offset);
        match until - offset {
            rest if rest >= most => most,
            rest if until >= len => rest,
            rest => rest - rest % chunk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// How many bytes are asked about in all to get over a disk of such runs.
    fn asked(runs: &[u64]) -> u64 {
        let (survey, len) = (Survey::new(MIB), runs.iter().sum::<u64>());
        let (mut offset, mut all) = (0, 0);
        for run in runs {
            let end = offset + run;
            while offset < end {
                let ahead = survey.ahead(len - offset);
                survey.learn(offset, ahead, ahead.min(end - offset), false);
                (offset, _) = survey.at(offset).unwrap();
                all += ahead;
            }
        }
        all
    }

    #[test]
    fn a_disk_of_short_runs_is_not_gone_through_to_its_end_for_each_of_them() {
        let runs = [MIB; 8192];
        assert!(asked(&runs) <= runs.len() as u64 * LEAST);
    }

    #[test]
    fn a_long_run_takes_few_looks_and_what_comes_after_it_little() {
        let (survey, len) = (Survey::new(MIB), 1 << 50);
        let looks = std::iter::from_fn(|| {
            let at = survey.at(0).map_or(0, |(until, _)| until);
            (at < len).then(|| survey.learn(0, len, at + survey.ahead(len - at), true))
        });
        assert!(looks.count() < 30);
        survey.learn(0, survey.ahead(len), MIB, true);
        assert_eq!(survey.ahead(len), LEAST);
        assert_eq!(Survey::<bool>::new(64 * MIB).ahead(len), 64 * MIB, "a chunk is asked about as a whole");
    }

    #[test]
    fn nothing_is_known_outside_of_what_was_found() {
        let survey = Survey::new(MIB);
        assert_eq!(survey.at(0), None);
        survey.learn(MIB, 8 * MIB, 2 * MIB, 'x');
        assert_eq!([MIB - 1, MIB, 3 * MIB - 1, 3 * MIB].map(|at| survey.at(at).is_some()), [false, true, true, false]);
        survey.forget();
        assert_eq!(survey.at(MIB), None);
    }

    #[test]
    fn holes_are_whole_chunks_but_at_the_end() {
        let (survey, len) = (Survey::new(MIB), 10 * MIB + 512);
        survey.learn(0, len, 3 * MIB + 4096, false);
        assert_eq!(survey.hole_at(0, MIB, 1 << 30, len), 3 * MIB);
        assert_eq!(survey.hole_at(0, MIB, 2 * MIB, len), 2 * MIB);
        survey.learn(9 * MIB, len, MIB + 512, false);
        assert_eq!(survey.hole_at(9 * MIB, MIB, 1 << 30, len), MIB + 512);
        survey.learn(0, len, len, true);
        assert_eq!(survey.hole_at(0, MIB, 1 << 30, len), 0, "data");
    }
}
