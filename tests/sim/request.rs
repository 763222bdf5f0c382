//! The requests a guest sends, well-formed and not, and what it must be told.

use crate::oracle::Tag;
use std::ops::Range;
use tidemark_frontend::request_type;

/// Status bytes (virtio 1.2, section 5.2.6).
pub const OK: u8 = 0;
/// VIRTIO_BLK_S_IOERR.
pub const IO_ERROR: u8 = 1;
/// VIRTIO_BLK_S_UNSUPP.
pub const UNSUPPORTED: u8 = 2;

/// What a request does to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reads these sectors.
    Read(Range<usize>),
    /// Writes them.
    Write(Range<usize>, Tag),
    /// Makes them zero.
    Zero(Range<usize>),
    /// Lets them go.
    Discard(Range<usize>),
    /// Makes what has ended stable.
    Flush,
    /// Asks for the serial.
    GetId,
    /// Must be answered with this status.
    Malformed(u8),
}

/// A request as it goes into a ring: header, data the device reads, bytes the device writes.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// What it means.
    pub action: Action,
    /// Header bytes; 16 unless malformed.
    pub header: Vec<u8>,
    /// Bytes for the device to read.
    pub out: Vec<u8>,
    /// Bytes for the device to write, without the status.
    pub in_len: usize,
    /// One data buffer is outside of guest memory.
    pub unmapped: bool,
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

impl Parcel {
    /// The parcel of a well-formed action.
    pub fn new(action: Action, unmap: bool) -> Self {
        let place = |range: &Range<usize>| (range.start as u64, u32::try_from(range.len()).unwrap_or(0));
        let (header, out, in_len) = match &action {
            Action::Read(range) => {
                (header(request_type::IN, range.start as u64), Vec::new(), range.len() * crate::oracle::SECTOR)
            }
            Action::Write(range, tag) => {
                let data = crate::oracle::content(range.start, range.len(), *tag);
                (header(request_type::OUT, range.start as u64), data, 0)
            }
            Action::Zero(range) => {
                let (sector, sectors) = place(range);
                (header(request_type::WRITE_ZEROES, 0), segment(sector, sectors, u32::from(unmap)), 0)
            }
            Action::Discard(range) => {
                let (sector, sectors) = place(range);
                (header(request_type::DISCARD, 0), segment(sector, sectors, 0), 0)
            }
            Action::Flush => (header(request_type::FLUSH, 0), Vec::new(), 0),
            Action::GetId | Action::Malformed(_) => (header(request_type::GET_ID, 0), Vec::new(), 20),
        };
        Self { action, header, out, in_len, unmapped: false }
    }

    /// One of the mistakes a driver can make, on a disk of `sectors`.
    pub fn malformed(random: &mut fastrand::Rng, sectors: u64) -> Self {
        use request_type::{DISCARD, IN, OUT, WRITE_ZEROES};
        let (status, header, out, in_len) = match random.u8(0..14) {
            0 => (UNSUPPORTED, header(99, 0), Vec::new(), 512),
            1 => (IO_ERROR, header(IN, sectors), Vec::new(), 512),
            2 => (IO_ERROR, header(IN, u64::MAX / 512), Vec::new(), 1024),
            3 => (IO_ERROR, header(OUT, sectors - 1), vec![1; 1024], 0),
            4 => (IO_ERROR, header(IN, 0), Vec::new(), 100),
            5 => (IO_ERROR, header(OUT, 0), vec![1; 513], 0),
            6 => (IO_ERROR, header(OUT, 0), Vec::new(), 0),
            7 => (IO_ERROR, vec![0; 8], Vec::new(), 512),
            8 => (UNSUPPORTED, header(DISCARD, 0), segment(0, 1, 1), 0),
            9 => (UNSUPPORTED, header(WRITE_ZEROES, 0), segment(0, 1, 2), 0),
            10 => (IO_ERROR, header(DISCARD, 0), segment(sectors, 1, 0), 0),
            11 => (IO_ERROR, header(WRITE_ZEROES, 0), segment(0, u32::MAX, 0), 0),
            12 => (IO_ERROR, header(WRITE_ZEROES, 0), vec![0; 15], 0),
            _ => {
                let parcel = Self::new(Action::Malformed(IO_ERROR), false);
                return Self { unmapped: true, ..parcel };
            }
        };
        Self { action: Action::Malformed(status), header, out, in_len, unmapped: false }
    }
}
