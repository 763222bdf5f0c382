//! Where names in images' headers may lead. They are untrusted: whoever made an image could name any file.
//!
//! A name is a path, relative to the directory of the image that has it, never a URL or a description of nodes. It is
//! followed to regular files below the directory of the image that the operator named, or below directories that he
//! allowed; links out of them do not help, nor does putting another file in the place of one that was looked at: what
//! was opened is compared with that. What is in such a file is what the header says, and is never guessed.

use crate::error::GraphError;
use crate::node::{Driver, Node};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// A file that a header leads to, kept so that it stays the same one.
#[derive(Debug)]
pub(super) struct Found {
    /// The path to open.
    pub(super) path: PathBuf,
    /// Without links.
    resolved: PathBuf,
    file: OwnedFd,
}

impl Found {
    /// Refuses what was opened by its path if that is another file.
    ///
    /// # Errors
    /// It is.
    pub(super) fn check(&self, opened: &Node) -> Result<(), GraphError> {
        let same = opened_below(opened).is_some_and(|file| is_same(&self.file, file));
        if same {
            return Ok(());
        }
        let path = self.path.display();
        Err(GraphError::Options(format!("'{path}' has become another file while it was being opened")))
    }
}

fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    let identity = |stat: Stat| (stat.st_dev, stat.st_ino);
    matches!((fstat(one), fstat(other)), (Ok(one), Ok(other)) if identity(one) == identity(other))
}

fn opened_below(node: &Node) -> Option<Arc<OwnedFd>> {
    match node.driver() {
        Driver::File(file) => file.fd().ok(),
        _ => opened_below(&*node.child()?),
    }
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

    /// What `name` in the header of `image` leads to.
    ///
    /// # Errors
    /// The file is not there, or is none to be opened for a header.
    pub(super) fn find(&self, image: &Path, name: &str) -> Result<Found, GraphError> {
        let refuse = |why| Err(refused(image, name, why));
        let path = path_named(image, name)?;
        let fail = |source| open_error(&path, source);
        let errno = |errno: rustix::io::Errno| fail(errno.into());
        // Without opening it: a device may do something when it is.
        let file = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
        let resolved = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(fail)?;
        if !self.dirs.iter().any(|dir| resolved.starts_with(dir)) {
            return refuse(
                "which is outside of the image's directory: name a node for it, or allow its directory with \
                 --backing-dir",
            );
        }
        if FileType::from_raw_mode(fstat(&file).map_err(errno)?.st_mode) != FileType::RegularFile {
            return refuse("which is no regular file: name a node for it");
        }
        Ok(Found { path, resolved, file })
    }

    /// Whether an image is part of it.
    pub(super) fn has(&self, image: &Found) -> bool {
        self.images.contains(&image.resolved)
    }

    /// The chain with an image below.
    ///
    /// # Errors
    /// It is part of the chain already; the chain is too long.
    pub(super) fn below(mut self, image: &Found) -> Result<Self, GraphError> {
        let path = image.path.display();
        if self.has(image) {
            return Err(GraphError::Options(format!("'{path}' is part of its own backing chain")));
        }
        if self.images.len() >= DEPTH_MAX {
            return Err(GraphError::Options(format!("More than {DEPTH_MAX} images on top of each other, at '{path}'")));
        }
        self.images.push(image.resolved.clone());
        Ok(self)
    }
}

/// The path that `name` stands for in the header of `image`, whether or not there is such a file.
///
/// # Errors
/// It stands for none.
pub fn path_named(image: &Path, name: &str) -> Result<PathBuf, GraphError> {
    if has_protocol(name) || name.contains('\0') {
        return Err(refused(image, name, "which is no path; only files are opened for a header"));
    }
    Ok(image.parent().map_or_else(|| PathBuf::from(name), |parent| parent.join(name)))
}

fn refused(image: &Path, name: &str, why: &str) -> GraphError {
    let image = image.display();
    GraphError::Options(format!("The header of '{image}' names '{name}', {why}"))
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
