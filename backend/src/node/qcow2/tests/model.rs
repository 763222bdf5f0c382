//! What a guest may find on its disk: by sector, all it has sent there, and from where on that counts.

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// One sector's past.
#[derive(Clone, Debug)]
struct Sector {
    /// Everything sent there, in order; the first is what it began with.
    sent: Vec<u64>,
    /// What the last request that ended well has put there: an older value is lost data.
    sure: usize,
    /// What a flush that ended well covers: an older value is lost data even after a crash.
    stable: usize,
    busy: bool,
}

/// A disk whose sectors hold one number each, repeated.
#[derive(Clone, Debug)]
pub struct Model(Vec<Sector>);

/// The bytes of a run of sectors that hold this number.
pub fn bytes(value: u64, sectors: usize) -> Vec<u8> {
    value.to_le_bytes().repeat(sectors * SECTOR / 8)
}

impl Model {
    /// A disk with this content.
    pub fn new(content: &[u64]) -> Self {
        let sector = |value: &u64| Sector { sent: vec![*value], sure: 0, stable: 0, busy: false };
        Self(content.iter().map(sector).collect())
    }

    /// Sectors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Gives the disk another length; what is new is zero.
    pub fn resize(&mut self, len: usize) {
        self.0.resize(len, Sector { sent: vec![0], sure: 0, stable: 0, busy: false });
    }

    /// Whether no request to any of these is under way.
    pub fn is_idle(&self, sectors: std::ops::Range<usize>) -> bool {
        self.0[sectors].iter().all(|sector| !sector.busy)
    }

    /// A change of these sectors begins.
    pub fn begin(&mut self, sectors: std::ops::Range<usize>, value: u64) {
        for sector in &mut self.0[sectors] {
            sector.sent.push(value);
            sector.busy = true;
        }
    }

    /// A read begins.
    pub fn begin_read(&mut self, sectors: std::ops::Range<usize>) {
        self.0[sectors].iter_mut().for_each(|sector| sector.busy = true);
    }

    /// It has ended; `sure`: what it sent is there now.
    pub fn end(&mut self, sectors: std::ops::Range<usize>, sure: bool) {
        for sector in &mut self.0[sectors] {
            sector.busy = false;
            if sure {
                sector.sure = sector.sent.len() - 1;
            }
        }
    }

    /// What a flush that begins now covers.
    pub fn covered(&self) -> Vec<usize> {
        self.0.iter().map(|sector| sector.sure).collect()
    }

    /// A flush that covers this has ended well.
    pub fn flushed(&mut self, covered: &[usize]) {
        for (sector, covered) in self.0.iter_mut().zip(covered) {
            sector.stable = sector.stable.max(*covered);
        }
    }

    /// What was sent to these sectors last was to be stable when it ended, and has ended well.
    pub fn stable(&mut self, sectors: std::ops::Range<usize>) {
        self.0[sectors].iter_mut().for_each(|sector| sector.stable = sector.sure);
    }

    /// What is wrong with these bytes, read from `first` on.
    pub fn judge(&self, first: usize, data: &[u8], crashed: bool) -> Option<String> {
        data.chunks(SECTOR).zip(&self.0[first..]).enumerate().find_map(|(at, (found, sector))| {
            let since = if crashed { sector.stable } else { sector.sure };
            let legal = sector.sent[since..].iter().any(|value| bytes(*value, 1) == found);
            let found = u64::from_le_bytes(found[..8].try_into().ok()?);
            (!legal).then(|| format!("sector {}: {found:#x} is none of {:x?}", first + at, &sector.sent[since..]))
        })
    }

    /// What every sector holds; nothing is under way.
    pub fn values(&self) -> Vec<u64> {
        self.0.iter().map(|sector| sector.sent[sector.sure]).collect()
    }

    /// After a crash: what is there is what counts.
    pub fn adopt(&mut self, content: &[u8]) {
        for (sector, found) in self.0.iter_mut().zip(content.chunks(SECTOR)) {
            let value = u64::from_le_bytes(found[..8].try_into().expect("a sector"));
            *sector = Sector { sent: vec![value], sure: 0, stable: 0, busy: false };
        }
    }
}
