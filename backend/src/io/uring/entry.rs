//! From an operation to a submission entry.
#![allow(unsafe_code)]

use super::message::{self, Header};
use crate::io::{Op, OpKind, Segment};
use io_uring::{opcode, squeue, types};

/// Most segments the kernel takes at once (UIO_MAXIOV); a longer list makes a short transfer.
pub const SEGMENTS_MAX: usize = 1024;
/// Most bytes of one plain read or write (MAX_RW_COUNT, 2 GiB less a page); the rest makes a short transfer.
const BYTES_MAX: usize = 0x7fff_f000;

/// A ring's name for a file.
#[derive(Clone, Copy)]
pub enum Target {
    /// Registered under this number.
    Fixed(types::Fixed),
    /// Not registered.
    Fd(types::Fd),
}

macro_rules! on {
    ($target:expr, $file:ident => $build:expr) => {
        match $target {
            Target::Fixed($file) => $build,
            Target::Fd($file) => $build,
        }
    };
}

pub(super) use on;

/// The entry for `op`; valid while `op` and its `header` stay where they are.
pub fn build(op: &Op, header: Option<&mut Header>, target: Target) -> squeue::Entry {
    match op.kind {
        OpKind::Read => read(op, target),
        OpKind::Write { stable } => write(op, target, if stable { libc::RWF_DSYNC } else { 0 }),
        OpKind::Flush => {
            on!(target, file => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build())
        }
        OpKind::Discard | OpKind::Zero { unmap: true } => {
            fallocate(op, target, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
        }
        OpKind::Zero { unmap: false } => fallocate(op, target, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE),
        OpKind::Receive => message::receive(op, header, target),
        OpKind::Send => message::send(op, header, target),
        // Workers do these.
        OpKind::Extent { .. } | OpKind::Grow | OpKind::Cut => opcode::Nop::new().build(),
    }
}

fn one(segments: &[Segment]) -> Option<(*mut u8, u32)> {
    match segments {
        [segment] => Some((segment.start.as_ptr(), u32::try_from(segment.len.min(BYTES_MAX)).unwrap_or(u32::MAX))),
        _ => None,
    }
}

fn many(segments: &[Segment]) -> (*const libc::iovec, u32) {
    let count = segments.len().min(SEGMENTS_MAX);
    (segments.as_ptr().cast(), u32::try_from(count).unwrap_or(0))
}

fn read(op: &Op, target: Target) -> squeue::Entry {
    if let Some((start, len)) = one(op.memory.segments()) {
        return on!(target, file => opcode::Read::new(file, start, len).offset(op.offset).build());
    }
    let (list, count) = many(op.memory.segments());
    on!(target, file => opcode::Readv::new(file, list, count).offset(op.offset).build())
}

fn write(op: &Op, target: Target, flags: i32) -> squeue::Entry {
    if let Some((start, len)) = one(op.memory.segments()) {
        return on!(target, file =>
            opcode::Write::new(file, start, len).offset(op.offset).rw_flags(flags).build());
    }
    let (list, count) = many(op.memory.segments());
    on!(target, file => opcode::Writev::new(file, list, count).offset(op.offset).rw_flags(flags).build())
}

fn fallocate(op: &Op, target: Target, mode: i32) -> squeue::Entry {
    on!(target, file => opcode::Fallocate::new(file, op.len).offset(op.offset).mode(mode).build())
}
