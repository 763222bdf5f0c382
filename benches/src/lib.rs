//! Benchmarks: `macro-bench` compares whole daemons, `benches/` times single pieces.
//!
//! The library itself is empty; every program here stands alone.
