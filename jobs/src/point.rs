//! A job that begins at a transaction's point in time, as the transaction sees it.

use std::sync::Arc;
use tidemark_backend::node::Node;

/// What happens to it, in this order.
pub(crate) trait Point {
    /// The node whose point in time it is.
    fn source(&self) -> &Arc<Node>;
    /// Inside the hold: the point in time.
    fn install(&self);
    /// Right after the hold: finds out what is owed. Writes that need not wait for it go on.
    fn map_owed(&self);
    /// After grace: chunks may be copied.
    fn open(&self);
}
