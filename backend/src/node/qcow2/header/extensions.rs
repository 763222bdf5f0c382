//! Header extensions: pieces between the header and the name of the backing file, each with a type and a length.

use super::error::HeaderError;
use super::fields::{Fields, Writer};
use super::{BitmapsExtension, MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAPS, MAX_FORMAT_NAME};

/// Bytes of the mark after the last extension, and of what stands before the data of each.
pub(super) const END_LEN: usize = 8;
/// The end of the extensions.
const END: u32 = 0;
/// The backing file's format.
pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Names of feature bits.
pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
/// Where the bitmap directory is.
pub(super) const BITMAPS: u32 = 0x2385_2875;
/// Where an encryption header is.
pub(super) const CRYPTO: u32 = 0x0537_be77;
/// The external data file's name.
pub(super) const DATA_FILE: u32 = 0x4441_5441;

/// The extensions in a cluster from `start` on; they end at their end mark or at `end`.
pub(super) fn walk(
    cluster: &[u8],
    start: usize,
    end: usize,
) -> impl Iterator<Item = Result<(u32, &[u8]), HeaderError>> {
    let mut rest = cluster.get(start..end);
    std::iter::from_fn(move || {
        let area = rest.take().filter(|area| !area.is_empty())?;
        match next(area) {
            Ok(None) => None,
            Ok(Some((kind, data, after))) => {
                rest = Some(after);
                Some(Ok((kind, data)))
            }
            Err(error) => Some(Err(error)),
        }
    })
}

/// Type and data of an extension, and what is left of the area after it.
type Next<'a> = (u32, &'a [u8], &'a [u8]);

/// The first extension of an area.
fn next(area: &[u8]) -> Result<Option<Next<'_>>, HeaderError> {
    let (head, body) = area.split_at_checked(8).ok_or(HeaderError::Extension)?;
    let kind = Fields(head).u32(0);
    let len = usize::try_from(Fields(head).u32(4)).map_err(|_| HeaderError::Extension)?;
    let data = body.get(..len).ok_or(HeaderError::Extension)?;
    // The padding of the last one may be missing.
    let after = body.get(len.next_multiple_of(8)..).unwrap_or_default();
    Ok((kind != END).then_some((kind, data, after)))
}

/// The name of a backing file's format.
pub(super) fn backing_format(data: &[u8]) -> Result<String, HeaderError> {
    if data.len() > MAX_FORMAT_NAME {
        return Err(HeaderError::FormatName(data.len()));
    }
    text(data, "Backing file format name")
}

/// Text as QEMU reads it: up to the first zero.
pub(super) fn text(data: &[u8], what: &'static str) -> Result<String, HeaderError> {
    let data = data.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(data).map_err(|_| HeaderError::NotText(what))?;
    Ok(text.to_owned())
}

/// Where the bitmap directory is.
pub(super) fn bitmaps(data: &[u8], cluster: u64) -> Result<BitmapsExtension, HeaderError> {
    let fields = Fields(data);
    let bitmaps = BitmapsExtension { count: fields.u32(0), size: fields.u64(8), offset: fields.u64(16) };
    if data.len() != 24 {
        return Err(HeaderError::BitmapsLength);
    }
    if fields.u32(4) != 0 {
        return Err(HeaderError::BitmapsReserved);
    }
    match bitmaps.count {
        0 => return Err(HeaderError::NoBitmaps),
        1..=MAX_BITMAPS => {}
        more => return Err(HeaderError::BitmapsCount(more)),
    }
    if !bitmaps.offset.is_multiple_of(cluster) {
        return Err(HeaderError::BitmapsOffset);
    }
    match bitmaps.size {
        0 => Err(HeaderError::EmptyDirectory),
        1..=MAX_BITMAP_DIRECTORY_BYTES => Ok(bitmaps),
        more => Err(HeaderError::BitmapsSize(more)),
    }
}

/// The data of a bitmaps extension.
pub(super) fn bitmaps_data(bitmaps: BitmapsExtension) -> Vec<u8> {
    let mut data = Writer::default();
    data.u32(bitmaps.count).u32(0).u64(bitmaps.size).u64(bitmaps.offset);
    data.0
}

/// Appends an extension; `None` if its length is no 32-bit number.
pub(super) fn append(writer: &mut Writer, kind: u32, data: &[u8]) -> Option<()> {
    let len = u32::try_from(data.len()).ok()?;
    writer.u32(kind).u32(len).bytes(data).pad();
    Some(())
}

/// Appends the mark after the last extension.
pub(super) fn end(writer: &mut Writer) {
    writer.u32(END).u32(0);
}
