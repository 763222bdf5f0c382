//! Why persistent bitmaps cannot be read.

/// A directory or a table that breaks the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// Entries do not end where the directory ends, or have no name.
    #[error("Broken bitmap directory")]
    Broken,
    /// Than the header says.
    #[error("Less bitmaps found than specified in header extension")]
    Less,
    /// Than the header says.
    #[error("More bitmaps found than specified in header extension")]
    More,
    /// A bitmap with a number out of range.
    #[error("Bitmap '{0}' doesn't satisfy the constraints")]
    Constraints(String),
    /// Nobody has said yet what it means.
    #[error("Bitmap extra data is not supported")]
    ExtraData,
    /// Two bitmaps with one name.
    #[error("Bitmap already exists: {0}")]
    Duplicate(String),
    /// A name with bytes that are no text.
    #[error("A bitmap's name is not valid UTF-8")]
    NotText,
    /// The table is not that of a bitmap of the disk.
    #[error("Could not read bitmap '{0}' from image: Invalid argument")]
    TableSize(String),
    /// An entry of the table is no cluster.
    #[error("Could not read bitmap_table table from image for bitmap '{0}': Invalid argument")]
    Table(String),
}
