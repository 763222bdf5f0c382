//! The options of driver `copy-on-read`.
//!
//! Knows its members; keeps nothing.

use tidemark_backend::node::options::CopyOnReadOptions;

use super::options::BlockdevRef;
use crate::error::QmpError;
use crate::schema::qapi_struct;

qapi_struct! {
    /// Options of driver `copy-on-read`: a filter. What is read through it from images below its child is copied into the
    /// child first, which has to take writes.
    pub struct BlockdevOptionsCor "BlockdevOptionsCor" {
        /// The child.
        "file" file: BlockdevRef,
        /// The node of the lowest image that is copied from; all are if absent.
        "bottom" bottom: Option<String>,
    }
}

impl TryFrom<BlockdevOptionsCor> for CopyOnReadOptions {
    type Error = QmpError;

    fn try_from(options: BlockdevOptionsCor) -> Result<Self, QmpError> {
        Ok(Self { file: options.file.try_into()?, bottom: options.bottom })
    }
}
