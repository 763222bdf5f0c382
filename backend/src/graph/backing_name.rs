//! What the header of an image says of the node below it: a file and its format where whoever opens that sees the same, or
//! else a description of the nodes, `json:{...}`, as QEMU writes it.

use super::image::file_name;
use crate::error::GraphError;
use crate::node::{Driver, Node};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Links that a transaction is about to make: images, each with what is going to be below it.
#[derive(Debug, Default)]
pub struct Coming(Vec<(Arc<Node>, Arc<Node>)>);

impl Coming {
    /// `image` is going to be over `below`.
    pub fn add(&mut self, image: &Arc<Node>, below: &Arc<Node>) {
        self.0.push((image.clone(), below.clone()));
    }

    /// The image that is going to be over `node`.
    pub fn above(&self, node: &Arc<Node>) -> Option<&Arc<Node>> {
        self.0.iter().find(|(_, below)| Arc::ptr_eq(below, node)).map(|(image, _)| image)
    }

    /// What is below an image then.
    fn backing(&self, image: &Arc<Node>) -> Option<Arc<Node>> {
        let coming = self.0.iter().find(|(above, _)| Arc::ptr_eq(above, image));
        match (coming, image.driver()) {
            (Some((_, below)), _) => Some(below.clone()),
            (None, Driver::Qcow2(inner)) => inner.backing(),
            _ => None,
        }
    }
}

/// The format of what shows there.
pub(super) fn backing_format(node: &Arc<Node>) -> &'static str {
    match (node.driver(), node.child()) {
        (Driver::Qcow2(_), _) => "qcow2",
        (_, Some(child)) if node.is_filter() => backing_format(&child),
        _ => "raw",
    }
}

/// How the header of an image at `path` names `node`: the file as it was opened, if that leads there from the image.
///
/// # Errors
/// The node is in no file; a name is not UTF-8.
pub(super) fn backing_name(node: &Arc<Node>, path: &Path, coming: &Coming) -> Result<String, GraphError> {
    let name = file_name(node).ok_or_else(|| in_no_file(node))?;
    if !shows_in_its_file(node, coming) {
        return Ok(format!("json:{}", described(node, coming)?));
    }
    let beside = path.parent().is_some_and(|parent| parent == Path::new(""));
    if beside || Path::new(&name).is_absolute() { Ok(name) } else { absolute(&name) }
}

fn in_no_file(node: &Node) -> GraphError {
    GraphError::Options(format!("Node '{}' is in no file that the header of an image could name", node.name()))
}

/// Whether the file alone, with what headers say is below, shows what the node does.
fn shows_in_its_file(node: &Arc<Node>, coming: &Coming) -> bool {
    match (node.driver(), node.child()) {
        (Driver::Raw(raw), _) if raw.offset() > 0 || raw.has_fixed_size() || backing_format(&raw.child()) != "raw" => {
            false
        }
        (Driver::Qcow2(_), _) if !is_over_what_it_names(node, coming) => false,
        // It is in no file.
        (Driver::SnapshotAccess(_), _) => false,
        (_, Some(child)) => shows_in_its_file(&child, coming),
        (_, None) => true,
    }
}

/// Whether an image is over the file that its header names, or over nothing as that says.
fn is_over_what_it_names(node: &Arc<Node>, coming: &Coming) -> bool {
    let Driver::Qcow2(image) = node.driver() else { return true };
    match (&image.header().backing, coming.backing(node)) {
        (None, None) => true,
        (Some(named), Some(backing)) => {
            let path = file_name(&image.file()).map(PathBuf::from).unwrap_or_default();
            let named_path = path.parent().map_or_else(|| PathBuf::from(&named.file), |dir| dir.join(&named.file));
            let is_there = |opened: String| is_same(&named_path, Path::new(&opened));
            let is_so = named.format.as_deref().is_none_or(|format| format == backing_format(&backing));
            // What a server has or nobody is as it was named.
            is_so && file_name(&backing).is_none_or(is_there) && shows_in_its_file(&backing, coming)
        }
        _ => false,
    }
}

/// Whether two paths lead to the same file.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    one == other || fs::canonicalize(one).is_ok_and(|one| fs::canonicalize(other).is_ok_and(|other| one == other))
}

/// The options that open what the node shows, in JSON; filters are left out.
fn described(node: &Arc<Node>, coming: &Coming) -> Result<String, GraphError> {
    let more = match (node.driver(), node.child()) {
        (Driver::File(file), _) => format!("\"filename\": {}", quoted(&absolute(file.path())?)),
        (Driver::Raw(raw), Some(child)) => {
            let size = if raw.has_fixed_size() { format!("\"size\": {}, ", node.length()) } else { String::new() };
            format!("\"offset\": {}, {size}\"file\": {}", raw.offset(), described(&child, coming)?)
        }
        (Driver::Qcow2(_), Some(child)) => {
            let backing = match coming.backing(node) {
                _ if is_over_what_it_names(node, coming) => String::new(),
                Some(backing) => format!("\"backing\": {}, ", described(&backing, coming)?),
                None => "\"backing\": null, ".to_owned(),
            };
            format!("{backing}\"file\": {}", described(&child, coming)?)
        }
        (_, Some(child)) if node.is_filter() => return described(&child, coming),
        _ => return Err(in_no_file(node)),
    };
    Ok(format!("{{\"driver\": \"{}\", {more}}}", node.driver_name()))
}

/// A text in JSON.
fn quoted(text: &str) -> String {
    let escaped = |char: char| match char {
        '"' | '\\' => format!("\\{char}"),
        char if char.is_ascii_control() => format!("\\u{:04x}", u32::from(char)),
        char => char.to_string(),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}

fn absolute(name: &str) -> Result<String, GraphError> {
    let path = fs::canonicalize(name).map_err(|source| GraphError::Open { path: name.to_owned(), source })?;
    path.into_os_string()
        .into_string()
        .map_err(|_| GraphError::Options(format!("The path of '{name}' is not UTF-8, so that no header can name it")))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn what_ends_a_text_in_json_is_escaped() {
        assert_eq!(quoted("/a b/\"c\"\\d\n\u{1}é"), "\"/a b/\\\"c\\\"\\\\d\\u000a\\u0001é\"");
    }
}
