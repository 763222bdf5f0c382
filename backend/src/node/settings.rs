//! What of a node may change while it is open, in one word that each request reads. Changed under a hold of the node.

use super::NodeOptions;
use super::options::{DetectZeroes, Discard};
use std::sync::atomic::{AtomicU8, Ordering};

const READ_ONLY: u8 = 1;
const UNMAP: u8 = 2;
const DETECT_ZEROES: u8 = 4;
const UNMAP_ZEROES: u8 = 8;
const NO_FLUSH: u8 = 16;
const DIRECT: u8 = 32;

/// The settings of a node.
pub(super) struct Settings(AtomicU8);

impl Settings {
    /// What the options say.
    pub(super) fn new(options: &NodeOptions, read_only: bool) -> Self {
        Self(AtomicU8::new(word(options, read_only)))
    }

    /// From now on what these options say.
    pub(super) fn change(&self, options: &NodeOptions, read_only: bool) {
        self.0.store(word(options, read_only), Ordering::Release);
    }

    pub(super) fn set_read_only(&self, read_only: bool) {
        match read_only {
            true => self.0.fetch_or(READ_ONLY, Ordering::AcqRel),
            false => self.0.fetch_and(!READ_ONLY, Ordering::AcqRel),
        };
    }

    #[inline]
    fn has(&self, bit: u8) -> bool {
        self.0.load(Ordering::Acquire) & bit != 0
    }

    #[inline]
    pub(super) fn is_read_only(&self) -> bool {
        self.has(READ_ONLY)
    }

    #[inline]
    pub(super) fn discard(&self) -> Discard {
        if self.has(UNMAP) { Discard::Unmap } else { Discard::Ignore }
    }

    #[inline]
    pub(super) fn detect_zeroes(&self) -> DetectZeroes {
        match self.0.load(Ordering::Acquire) & (DETECT_ZEROES | UNMAP_ZEROES) {
            0 => DetectZeroes::Off,
            DETECT_ZEROES => DetectZeroes::On,
            _ => DetectZeroes::Unmap,
        }
    }

    pub(super) fn direct(&self) -> bool {
        self.has(DIRECT)
    }

    #[inline]
    pub(super) fn no_flush(&self) -> bool {
        self.has(NO_FLUSH)
    }
}

fn word(options: &NodeOptions, read_only: bool) -> u8 {
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    bit(read_only, READ_ONLY)
        | bit(options.discard == Discard::Unmap, UNMAP)
        | bit(options.detect_zeroes == DetectZeroes::On, DETECT_ZEROES)
        | bit(options.detect_zeroes == DetectZeroes::Unmap, UNMAP_ZEROES)
        | bit(options.cache_no_flush.is_on(), NO_FLUSH)
        | bit(options.cache_direct.is_on(), DIRECT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::options::{DriverOptions, NullOptions};

    #[test]
    fn settings_are_what_the_options_said_last() {
        let null = NullOptions { size: 0, read_zeroes: false, latency_ns: 0 };
        let plain = NodeOptions::new(DriverOptions::Null(null));
        let settings = Settings::new(&plain, false);
        for discard in [Discard::Ignore, Discard::Unmap] {
            for detect_zeroes in [DetectZeroes::Off, DetectZeroes::On, DetectZeroes::Unmap] {
                for flag in [false, true] {
                    let (cache_no_flush, cache_direct) = (flag.into(), (!flag).into());
                    let caches = NodeOptions { cache_no_flush, cache_direct, ..plain.clone() };
                    settings.change(&NodeOptions { discard, detect_zeroes, ..caches }, !flag);
                    assert_eq!((settings.discard(), settings.detect_zeroes()), (discard, detect_zeroes));
                    assert_eq!((settings.is_read_only(), settings.no_flush(), settings.direct()), (!flag, flag, !flag));
                }
            }
        }
    }
}
