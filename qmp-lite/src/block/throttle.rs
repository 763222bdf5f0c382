//! The options of driver `throttle`.
//!
//! Knows its members, and what QEMU calls such a node's file; the group is looked up by `objects`.

use serde_json::Value;
use tidemark_backend::node::options::ThrottleOptions;
use tidemark_backend::node::{Driver, Node};

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

/// The name of the file below, which for QEMU is a description of the nodes, because a group has no place in a name.
pub(super) fn filename(node: &Node) -> String {
    format!("json:{}", described(node))
}

fn described(node: &Node) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let driver = text(node.driver_name());
    match node.driver() {
        Driver::File(file) => format!("{{\"driver\": {driver}, \"filename\": {}}}", text(file.path())),
        Driver::Null(null) => format!("{{\"driver\": {driver}, \"size\": {}}}", null.options().size),
        Driver::Nbd(disk) => format!("{{\"driver\": {driver}, \"uri\": {}}}", text(&disk.options().uri())),
        other => {
            let below = node.child().map(|child| described(&child)).unwrap_or_default();
            let group = match other {
                Driver::Throttle(throttle) => format!("\"throttle-group\": {}, ", text(throttle.group().name())),
                _ => String::new(),
            };
            format!("{{{group}\"driver\": {driver}, \"file\": {below}}}")
        }
    }
}
