//! The checksums of an image that was just written, and the comparison of an image with its checksums.
//!
//! One walk over the image for each; memory does not depend on its size.

use super::layer::{Below, failed};
use super::manifest::BLOCK;
use super::sums::{Content, Reader, Record, Writer};
use super::walk::{Seen, Walk, What};
use anyhow::Result;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_backend::io::byte_count;
use tidemark_backend::node::Node;
use tidemark_backend::reactor::Handle;

/// Writes the checksums of what an image itself has.
///
/// # Errors
/// The storage's.
pub async fn write(io: &Handle, node: &Arc<Node>, path: &Path, writer: &mut Writer, done: &AtomicU64) -> Result<()> {
    let mut walk = Walk::new(node.clone(), Below::Nothing);
    let mut written = Ok(());
    while written.is_ok()
        && let Some(seen) = walk.next(io).await
    {
        done.store(seen.range.end, Ordering::Relaxed);
        written = push(seen, path, writer);
    }
    walk.end().await;
    written
}

/// Writes the checksums of a part.
fn push(Seen { range, what }: Seen, path: &Path, writer: &mut Writer) -> Result<()> {
    let first = range.start / BLOCK;
    match what {
        What::Absent => Ok(()),
        What::Zero => {
            writer.push(Record { first, count: (range.end - range.start).div_ceil(BLOCK), content: Content::Zero })
        }
        What::Unknown(error) => Err(failed("read", path, range.start, error)),
        What::Blocks(blocks) => (first..).zip(blocks).try_for_each(|(first, block)| {
            let content = block.map_err(|error| failed("read", path, first * BLOCK, error))?;
            writer.push(Record { first, count: 1, content })
        }),
    }
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
    pub node: Arc<Node>,
    /// Whether with what is below it.
    pub below: Below,
    /// Nothing is below it: what has no checksum is zero.
    pub is_full: bool,
    /// The checksums.
    pub reader: &'a mut Reader,
    /// How far it is.
    pub done: &'a AtomicU64,
}

impl Comparison<'_> {
    /// Reads all of the image, and tells where it is not what it should be.
    ///
    /// # Errors
    /// The file with the checksums cannot be read.
    pub async fn run(mut self, io: &Handle) -> Result<Vec<Damage>> {
        let (mut found, mut compared) = (Vec::new(), Ok(()));
        let mut walk = Walk::new(self.node.clone(), self.below);
        while compared.is_ok()
            && let Some(seen) = walk.next(io).await
        {
            self.done.store(seen.range.end, Ordering::Relaxed);
            compared = self.compare(seen, &mut found);
        }
        walk.end().await;
        compared?;
        if self.reader.peek().is_some() {
            let end = self.node.length();
            found.push(Damage { range: end..end, what: "there are checksums behind the disk's end".to_owned() });
        }
        Ok(found)
    }

    /// Compares the next part.
    fn compare(&mut self, Seen { range, what }: Seen, found: &mut Vec<Damage>) -> Result<()> {
        match what {
            What::Absent if self.is_full => self.compare_same(range.clone(), Some(Content::Zero), found)?,
            What::Absent => self.compare_same(range.clone(), None, found)?,
            What::Zero => self.compare_same(range.clone(), Some(Content::Zero), found)?,
            What::Unknown(error) => note(found, range.clone(), format!("cannot be found: {error}")),
            What::Blocks(blocks) => {
                for (start, block) in range.clone().step_by(byte_count(BLOCK)).zip(blocks) {
                    self.compare_block(start..(start + BLOCK).min(range.end), block, found)?;
                }
            }
        }
        self.reader.skip_to(range.end.div_ceil(BLOCK))
    }

    /// Compares what is the same all over.
    fn compare_same(&mut self, range: Range<u64>, is: Option<Content>, found: &mut Vec<Damage>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            self.reader.skip_to(at / BLOCK)?;
            let (expected, until) = self.expected(at);
            let end = until.min(range.end);
            if is != expected {
                note(found, at..end, wrong(is, expected));
            }
            at = end;
        }
        Ok(())
    }

    fn compare_block(
        &mut self,
        range: Range<u64>,
        block: Result<Content, impl std::fmt::Display>,
        found: &mut Vec<Damage>,
    ) -> Result<()> {
        self.reader.skip_to(range.start / BLOCK)?;
        let (expected, _) = self.expected(range.start);
        match block {
            Ok(content) if Some(content) == expected => {}
            Ok(content) => note(found, range, wrong(Some(content), expected)),
            Err(error) => note(found, range, format!("cannot be read: {error}")),
        }
        Ok(())
    }

    /// What should be at `at`, and up to where; nothing if that is for the images below to say.
    fn expected(&self, at: u64) -> (Option<Content>, u64) {
        let (block, end) = (at / BLOCK, self.node.length());
        let bytes = |block: u64| block.saturating_mul(BLOCK).min(end);
        match self.reader.peek() {
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
