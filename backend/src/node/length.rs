//! Nodes that become longer or shorter for the format above them.
//!
//! Of no interest to who looks at a node alone: a resize that somebody asks for is the graph's matter. The length here is
//! never less than what the storage has, but for half a sector.

use super::{Driver, Node};
use crate::error::IoError;
use crate::reactor::Handle;
use std::pin::Pin;
use std::sync::atomic::Ordering;

/// A change of length under way.
type Changing<'a> = Pin<Box<dyn Future<Output = Result<(), IoError>> + 'a>>;

impl Node {
    /// Makes the node at least `end` bytes long for a format above that puts something there; rounded up to sectors.
    ///
    /// # Errors
    /// [`IoError::NoSpace`] where the node cannot be that long; the storage's.
    pub fn grow<'a>(&'a self, io: &'a Handle, end: u64) -> Changing<'a> {
        Box::pin(async move {
            let end = end.checked_next_multiple_of(512).ok_or(IoError::NoSpace)?;
            if end <= self.length() {
                return Ok(());
            }
            match &self.driver {
                Driver::File(file) => file.grow(io, end, &self.length).await,
                Driver::Raw(raw) if !raw.has_fixed_size() => {
                    let below = end.checked_add(raw.offset()).ok_or(IoError::NoSpace)?;
                    raw.child().grow(io, below).await?;
                    self.length.fetch_max(end, Ordering::AcqRel);
                    Ok(())
                }
                Driver::BlkDebug(_) | Driver::Throttle(_) | Driver::Passing(_) => {
                    let child = self.child().ok_or(IoError::NoSpace)?;
                    child.grow(io, end).await?;
                    self.length.fetch_max(end, Ordering::AcqRel);
                    Ok(())
                }
                _ => Err(IoError::NoSpace),
            }
        })
    }

    /// Takes what is past `end` away, a multiple of 512, where the storage can be shorter; the format above has nothing
    /// there, and puts nothing there before this returns.
    ///
    /// # Errors
    /// The storage's; the node is as long as it was.
    pub fn cut<'a>(&'a self, io: &'a Handle, end: u64) -> Changing<'a> {
        Box::pin(async move {
            match &self.driver {
                Driver::File(file) => return file.cut(io, end, &self.length).await,
                Driver::Raw(raw) if !raw.has_fixed_size() => {
                    raw.child().cut(io, end.saturating_add(raw.offset())).await?;
                    self.length.store(raw.child().length().saturating_sub(raw.offset()), Ordering::Release);
                }
                Driver::BlkDebug(_) | Driver::Throttle(_) | Driver::Passing(_) => {
                    let Some(child) = self.child() else { return Ok(()) };
                    child.cut(io, end).await?;
                    self.length.store(child.length(), Ordering::Release);
                }
                _ => {}
            }
            Ok(())
        })
    }
}
