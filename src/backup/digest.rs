//! The checksums of an image that was just written, and the comparison of an image with its checksums.
//!
//! One walk over the image for each; memory does not depend on its size.

use super::layer::{Below, PIECE, Run, failed, read, run_at};
use super::manifest::BLOCK;
use super::sums::{Content, Reader, Record, Writer};
use anyhow::Result;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_backend::io::byte_count;
use tidemark_backend::node::Node;
use tidemark_backend::reactor::Handle;

/// Writes the checksums of what an image itself has.
///
/// # Errors
/// The storage's.
pub async fn write(io: &Handle, node: &Node, path: &Path, writer: &mut Writer, done: &AtomicU64) -> Result<()> {
    let mut at = 0;
    while at < node.length() {
        let (len, run) = run_at(io, node, Below::Nothing, at).await.map_err(|error| failed("read", path, at, error))?;
        let len = if run == Run::Data { len.min(PIECE) } else { len };
        match run {
            Run::Absent => {}
            Run::Zero => {
                writer.push(Record { first: at / BLOCK, count: len.div_ceil(BLOCK), content: Content::Zero })?
            }
            Run::Data => {
                let bytes = read(io, node, at, len).await.map_err(|error| failed("read", path, at, error))?;
                for (block, bytes) in (at / BLOCK..).zip(bytes.as_slice().chunks(byte_count(BLOCK))) {
                    writer.push(Record { first: block, count: 1, content: Content::of(bytes) })?;
                }
            }
        }
        at += len;
        done.store(at, Ordering::Relaxed);
    }
    Ok(())
}

/// What is wrong with a part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// What is wrong.
    pub what: String,
}

/// An image beside its checksums.
pub struct Comparison<'a> {
    /// Its node.
    pub node: &'a Node,
    /// Whether with what is below it.
    pub below: Below,
    /// Nothing is below it: what has no checksum is zero.
    pub is_full: bool,
    /// How far it is.
    pub done: &'a AtomicU64,
}

impl Comparison<'_> {
    /// Reads all of the image, and tells where it is not what it should be.
    ///
    /// # Errors
    /// The file with the checksums cannot be read.
    pub async fn run(&self, io: &Handle, reader: &mut Reader) -> Result<Vec<Damage>> {
        let (mut at, mut found) = (0, Vec::new());
        while at < self.node.length() {
            at += self.step(io, at, reader, &mut found).await?;
            reader.skip_to(at.div_ceil(BLOCK))?;
            self.done.store(at, Ordering::Relaxed);
        }
        if reader.peek().is_some() {
            found.push(Damage { range: at..at, what: "there are checksums behind the disk's end".to_owned() });
        }
        Ok(found)
    }

    /// Compares what begins at `at`; returns how many bytes that was.
    async fn step(&self, io: &Handle, at: u64, reader: &mut Reader, found: &mut Vec<Damage>) -> Result<u64> {
        let (expected, until) = self.expected(at, reader);
        let (len, run) = match run_at(io, self.node, self.below, at).await {
            Ok((len, run)) => (len.min(until - at), run),
            Err(error) => {
                let len = BLOCK.min(self.node.length() - at);
                note(found, at..at + len, format!("cannot be found: {error}"));
                return Ok(len);
            }
        };
        if run != Run::Data {
            let is = if run == Run::Zero || self.is_full { Some(Content::Zero) } else { None };
            if is != expected {
                note(found, at..at + len, wrong(is, expected));
            }
            return Ok(len);
        }
        let len = len.min(PIECE);
        for start in (at..at + len).step_by(byte_count(BLOCK)) {
            let range = start..(start + BLOCK).min(at + len);
            reader.skip_to(start / BLOCK)?;
            let (expected, _) = self.expected(start, reader);
            match read(io, self.node, range.start, range.end - range.start).await {
                Ok(bytes) if Some(Content::of(bytes.as_slice())) == expected => {}
                Ok(bytes) => note(found, range, wrong(Some(Content::of(bytes.as_slice())), expected)),
                Err(error) => note(found, range, format!("cannot be read: {error}")),
            }
        }
        Ok(len)
    }

    /// What should be at `at`, and up to where; nothing if that is for the images below to say.
    fn expected(&self, at: u64, reader: &Reader) -> (Option<Content>, u64) {
        let (block, end) = (at / BLOCK, self.node.length());
        let bytes = |block: u64| block.saturating_mul(BLOCK).min(end);
        match reader.peek() {
            Some(record) if record.first <= block => (Some(record.content), bytes(record.end())),
            other => {
                let absent = self.is_full.then_some(Content::Zero);
                (absent, other.map_or(end, |record| bytes(record.first)))
            }
        }
    }
}

fn wrong(is: Option<Content>, expected: Option<Content>) -> String {
    match (is, expected) {
        (None, _) => "is missing",
        (Some(_), None) => "is there and was not backed up",
        (Some(Content::Zero), Some(_)) => "is zero and was backed up as data",
        (Some(_), Some(_)) => "is not what was backed up",
    }
    .to_owned()
}

/// One more, or more of the same.
fn note(found: &mut Vec<Damage>, range: Range<u64>, what: String) {
    match found.last_mut() {
        Some(last) if last.range.end == range.start && last.what == what => last.range.end = range.end,
        _ => found.push(Damage { range, what }),
    }
}
