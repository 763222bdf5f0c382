//! What each sector may hold, by what the guest was told: the judge of every run.
//!
//! Knows requests only from the guest's side: when it made one available and when it saw the end. A write in between
//! may be there or not; one that has ended is there until another that began later has ended; what a flush covers
//! survives a power cut. Moments are numbers that grow with everything the guest does or sees.

use std::ops::Range;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// A moment in the guest's life.
pub type Moment = u64;

/// A content a sector may have: 0 is zeroes, anything else the number of the write it comes from.
pub type Tag = u32;

#[derive(Clone, Copy, Debug)]
struct Version {
    tag: Tag,
    change: u64,
    start: Moment,
    end: Option<Moment>,
    /// Ended well, so it replaced what was there before. Discards and failed writes may have or not.
    sure: bool,
    stable: bool,
    /// Whether a flush may still make it stable.
    flushable: bool,
}

/// The legal contents of a disk.
pub struct Oracle {
    sectors: Vec<Vec<Version>>,
    now: Moment,
    reads: Vec<Moment>,
}

/// How a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It replaced what was there.
    Done {
        /// And was promised to be stable.
        stable: bool,
    },
    /// It may have replaced some of it.
    Perhaps,
}

impl Oracle {
    /// A disk of zeroes.
    pub fn new(sectors: usize) -> Self {
        Self::of(&vec![0; sectors])
    }

    /// A disk that holds these tags, sector by sector.
    pub fn of(tags: &[Tag]) -> Self {
        let sectors = tags.iter().map(|tag| vec![Version::initial(*tag)]).collect();
        Self { sectors, now: 1, reads: Vec::new() }
    }

    /// The next moment.
    pub fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A write, zero or discard was made available; returns its number.
    pub fn begin_change(&mut self, range: Range<usize>, tag: Tag) -> u64 {
        let start = self.tick();
        let version = Version { tag, change: start, start, end: None, sure: false, stable: false, flushable: true };
        self.sectors[range].iter_mut().for_each(|versions| versions.push(version));
        start
    }

    /// The guest saw the end of a change.
    pub fn end_change(&mut self, range: Range<usize>, change: u64, end: End) {
        let now = self.tick();
        for versions in &mut self.sectors[range] {
            for version in versions.iter_mut().filter(|version| version.change == change) {
                version.end = Some(now);
                version.sure = end != End::Perhaps;
                version.stable = end == End::Done { stable: true };
            }
        }
    }

    /// A read was made available.
    pub fn begin_read(&mut self) -> Moment {
        let start = self.tick();
        self.reads.push(start);
        start
    }

    /// A read has ended, well or not.
    pub fn end_read(&mut self, start: Moment) {
        self.reads.retain(|other| *other != start);
    }

    /// Judges what a read that began at `start` has found from sector `first` on.
    pub fn check_read(&self, start: Moment, first: usize, data: &[u8]) -> Result<(), String> {
        self.check(first, data, |replacing| replacing.end.is_some_and(|end| end < start))
    }

    /// A flush that was made available at `start` has ended well.
    pub fn end_flush(&mut self, start: Moment) {
        let oldest_read = self.reads.iter().copied().min().unwrap_or(Moment::MAX);
        for versions in &mut self.sectors {
            for version in versions.iter_mut() {
                let covered = version.sure && version.flushable && version.end.is_some_and(|end| end < start);
                version.stable |= covered;
            }
            let forgettable = |old: &Version| {
                let replaced = |new: &&Version| new.stable && new.replaces(old) && new.end < Some(oldest_read);
                versions.iter().any(|new| replaced(&new))
            };
            if versions.len() > 8 {
                let kept = versions.iter().filter(|old| !forgettable(old)).copied().collect();
                *versions = kept;
            }
        }
    }

    /// The serving process died on storage whose flushes can fail: an error may have been told to nobody, so what was
    /// not stable by then is never known to be.
    pub fn doubt(&mut self) {
        let all = self.sectors.iter_mut().flatten();
        all.for_each(|version| version.flushable &= version.end.is_none());
    }

    /// Judges what a power cut leaves.
    pub fn check_stable(&self, content: &[u8]) -> Result<(), String> {
        self.check(0, content, |replacing| replacing.stable)
    }

    /// Judges what a power cut has left and takes it as what the disk holds from now on.
    pub fn check_power_cut(&mut self, content: &[u8]) -> Result<(), String> {
        self.check_stable(content)?;
        self.reads.clear();
        for (versions, data) in self.sectors.iter_mut().zip(content.chunks(SECTOR)) {
            *versions = vec![Version::initial(number(data, 0))];
        }
        Ok(())
    }

    fn check(&self, first: usize, data: &[u8], replaced: impl Fn(&Version) -> bool) -> Result<(), String> {
        for (sector, bytes) in (first..).zip(data.chunks(SECTOR)) {
            let tag = decode(sector, bytes)?;
            let versions = &self.sectors[sector];
            let stale = |old: &Version| versions.iter().any(|new| replaced(new) && new.replaces(old));
            if !versions.iter().any(|version| version.tag == tag && !stale(version)) {
                return Err(format!("sector {sector} holds write {tag}, which it may not: {versions:?}"));
            }
        }
        Ok(())
    }
}

impl Version {
    fn initial(tag: Tag) -> Self {
        Self { tag, change: 0, start: 0, end: Some(0), sure: true, stable: true, flushable: true }
    }

    /// Whether it certainly came after `old`.
    fn replaces(&self, old: &Version) -> bool {
        self.sure && old.end.is_some_and(|end| end < self.start)
    }
}

/// The content of `sectors` sectors from `first` on, written by `tag`.
pub fn content(first: usize, sectors: usize, tag: Tag) -> Vec<u8> {
    let mut data = vec![0; sectors * SECTOR];
    if tag == 0 {
        return data;
    }
    for (sector, bytes) in (first..).zip(data.chunks_mut(SECTOR)) {
        let place = u32::try_from(sector).unwrap_or(u32::MAX);
        for word in bytes.chunks_mut(8) {
            word[..4].copy_from_slice(&tag.to_le_bytes());
            word[4..].copy_from_slice(&place.to_le_bytes());
        }
    }
    data
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Whose content a sector has.
pub fn decode(sector: usize, bytes: &[u8]) -> Result<Tag, String> {
    let tag = number(bytes, 0);
    match bytes == content(sector, 1, tag) {
        true => Ok(tag),
        false => Err(format!("sector {sector} is torn, foreign or unwritten: it begins {:x?}", &bytes[..16])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_names_its_write_and_its_place() {
        assert_eq!(decode(7, &content(7, 1, 9)), Ok(9));
        assert_eq!(decode(7, &content(7, 1, 0)), Ok(0));
        assert!(decode(8, &content(7, 1, 9)).is_err());
    }

    #[test]
    fn a_read_sees_the_last_write_that_ended_or_one_in_flight_and_nothing_older() {
        let mut oracle = Oracle::new(1);
        let first = oracle.begin_change(0..1, 1);
        oracle.end_change(0..1, first, End::Done { stable: false });
        oracle.begin_change(0..1, 2);
        let read = oracle.begin_read();
        let legal: Vec<bool> = (0..3).map(|tag| oracle.check_read(read, 0, &content(0, 1, tag)).is_ok()).collect();
        assert_eq!(legal, [false, true, true]);
    }

    #[test]
    fn a_power_cut_may_take_what_no_flush_has_covered() {
        let legal = |flushed: bool| {
            [0, 1, 2].map(|tag| {
                let mut oracle = Oracle::new(1);
                let first = oracle.begin_change(0..1, 1);
                oracle.end_change(0..1, first, End::Done { stable: false });
                let flush = oracle.tick();
                let second = oracle.begin_change(0..1, 2);
                oracle.end_change(0..1, second, End::Done { stable: false });
                if flushed {
                    oracle.end_flush(flush);
                }
                oracle.check_power_cut(&content(0, 1, tag)).is_ok()
            })
        };
        assert_eq!(legal(false), [true, true, true]);
        assert_eq!(legal(true), [false, true, true]);
    }
}
