//! Where names in images' headers may lead. They are untrusted: whoever made an image could name any file.
//!
//! A name is a path, relative to the directory of the image that has it, never a URL or a description of nodes. It is
//! followed to regular files below the directory of the image that the operator named, or below directories that he
//! allowed; links out of them do not help. What is in such a file is what the header says, and is never guessed.

use crate::error::GraphError;
use std::fs;
use std::path::{Path, PathBuf};

/// Images on top of each other, at most.
const DEPTH_MAX: usize = 200;

/// Images that headers have led to, from the top on.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// Where the next may be, without links.
    dirs: Vec<PathBuf>,
    /// Those so far, without links.
    images: Vec<PathBuf>,
}

impl Chain {
    /// From `image` on, which the operator named himself, with the directories that he allowed.
    ///
    /// # Errors
    /// The image's directory is not there any more.
    pub(super) fn begin(image: &Path, allowed: &[PathBuf]) -> Result<Self, GraphError> {
        let own = resolved(&directory(image))?;
        // A directory that is not there has nothing in it.
        let allowed = allowed.iter().filter_map(|dir| fs::canonicalize(dir).ok());
        Ok(Self { dirs: std::iter::once(own).chain(allowed).collect(), images: vec![resolved(image)?] })
    }

    /// What `name` in the header of `image` leads to, as a path to open.
    ///
    /// # Errors
    /// The file is not there, or is none to be opened for a header.
    pub(super) fn find(&self, image: &Path, name: &str) -> Result<PathBuf, GraphError> {
        let refuse = |why: &str| {
            let image = image.display();
            Err(GraphError::Options(format!("The header of '{image}' names '{name}', {why}")))
        };
        if has_protocol(name) || name.contains('\0') {
            return refuse("which is no path; only files are opened for a header");
        }
        let path = image.parent().map_or_else(|| PathBuf::from(name), |parent| parent.join(name));
        let found = resolved(&path)?;
        if !self.dirs.iter().any(|dir| found.starts_with(dir)) {
            return refuse(
                "which is outside of the image's directory: name a node for it, or allow its directory with \
                 --backing-dir",
            );
        }
        let kind = fs::metadata(&found).map_err(|source| open_error(&path, source))?.file_type();
        if !kind.is_file() {
            return refuse("which is no regular file: name a node for it");
        }
        Ok(path)
    }

    /// Whether the image at `path` is part of it.
    ///
    /// # Errors
    /// The file is not there.
    pub(super) fn has(&self, path: &Path) -> Result<bool, GraphError> {
        Ok(self.images.contains(&resolved(path)?))
    }

    /// The chain with the image at `path` below.
    ///
    /// # Errors
    /// It is part of the chain already; the chain is too long.
    pub(super) fn below(mut self, path: &Path) -> Result<Self, GraphError> {
        let image = resolved(path)?;
        let path = path.display();
        if self.images.contains(&image) {
            return Err(GraphError::Options(format!("'{path}' is part of its own backing chain")));
        }
        if self.images.len() >= DEPTH_MAX {
            return Err(GraphError::Options(format!("More than {DEPTH_MAX} images on top of each other, at '{path}'")));
        }
        self.images.push(image);
        Ok(self)
    }
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn resolved(path: &Path) -> Result<PathBuf, GraphError> {
    fs::canonicalize(path).map_err(|source| open_error(path, source))
}

fn open_error(path: &Path, source: std::io::Error) -> GraphError {
    GraphError::Open { path: path.display().to_string(), source }
}

/// QEMU's rule: a colon before the first slash.
fn has_protocol(name: &str) -> bool {
    name.find([':', '/']).is_some_and(|at| name.as_bytes().get(at) == Some(&b':'))
}

#[cfg(test)]
mod tests;
