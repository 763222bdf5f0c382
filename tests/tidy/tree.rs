//! The files of the work tree, as paths relative to its root and text. Knows no rules.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the tree.
pub struct File {
    /// Path from the root, with `/` between its parts.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// The root of the work tree.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All text files, sorted by path; build output, caches and images are not part of the tree.
pub fn files() -> Vec<File> {
    let mut found = Vec::new();
    collect(&root(), "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 50, "the tree has {} files: is this its root?", found.len());
    found
}

/// All Rust sources.
pub fn sources() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// All manifests: the workspace's first, then its members'.
pub fn manifests() -> Vec<File> {
    let is_manifest = |file: &File| Path::new(&file.path).file_name().is_some_and(|name| name == "Cargo.toml");
    let mut found: Vec<File> = files().into_iter().filter(is_manifest).collect();
    found.sort_by_key(|file| file.path.len());
    found
}

fn is_foreign(name: &str) -> bool {
    name.starts_with("target") || name.ends_with(".img") || [".git", ".cache", "node_modules"].contains(&name)
}

fn collect(directory: &Path, prefix: &str, found: &mut Vec<File>) {
    for entry in fs::read_dir(directory).expect("a directory of the tree can be read") {
        let entry = entry.expect("a directory of the tree can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_foreign(&name) {
            continue;
        }
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().expect("a file of the tree has a type");
        if kind.is_dir() {
            collect(&entry.path(), &format!("{path}/"), found);
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            found.push(File { path, text });
        }
    }
}
