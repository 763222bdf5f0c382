//! What is told of an image that was only looked at, with the file it is in; no command tells that.

use serde_json::Value;
use tidemark_backend::graph::Inspected;

use super::{ImageInfo, actual_size, image};
use crate::schema::Qapi;
use crate::wire;

/// An image, and what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockGraphInfo {
    /// The image.
    pub image: ImageInfo,
    /// Below it.
    pub children: Vec<BlockChildInfo>,
}

/// Something that an image is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockChildInfo {
    /// What it is to the image.
    pub name: &'static str,
    /// What it is.
    pub info: BlockGraphInfo,
}

impl BlockGraphInfo {
    /// What there is to tell of an image.
    pub fn new(inspected: &Inspected) -> Self {
        let filename = inspected.path().display().to_string();
        let file = image(inspected.file(), true);
        let own = match inspected.description() {
            Some(found) => ImageInfo::of_qcow2(filename, &found.header, &found.snapshots.snapshots, &found.bitmaps),
            None => ImageInfo {
                virtual_size: file.virtual_size,
                dirty_flag: file.dirty_flag,
                ..ImageInfo::new(filename, "raw")
            },
        };
        let own = ImageInfo { actual_size: actual_size(inspected.file()), ..own };
        let info = Self { image: file, children: Vec::new() };
        Self { image: own, children: vec![BlockChildInfo { name: "file", info }] }
    }

    fn encode(&self) -> Value {
        let child = |child: &BlockChildInfo| {
            let members = [("name".to_owned(), child.name.into()), ("info".to_owned(), child.info.encode())];
            Value::Object(members.into_iter().collect())
        };
        let mut value = self.image.encode();
        if let Value::Object(members) = &mut value {
            members.insert("children".to_owned(), self.children.iter().map(child).collect());
        }
        value
    }

    /// As JSON, in lines.
    pub fn to_json(&self) -> String {
        lines(&self.encode())
    }

    /// Images on top of each other as JSON, in lines.
    pub fn chain_to_json(chain: &[Self]) -> String {
        lines(&chain.iter().map(Self::encode).collect())
    }
}

/// A value in lines as programs write them, not as QMP has them.
pub(super) fn lines(value: &Value) -> String {
    // A string has none of these as it is.
    wire::to_pretty_lines(value).replace("\r\n", "\n")
}
