//! The options of driver `throttle`.
//!
//! Knows its members; the group is looked up by `objects`.

use tidemark_backend::node::options::ThrottleOptions;

use super::options::BlockdevRef;
use crate::error::QmpError;
use crate::schema::qapi_struct;

qapi_struct! {
    /// Options of driver `throttle`: a filter whose reads, writes, write-zeroes and discards keep to the limits of a group.
    pub struct BlockdevOptionsThrottle "BlockdevOptionsThrottle" {
        /// An object of type `throttle-group`. Nodes with the same one share its limits.
        "throttle-group" throttle_group: String,
        /// The child.
        "file" file: BlockdevRef,
    }
}

impl TryFrom<BlockdevOptionsThrottle> for ThrottleOptions {
    type Error = QmpError;

    fn try_from(options: BlockdevOptionsThrottle) -> Result<Self, QmpError> {
        Ok(Self { file: options.file.try_into()?, group_name: options.throttle_group, group: None })
    }
}
