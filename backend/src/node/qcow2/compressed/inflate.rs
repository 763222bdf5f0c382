//! Inflating one cluster: exactly as many bytes as it has, out of bytes that may go on after the compressed data.

use crate::error::IoError;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::Read;

/// The largest window of a zstd frame: what every decoder should take (RFC 8878, 3.1.1.1.2), and memory for it.
const WINDOW_MAX: u64 = 8 << 20;

/// Raw deflate. A stream that goes on when the cluster is full is none of ours to judge.
pub(super) fn zlib(input: &[u8], cluster: &mut [u8]) -> Result<(), IoError> {
    let mut state = Box::<DecompressorOxide>::default();
    let (status, _, len) = decompress(&mut state, input, cluster, 0, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
    let ended = matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput);
    if ended && len == cluster.len() { Ok(()) } else { Err(IoError::Io) }
}

/// One zstd frame, which has to end where the cluster does.
pub(super) fn zstd(mut input: &[u8], cluster: &mut [u8]) -> Result<(), IoError> {
    let mut frame = FrameDecoder::new();
    frame.set_max_window_size(WINDOW_MAX);
    frame.init(&mut input).map_err(|_| IoError::Io)?;
    let mut done = 0;
    loop {
        // A block is at most 128 KiB and at least three bytes of input, so this ends.
        frame.decode_blocks(&mut input, BlockDecodingStrategy::UptoBlocks(1)).map_err(|_| IoError::Io)?;
        done += frame.read(cluster.get_mut(done..).unwrap_or_default()).map_err(|_| IoError::Io)?;
        if frame.is_finished() {
            break;
        }
        if frame.can_collect() > 0 {
            return Err(IoError::Io);
        }
    }
    let sound = frame.get_checksum_from_data().is_none_or(|sum| frame.get_calculated_checksum() == Some(sum));
    if sound && done == cluster.len() && frame.can_collect() == 0 { Ok(()) } else { Err(IoError::Io) }
}

#[cfg(test)]
mod tests;
