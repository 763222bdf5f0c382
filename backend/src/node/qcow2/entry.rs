//! Where in an image a guest byte is looked up, and what an entry of an L2 table says of a cluster.
//!
//! Pure arithmetic on the format's numbers (qcow2 specification, "Cluster mapping"). An entry comes from an untrusted
//! file: whatever breaks the rules decodes to [`Entry::Invalid`], never to an offset.

use std::ops::Range;

/// Bit 63: the cluster's (or L2 table's) reference count is exactly one, so it may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of an L2 entry (version 3): the cluster reads as zeroes, whatever its offset says.
const ZERO: u64 = 1;
/// Of the second word of an extended entry: every part is the guest's own data. In the upper half: reads as zeroes.
pub(super) const ALL_PARTS: u64 = 0xffff_ffff;
/// Log2 of the parts of a cluster that an extended entry tells of.
const PART_BITS: u32 = 5;
/// Bits 9 to 55: an offset into the file.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// The numbers that do not change while an image is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// 2 or 3.
    pub version: u32,
    /// Log2 of bytes per cluster, 9 to 21.
    pub cluster_bits: u32,
    /// Log2 of bits per reference count, 0 to 6.
    pub refcount_order: u32,
    /// Guest clusters are in an external data file.
    pub external_data: bool,
    /// Entries of L2 tables have a second word, which tells of the parts of their clusters.
    pub extended: bool,
}

impl Geometry {
    /// Bytes per cluster.
    pub fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Log2 of entries per L2 table.
    pub fn l2_bits(self) -> u32 {
        self.cluster_bits - 3 - u32::from(self.extended)
    }

    /// Words of an entry of an L2 table; the first one leads somewhere.
    pub fn entry_words(self) -> usize {
        1 + usize::from(self.extended)
    }

    /// Words per L2 table.
    pub fn l2_words(self) -> usize {
        1 << (self.cluster_bits - 3)
    }

    /// Bytes of the smallest piece that an entry tells of.
    pub fn part(self) -> u64 {
        if self.extended { 1 << (self.cluster_bits - PART_BITS) } else { self.cluster() }
    }

    /// The parts of a cluster that bytes of it are in, by bits of its entry's second word.
    pub fn parts(self, bytes: Range<u64>) -> u64 {
        let start = self.in_cluster(bytes.start) / self.part();
        let count = (bytes.end - (bytes.start - bytes.start % self.part())).div_ceil(self.part());
        (ALL_PARTS >> (32 - count.clamp(1, 32))) << start & ALL_PARTS
    }

    /// What the two words of an extended entry say of the part that a guest offset is in.
    pub fn decode_part(self, word: u64, bitmap: u64, offset: u64) -> Entry {
        let (part, cluster) = (self.in_cluster(offset) / self.part(), self.decode(word));
        let (data, zero) = (bitmap >> part & 1 != 0, bitmap >> part >> 32 & 1 != 0);
        match cluster {
            Entry::Invalid | Entry::Compressed { .. } => cluster,
            _ if data && zero => Entry::Invalid,
            Entry::Data { .. } if data => cluster,
            Entry::Data { host, copied } if zero => Entry::Zero { host: Some(host), copied },
            _ if data => Entry::Invalid,
            _ if zero => Entry::Zero { host: None, copied: false },
            _ => Entry::Unallocated,
        }
    }

    /// The first words of the entries of an L2 table.
    pub fn entries(self, words: &[u64]) -> impl Iterator<Item = u64> {
        words.iter().step_by(self.entry_words()).copied()
    }

    /// Entries per L2 table.
    pub fn l2_entries(self) -> usize {
        1 << self.l2_bits()
    }

    /// Guest bytes that one L2 table maps.
    pub fn l2_span(self) -> u64 {
        1 << (self.cluster_bits + self.l2_bits())
    }

    /// Entries an L1 table needs for a disk of `size` bytes.
    pub fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(self.l2_span())
    }

    /// Reference counts per refcount block (one cluster).
    pub fn refcounts_per_block(self) -> u64 {
        1 << (self.cluster_bits + 3 - self.refcount_order)
    }

    /// Number of the L2 table that maps a guest offset.
    pub fn l1_index(self, offset: u64) -> usize {
        // At most 2^64 / 2^15, which fits on 64-bit systems.
        usize::try_from(offset >> (self.cluster_bits + self.l2_bits())).unwrap_or(usize::MAX)
    }

    /// Number of a guest offset's entry in its L2 table.
    pub fn l2_index(self, offset: u64) -> usize {
        usize::try_from(offset >> self.cluster_bits).unwrap_or(usize::MAX) & (self.l2_entries() - 1)
    }

    /// Bytes into its cluster.
    pub fn in_cluster(self, offset: u64) -> u64 {
        offset & (self.cluster() - 1)
    }

    /// Offset of the cluster that `offset` is in.
    pub fn cluster_start(self, offset: u64) -> u64 {
        offset & !(self.cluster() - 1)
    }

    /// Clusters that `bytes` take.
    pub fn clusters(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster())
    }

    /// What an L2 entry says.
    pub fn decode(self, word: u64) -> Entry {
        if word & COMPRESSED != 0 {
            return self.decode_compressed(word);
        }
        let (copied, host, zero) = (word & COPIED != 0, word & OFFSET, word & ZERO != 0);
        let reserved = word & !(COPIED | OFFSET | ZERO);
        if reserved != 0 || self.in_cluster(host) != 0 || (zero && (self.version < 3 || self.extended)) {
            return Entry::Invalid;
        }
        // In an external data file, and only there, offset 0 is that of a cluster; COPIED says that there is one. Of a
        // zero cluster QEMU does not take it for one.
        let allocated = host != 0 || (self.external_data && copied && !zero);
        match (zero, allocated) {
            (true, true) => Entry::Zero { host: Some(host), copied },
            (true, false) => Entry::Zero { host: None, copied: false },
            (false, true) => Entry::Data { host, copied },
            (false, false) => Entry::Unallocated,
        }
    }

    /// "Compressed Clusters Descriptor": the host offset in the low bits, then the number of additional sectors.
    fn decode_compressed(self, word: u64) -> Entry {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let host = word & ((1 << offset_bits) - 1);
        let sectors = (word & (COMPRESSED - 1)) >> offset_bits;
        let len = (sectors + 1) * 512 - (host & 511);
        // Nor may the file be larger than offsets of other entries can say.
        if word & COPIED != 0 || self.external_data || host >> 56 != 0 {
            return Entry::Invalid;
        }
        Entry::Compressed { host, len }
    }

    /// The entry for a compressed cluster; `None` where an entry cannot say that.
    pub fn compressed_entry(self, host: u64, len: u64) -> Option<u64> {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let sectors = (host.checked_add(len)?.checked_sub(1)? >> 9) - (host >> 9);
        let fits = host >> offset_bits.min(56) == 0 && sectors < 1 << (self.cluster_bits - 8);
        fits.then_some(COMPRESSED | sectors << offset_bits | host)
    }

    /// The entry for a cluster with data of its own: reference count 1.
    pub fn data_entry(self, host: u64) -> u64 {
        COPIED | host
    }

    /// The entry for a cluster that reads as zeroes and keeps its space, if it has any.
    pub fn zero_entry(self, host: Option<u64>) -> u64 {
        ZERO | host.map_or(0, |host| COPIED | host)
    }

    /// The table's offset in an L1 entry, and whether its reference count is one; `None` where there is none.
    ///
    /// # Errors
    /// `Err` for an entry that breaks the rules.
    pub fn decode_l1(self, word: u64) -> Result<Option<(u64, bool)>, InvalidEntry> {
        let host = word & OFFSET;
        if word & !(COPIED | OFFSET) != 0 || self.in_cluster(host) != 0 {
            return Err(InvalidEntry);
        }
        Ok((host != 0).then_some((host, word & COPIED != 0)))
    }

    /// The L1 entry of an L2 table with reference count 1.
    pub fn l1_entry(self, host: u64) -> u64 {
        COPIED | host
    }
}

/// An L1 entry with reserved bits or an offset that is no cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidEntry;

/// What an L2 entry says of a guest cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The backing file's content, or zeroes.
    Unallocated,
    /// Zeroes.
    Zero {
        /// A cluster it has all the same.
        host: Option<u64>,
        /// That cluster may be written in place.
        copied: bool,
    },
    /// The content of a cluster.
    Data {
        /// Its offset in the data file.
        host: u64,
        /// It may be written in place.
        copied: bool,
    },
    /// The content of a compressed cluster.
    Compressed {
        /// Offset of the compressed data in the file; any byte.
        host: u64,
        /// Bytes up to the end of the last 512-byte sector it may use.
        len: u64,
    },
    /// The image is corrupt here.
    Invalid,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(cluster_bits: u32) -> Geometry {
        Geometry { version: 3, cluster_bits, refcount_order: 4, external_data: false, extended: false }
    }

    #[test]
    fn offsets_split_as_the_specification_says() {
        let small = geometry(9);
        // 64 entries of 512 bytes a table.
        assert_eq!((small.l1_index(0x8000), small.l2_index(0x8000), small.in_cluster(0x81ff)), (1, 0, 511));
        let usual = geometry(16);
        assert_eq!((usual.l1_index(0x2000_0000), usual.l2_index(0x1fff_0000)), (1, 8191));
        assert_eq!(usual.l1_entries(0x2000_0001), 2);
        assert_eq!(usual.refcounts_per_block(), 32768);
    }

    #[test]
    fn entries_mean_what_the_specification_says() {
        let table = [
            (0, Entry::Unallocated),
            (1, Entry::Zero { host: None, copied: false }),
            (0x8000_0000_0005_0000, Entry::Data { host: 0x5_0000, copied: true }),
            (0x0000_0000_0005_0000, Entry::Data { host: 0x5_0000, copied: false }),
            (0x8000_0000_0005_0001, Entry::Zero { host: Some(0x5_0000), copied: true }),
            // 64 KiB clusters: 54 bits of offset, 8 of sectors.
            (0x4000_0000_0005_0123, Entry::Compressed { host: 0x5_0123, len: 512 - 0x123 }),
            (0x4080_0000_0005_0000, Entry::Compressed { host: 0x5_0000, len: 3 * 512 }),
        ];
        for (word, entry) in table {
            assert_eq!(geometry(16).decode(word), entry, "{word:#x}");
        }
    }

    #[test]
    fn what_breaks_the_rules_is_no_offset() {
        let old = Geometry { version: 2, ..geometry(16) };
        let external = Geometry { external_data: true, ..geometry(16) };
        let broken = [
            (geometry(16), 0x8000_0000_0005_0200, "not a cluster's offset"),
            (geometry(16), 0x8000_0000_0005_0002, "reserved low bit"),
            (geometry(16), 0x0100_0000_0005_0000, "reserved high bit"),
            (geometry(16), 0xc000_0000_0005_0000, "compressed and copied"),
            (old, 1, "zero clusters came with version 3"),
            (external, 0x4000_0000_0005_0000, "compressed in a data file"),
        ];
        for (geometry, word, why) in broken {
            assert_eq!(geometry.decode(word), Entry::Invalid, "{why}");
        }
        assert_eq!(geometry(16).decode_l1(0x8000_0000_0005_0200), Err(InvalidEntry));
        assert_eq!(geometry(16).decode_l1(0x8000_0000_0005_0001), Err(InvalidEntry));
        assert_eq!(geometry(16).decode_l1(0x8000_0000_0005_0000), Ok(Some((0x5_0000, true))));
    }

    #[test]
    fn offset_zero_of_a_data_file_is_a_cluster() {
        let external = Geometry { external_data: true, ..geometry(16) };
        assert_eq!(external.decode(1 << 63), Entry::Data { host: 0, copied: true });
        assert_eq!(external.decode(0), Entry::Unallocated);
        assert_eq!(external.decode(1 << 63 | 1), Entry::Zero { host: None, copied: false });
    }
}
