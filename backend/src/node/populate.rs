//! A node's content made its own: copied from below where the node has nothing, while its content stays the same.
//!
//! That is no request of a guest: nothing is recorded of it and no copy comes before it. Whoever asks for it through a
//! [`super::Root`] visits the node meanwhile, so that points in time and other nodes in its place wait for it.

use super::{Driver, Node};
use crate::error::IoError;
use crate::io::Buf;
use crate::reactor::Handle;
use std::pin::Pin;

/// Something under way that may fail.
type Populating<'a> = Pin<Box<dyn Future<Output = Result<(), IoError>> + 'a>>;

impl Node {
    /// Copies what shows from below, of all clusters that the range touches; of a filter, in the node below it. What is
    /// no image has all that it shows. Memory comes from `spare` if that fits, and is left there.
    ///
    /// # Errors
    /// The storage's; [`IoError::Permission`] where the node is read-only.
    pub fn populate<'a>(&'a self, io: &'a Handle, offset: u64, len: u64, spare: &'a mut Option<Buf>) -> Populating<'a> {
        Box::pin(async move {
            if self.is_read_only() {
                return Err(IoError::Permission);
            }
            match (self.driver(), self.child()) {
                (Driver::Qcow2(image), _) => image.populate(io, offset, len, spare, self.points()).await,
                (_, Some(child)) if self.is_filter() => child.populate(io, offset, len, spare).await,
                _ => Ok(()),
            }
        })
    }
}
