//! How many bytes one bit stands for.

/// Bytes per bit: a power of two from 512 bytes to 2 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Granularity(u8);

impl Granularity {
    /// The finest, in bytes.
    pub const MIN_BYTES: u64 = 512;
    /// The coarsest, in bytes.
    pub const MAX_BYTES: u64 = 1 << 31;
    /// 64 KiB.
    pub const DEFAULT: Self = Self(16);

    /// `None` unless `bytes` is a power of two in range.
    pub fn new(bytes: u64) -> Option<Self> {
        let fits = bytes.is_power_of_two() && (Self::MIN_BYTES..=Self::MAX_BYTES).contains(&bytes);
        fits.then(|| Self(u8::try_from(bytes.trailing_zeros()).unwrap_or(0)))
    }

    /// What suits an image with clusters of this many bytes: the cluster, but 4 KiB at least and 64 KiB at most.
    pub fn default_for(cluster_size: Option<u64>) -> Self {
        cluster_size.and_then(|size| Self::new(size.clamp(4096, 65536))).unwrap_or(Self::DEFAULT)
    }

    /// Bytes per bit.
    #[inline]
    pub fn bytes(self) -> u64 {
        1 << self.0
    }

    /// Its logarithm.
    #[inline]
    pub fn bits(self) -> u32 {
        u32::from(self.0)
    }
}
