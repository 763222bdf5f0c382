//! The bits of a bitmap, cluster by cluster: bit n of the disk is bit n modulo 8, from the lowest, of byte n / 8.

use crate::node::qcow2::entry::Geometry;
use std::ops::Range;
use tidemark_cbt::Bitmap;

/// The bytes of the disk that the bits of the `index`-th cluster stand for.
pub fn span(bitmap: &Bitmap, index: u64, geometry: Geometry) -> Range<u64> {
    let bytes = (geometry.cluster() * 8).saturating_mul(bitmap.granularity().bytes());
    let start = index.saturating_mul(bytes);
    start..start.saturating_add(bytes).min(bitmap.len())
}

/// Marks what the `index`-th cluster of a stored bitmap of the same granularity marks. Bits that are past the end of
/// the disk mark nothing.
pub fn load(bitmap: &Bitmap, index: u64, bytes: &[u8], geometry: Geometry) {
    let (start, granularity) = (span(bitmap, index, geometry).start, bitmap.granularity().bytes());
    let offset = |bit: usize| start.saturating_add((bit as u64).saturating_mul(granularity));
    let mut run = None;
    for (at, byte) in bytes.iter().enumerate() {
        let whole = matches!((byte, run), (0, None) | (0xff, Some(_)));
        for bit in (0..8).filter(|_| !whole) {
            match (byte >> bit & 1 == 1, run) {
                (true, None) => run = Some(at * 8 + bit),
                (false, Some(first)) => {
                    bitmap.mark(offset(first), offset(at * 8 + bit) - offset(first));
                    run = None;
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
    }
    if let Some(first) = run {
        bitmap.mark(offset(first), offset(bytes.len() * 8).saturating_sub(offset(first)));
    }
}

/// Marks all that the `index`-th cluster of a bitmap's bits stands for.
pub fn fill(bitmap: &Bitmap, index: u64, geometry: Geometry) {
    let span = span(bitmap, index, geometry);
    bitmap.mark(span.start, span.end.saturating_sub(span.start));
}

/// Whether all bits of the `index`-th cluster are set that stand for something.
pub fn is_full(bitmap: &Bitmap, index: u64, geometry: Geometry) -> bool {
    let span = span(bitmap, index, geometry);
    bitmap.next_clear(span.start).is_none_or(|clear| clear >= span.end)
}

/// The `index`-th cluster of a bitmap's bits; `None` if no bit in it is set.
pub fn store(bitmap: &Bitmap, index: u64, geometry: Geometry) -> Option<Vec<u8>> {
    let (span, bits) = (span(bitmap, index, geometry), bitmap.granularity().bits());
    let mut bytes = Vec::new();
    let mut from = span.start;
    while let Some(marked) = bitmap.next_marked(from).filter(|marked| marked.start < span.end) {
        let end = marked.end.min(span.end);
        bytes.resize(usize::try_from(geometry.cluster()).unwrap_or(0), 0);
        let block = |offset: u64| usize::try_from((offset - span.start) >> bits).unwrap_or(usize::MAX);
        set(&mut bytes, block(marked.start)..block(end - 1) + 1);
        from = end;
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// Sets a run of bits, whole bytes at once.
fn set(bytes: &mut [u8], bits: Range<usize>) {
    let (first, last) = (bits.start / 8, bits.end / 8);
    for (at, byte) in bytes.iter_mut().enumerate().take(last + 1).skip(first) {
        let low = if at == first { 0xff_u8 << (bits.start % 8) } else { 0xff };
        let high = if at == last { !(0xff_u8 << (bits.end % 8)) } else { 0xff };
        *byte |= low & high;
    }
}
