//! Checksums of an image's clusters, in a file beside it.
//!
//! After 16 bytes that say what it is, records of 32 bytes: first block and number of blocks (64 bits each, little
//! endian), and the first 128 bits of SHA-256 over the block's bytes, or zeroes for blocks that read as zeroes. Blocks have
//! [`BLOCK`] bytes, the disk's last one as many as there are. Records are in order and do not overlap. What has no record is
//! not in the image: it is in the one below, or zero where there is none.
//!
//! Knows no images. A file of any length takes the same memory. The manifest has the checksum of the whole file, so what
//! it says is either what was written or found to be wrong.

use super::manifest::BLOCK;
use anyhow::{Context as _, Result, bail, ensure};
use ring::digest::{Context, Digest, SHA256, digest};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use tidemark_backend::io::byte_count;

/// What the file begins with.
const MAGIC: [u8; 16] = *b"tidemark sums 1\n";
/// Bytes of a record.
const RECORD: usize = 32;
/// Bytes of a checksum.
const SUM: usize = 16;

/// What blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeroes.
    Zero,
    /// One block with this checksum.
    Sum([u8; SUM]),
}

impl Content {
    /// What a block with these bytes is.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Zero;
        }
        let mut sum = [0; SUM];
        sum.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
        Self::Sum(sum)
    }
}

/// Blocks that are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The first.
    pub first: u64,
    /// How many; 1 if they are not zero.
    pub count: u64,
    /// What they are.
    pub content: Content,
}

impl Record {
    /// The first block after it.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    fn bytes(&self) -> [u8; RECORD] {
        let sum = match self.content {
            Content::Zero => [0; SUM],
            Content::Sum(sum) => sum,
        };
        let mut bytes = [0; RECORD];
        let all = self.first.to_le_bytes().into_iter().chain(self.count.to_le_bytes()).chain(sum);
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        bytes
    }

    fn parse(bytes: &[u8; RECORD], after: u64) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (first, count, sum) = (word(0)?, word(8)?, <[u8; SUM]>::try_from(bytes.get(16..)?).ok()?);
        let content = if sum == [0; SUM] { Content::Zero } else { Content::Sum(sum) };
        let end = first.checked_add(count).filter(|end| *end <= u64::MAX / BLOCK)?;
        let fits = first >= after && end > first && (count == 1 || content == Content::Zero);
        fits.then_some(Self { first, count, content })
    }
}

/// Writes such a file.
pub struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    digest: Context,
    /// Zeroes that may become more.
    last: Option<Record>,
}

impl Writer {
    /// Begins a file, which may be there from a run that was killed.
    ///
    /// # Errors
    /// The storage's.
    pub fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).with_context(|| format!("cannot create '{}'", path.display()))?;
        let mut writer = Self { path, file: BufWriter::new(file), digest: Context::new(&SHA256), last: None };
        writer.write(&MAGIC)?;
        Ok(writer)
    }

    /// The next record.
    ///
    /// # Errors
    /// The storage's.
    pub fn push(&mut self, record: Record) -> Result<()> {
        match &mut self.last {
            Some(last)
                if last.content == Content::Zero && record.content == Content::Zero && last.end() == record.first =>
            {
                last.count += record.count;
                Ok(())
            }
            last => match last.replace(record) {
                Some(before) => self.write(&before.bytes()),
                None => Ok(()),
            },
        }
    }

    /// Makes the file stable; returns its checksum.
    ///
    /// # Errors
    /// The storage's.
    pub fn finish(mut self) -> Result<String> {
        if let Some(last) = self.last.take() {
            self.write(&last.bytes())?;
        }
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.with_context(|| format!("cannot write '{}'", self.path.display()))?;
        Ok(hex(&self.digest.finish()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        self.file.write_all(bytes).with_context(|| format!("cannot write '{}'", self.path.display()))
    }
}

fn hex(digest: &Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads such a file, a record ahead.
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    next: Option<Record>,
}

impl Reader {
    /// Opens a file whose checksum is `sha256`.
    ///
    /// # Errors
    /// It is another file, or cannot be read.
    pub fn open(path: &Path, sha256: &str) -> Result<Self> {
        let shown = path.display();
        let mut file = BufReader::new(File::open(path).with_context(|| format!("cannot open '{shown}'"))?);
        let found = digest_of(&mut file).with_context(|| format!("cannot read '{shown}'"))?;
        ensure!(found == sha256, "'{shown}' is damaged: its checksum is not the one in the manifest");
        file.rewind().with_context(|| format!("cannot read '{shown}'"))?;
        let mut magic = [0; MAGIC.len()];
        let read = file.read_exact(&mut magic);
        ensure!(read.is_ok() && magic == MAGIC, "'{shown}' has no checksums");
        let mut reader = Self { path: path.to_owned(), file, next: None };
        reader.advance(0)?;
        Ok(reader)
    }

    /// The record that is next, which may have been begun.
    pub fn peek(&self) -> Option<Record> {
        self.next
    }

    /// Forgets all before `block`.
    ///
    /// # Errors
    /// The file cannot be read, or has what no such file has.
    pub fn skip_to(&mut self, block: u64) -> Result<()> {
        while let Some(record) = self.next
            && record.first < block
        {
            if record.end() > block {
                self.next = Some(Record { first: block, count: record.end() - block, ..record });
            } else {
                self.advance(record.end())?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, after: u64) -> Result<()> {
        let shown = self.path.display();
        let mut bytes = [0; RECORD];
        let mut have = 0;
        while let Some(rest) = bytes.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.file.read(rest).with_context(|| format!("cannot read '{shown}'"))? {
                0 => break,
                more => have += more,
            }
        }
        self.next = match have {
            0 => None,
            RECORD => match Record::parse(&bytes, after) {
                Some(record) => Some(record),
                None => bail!("'{shown}' has a record that is out of order"),
            },
            _ => bail!("'{shown}' ends in a record"),
        };
        Ok(())
    }
}

fn digest_of(file: &mut BufReader<File>) -> std::io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; byte_count(BLOCK)];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&context.finish())),
            read => context.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

/// Writes what images have together: of each block what the uppermost says. `readers` are from the lowest image up.
///
/// # Errors
/// The storage's, or a file is not what it should be.
pub fn merge(mut readers: Vec<Reader>, writer: &mut Writer) -> Result<()> {
    while let Some(at) = readers.iter().filter_map(|reader| Some(reader.peek()?.first)).min() {
        let mut taken: Option<Record> = None;
        // From the top down: what covers the block says it, and what begins above ends it.
        let mut until = u64::MAX;
        for record in readers.iter().rev().filter_map(Reader::peek) {
            if record.first == at {
                taken = Some(Record { count: record.end().min(until) - at, ..record });
                break;
            }
            until = until.min(record.first);
        }
        let Some(record) = taken else { bail!("checksums without a first block") };
        writer.push(record)?;
        readers.iter_mut().try_for_each(|reader| reader.skip_to(record.end()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
