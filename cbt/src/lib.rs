//! Changed-block tracking: bitmaps of dirty blocks and maps of chunks still to be copied. No I/O, no async.
//!
//! # The three orderings
//!
//! * **Dirty**: data lands, then the bit is set, then the write is acknowledged, also if it failed. A consumer takes
//!   (clears) the bit, then reads, then copies. Setting a bit only before the write loses updates. Whoever skips a bit
//!   that is set already needs a SeqCst fence before looking, and a taker a SeqCst exchange.
//! * **Owed** (copy-before-write): one two-bit state per chunk, changed by compare-and-swap only: OWED to BUSY to DONE,
//!   on failure BUSY to OWED. A write goes to a chunk when it is DONE; a reader of old data reads first and looks at the
//!   state afterwards.
//! * **Journal**: an area's bit is durable before the first write into that area is submitted.
#![forbid(unsafe_code)]
