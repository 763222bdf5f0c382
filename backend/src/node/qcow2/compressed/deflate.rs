//! Compressing one cluster; what becomes no smaller is not compressed.

use super::Method;
use miniz_oxide::deflate::compress_to_vec;
use ruzstd::encoding::{CompressionLevel, compress_to_vec as zstd};

/// How hard zlib tries: QEMU's default.
const LEVEL: u8 = 6;

/// A cluster's compressed form, if that is smaller.
pub(super) fn deflate(method: Method, cluster: &[u8]) -> Option<Vec<u8>> {
    let bytes = match method {
        Method::Zlib => compress_to_vec(cluster, LEVEL),
        Method::Zstd => zstd(cluster, CompressionLevel::Fastest),
    };
    (bytes.len() < cluster.len()).then_some(bytes)
}
