//! What a disk may hold, by sector, whose daemon is killed: all that was sent there, and from where on it counts.

use std::ops::Range;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// What of a sector's past may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// What the last request has put there that has ended, or one that has not.
    Ended,
    /// What a flush covers, or anything since.
    Flushed,
}

/// One sector's past.
#[derive(Clone, Debug)]
struct Sector {
    /// All that was sent there, in order; the first is what it began with.
    sent: Vec<u64>,
    /// What the last request that has ended put there.
    ended: usize,
    /// What a flush that has ended covers.
    stable: usize,
    busy: bool,
}

/// A disk whose sectors hold one number each, repeated.
#[derive(Clone, Debug)]
pub struct Sectors(Vec<Sector>);

/// The bytes of sectors that hold a number.
pub fn contents(value: u64, sectors: usize) -> Vec<u8> {
    value.to_le_bytes().repeat(sectors * SECTOR / 8)
}

impl Sectors {
    /// A disk with this content.
    pub fn new(content: &[u8]) -> Self {
        let mut sectors = Self(Vec::new());
        sectors.0.resize(content.len() / SECTOR, Sector { sent: Vec::new(), ended: 0, stable: 0, busy: false });
        sectors.adopt(content);
        sectors
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no request to any of these is under way.
    pub fn is_idle(&self, sectors: Range<usize>) -> bool {
        self.0[sectors].iter().all(|sector| !sector.busy)
    }

    /// A request begins, which puts `value` there, if it changes anything.
    pub fn begin(&mut self, sectors: Range<usize>, value: Option<u64>) {
        for sector in &mut self.0[sectors] {
            sector.sent.extend(value);
            sector.busy = true;
        }
    }

    /// It has ended.
    pub fn end(&mut self, sectors: Range<usize>) {
        for sector in &mut self.0[sectors] {
            (sector.busy, sector.ended) = (false, sector.sent.len() - 1);
        }
    }

    /// What a flush that begins now covers.
    pub fn covered(&self) -> Vec<usize> {
        self.0.iter().map(|sector| sector.ended).collect()
    }

    /// It has ended.
    pub fn flushed(&mut self, covered: &[usize]) {
        for (sector, covered) in self.0.iter_mut().zip(covered) {
            sector.stable = sector.stable.max(*covered);
        }
    }

    /// What is wrong with these bytes, found from sector `first` on.
    pub fn judge(&self, first: usize, data: &[u8], since: Since) -> Option<String> {
        data.chunks(SECTOR).zip(&self.0[first..]).enumerate().find_map(|(at, (found, sector))| {
            let begin = if since == Since::Ended { sector.ended } else { sector.stable };
            let value = u64::from_le_bytes(found[..8].try_into().unwrap());
            let legal = sector.sent[begin..].contains(&value) && found.chunks(8).all(|word| word == &found[..8]);
            (!legal).then(|| format!("sector {}: {value:#x} is none of {:x?}", first + at, &sector.sent[begin..]))
        })
    }

    /// What is there is what counts from now on, and is stable.
    pub fn adopt(&mut self, content: &[u8]) {
        for (sector, found) in self.0.iter_mut().zip(content.chunks(SECTOR)) {
            let value = u64::from_le_bytes(found[..8].try_into().unwrap());
            *sector = Sector { sent: vec![value], ended: 0, stable: 0, busy: false };
        }
    }
}
