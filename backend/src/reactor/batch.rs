//! Several pieces of one task's work, under way at the same time.

use crate::error::IoError;
use std::pin::Pin;
use std::task::Poll;

/// Pieces under way at most: each takes memory and a place on the ring.
const MOST: usize = 16;

/// A piece of work.
type Piece<'a> = Pin<Box<dyn Future<Output = Result<(), IoError>> + 'a>>;

/// What one task has under way.
pub struct Batch<'a> {
    running: Vec<Piece<'a>>,
    result: Result<(), IoError>,
}

impl Default for Batch<'_> {
    fn default() -> Self {
        Self { running: Vec::new(), result: Ok(()) }
    }
}

impl<'a> Batch<'a> {
    /// Begins a piece, and waits until there is room for another.
    pub async fn add(&mut self, piece: impl Future<Output = Result<(), IoError>> + 'a) {
        self.running.push(Box::pin(piece));
        self.run_down_to(MOST - 1).await;
    }

    /// Whether a piece has failed so far.
    pub fn has_failed(&self) -> bool {
        self.result.is_err()
    }

    /// Waits for all pieces, also when one has failed: memory that they write to is in use until then.
    ///
    /// # Errors
    /// That of the piece that was seen to fail first.
    pub async fn end(mut self) -> Result<(), IoError> {
        self.run_down_to(0).await;
        self.result
    }

    async fn run_down_to(&mut self, left: usize) {
        std::future::poll_fn(|cx| {
            let Self { running, result } = self;
            running.retain_mut(|piece| match piece.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(ended) => {
                    *result = result.and(ended);
                    false
                }
            });
            if running.len() <= left { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
