//! Big-endian numbers at fixed offsets, out of and into bytes; none is ever past their end.

/// Bytes to read from. What is past their end reads as zero.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        let found = self.0.get(at..).unwrap_or_default();
        bytes.iter_mut().zip(found).for_each(|(to, from)| *to = *from);
        bytes
    }

    pub(crate) fn u8(self, at: usize) -> u8 {
        u8::from_be_bytes(self.bytes(at))
    }

    pub(crate) fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.bytes(at))
    }

    pub(crate) fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes(at))
    }

    pub(crate) fn u64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes(at))
    }
}

/// Bytes that grow.
#[derive(Default)]
pub(in crate::node::qcow2) struct Writer(pub(in crate::node::qcow2) Vec<u8>);

impl Writer {
    pub(in crate::node::qcow2) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(in crate::node::qcow2) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(in crate::node::qcow2) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Zeroes up to a multiple of eight.
    pub(in crate::node::qcow2) fn pad(&mut self) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }
}
