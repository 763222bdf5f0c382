//! What is in an image, from its beginning to its end, with the checksums of its blocks: read some way ahead, told in order.
//!
//! Knows no directory and no file of checksums. Memory does not depend on the image's size.

use super::buffers::Buffers;
use super::layer::{Below, PIECE, Run, run_at};
use super::manifest::BLOCK;
use super::sums::Content;
use super::window::Window;
use std::ops::Range;
use std::sync::Arc;
use tidemark_backend::error::IoError;
use tidemark_backend::io::byte_count;
use tidemark_backend::node::Node;
use tidemark_backend::reactor::Handle;

/// A part of an image.
pub struct Seen {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// What is there.
    pub what: What,
}

/// What a part of an image is.
pub enum What {
    /// Not in the image.
    Absent,
    /// Zeroes.
    Zero,
    /// Data: what each block is.
    Blocks(Vec<Result<Content, IoError>>),
    /// The image does not say.
    Unknown(IoError),
}

/// A walk over an image.
pub struct Walk {
    node: Arc<Node>,
    below: Below,
    at: u64,
    window: Window<Seen>,
    buffers: Buffers,
}

impl Walk {
    /// Over what the image itself has, or with what is below it.
    pub fn new(node: Arc<Node>, below: Below) -> Self {
        Self { node, below, at: 0, window: Window::new(), buffers: Buffers::default() }
    }

    /// The next part; `None` behind the last one.
    pub async fn next(&mut self, io: &Handle) -> Option<Seen> {
        while self.at < self.node.length() && !self.window.is_full() {
            self.look(io).await;
        }
        self.window.next().await
    }

    /// Waits for what was read ahead: nobody wants to know.
    pub async fn end(mut self) {
        while self.window.next().await.is_some() {}
    }

    async fn look(&mut self, io: &Handle) {
        let at = self.at;
        let (len, what) = match run_at(io, &self.node, self.below, at).await {
            Ok((len, Run::Absent)) => (len, Some(What::Absent)),
            Ok((len, Run::Zero)) => (len, Some(What::Zero)),
            Ok((len, Run::Data)) => (len.min(PIECE), None),
            Err(error) => (BLOCK.min(self.node.length() - at), Some(What::Unknown(error))),
        };
        self.at += len;
        let (range, node, handle, buffers) = (at..self.at, self.node.clone(), io.clone(), self.buffers.clone());
        self.window.begin(io, async move {
            let what = match what {
                Some(what) => what,
                None => What::Blocks(blocks(&handle, &buffers, &node, range.clone()).await),
            };
            Seen { range, what }
        });
    }
}

/// What each block of a range is. One that cannot be read does not hide the others.
async fn blocks(io: &Handle, buffers: &Buffers, node: &Node, range: Range<u64>) -> Vec<Result<Content, IoError>> {
    if let Ok(piece) = buffers.read(io, node, range.start, range.end - range.start).await {
        let blocks = piece.bytes().chunks(byte_count(BLOCK)).map(|block| Ok(Content::of(block))).collect();
        buffers.done(piece);
        return blocks;
    }
    let mut blocks = Vec::new();
    for start in range.clone().step_by(byte_count(BLOCK)) {
        let len = BLOCK.min(range.end - start);
        blocks.push(buffers.read(io, node, start, len).await.map(|piece| Content::of(piece.bytes())));
    }
    blocks
}
