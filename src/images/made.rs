//! Files of images that are being made. One that is not kept goes again: half an image is not to be taken for one.

use anyhow::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Links that lead to each other, at most: as many as Linux follows.
const LINKS_MAX: usize = 40;

/// Files that were made, or emptied to be made anew.
#[derive(Debug, Default)]
pub struct Made(Vec<PathBuf>);

impl Made {
    /// This one is made now; of a link, the file that it leads to. What is no regular file is not removed.
    pub fn add(&mut self, path: &Path) {
        let file = led_to(path);
        if file.is_file() && !self.0.contains(&file) {
            self.0.push(file);
        }
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// They are whole.
    pub fn keep(mut self) {
        self.0.clear();
    }

    /// Removes them because of an error, which says so then.
    pub fn undo(self, error: Error) -> Error {
        let left = self.remove();
        if left.is_empty() { error } else { error.context(left) }
    }

    /// Removes them; says so, in words that follow what has gone wrong.
    pub fn remove(mut self) -> String {
        let gone = std::mem::take(&mut self.0).into_iter().filter(|path| remove(path).is_ok());
        let names: Vec<_> = gone.map(|path| format!("'{}'", path.display())).collect();
        match names.as_slice() {
            [] => String::new(),
            [one] => format!("{one} was half made and is removed"),
            several => format!("{} were half made and are removed", several.join(" and ")),
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            // Whoever drops it has an error to tell that matters more.
            let _ = remove(path);
        }
    }
}

/// Removes a file. It is emptied first: the kernel may have it open for a while after everything has ended, and what is in
/// it would take space until then.
fn remove(path: &Path) -> io::Result<()> {
    // One that cannot be emptied can be removed all the same.
    let _ = File::options().write(true).open(path).and_then(|file| file.set_len(0));
    fs::remove_file(path)
}

/// Where a name leads if it is a link's.
fn led_to(path: &Path) -> PathBuf {
    let next = |path: &PathBuf| Some(path.parent()?.join(fs::read_link(path).ok()?));
    std::iter::successors(Some(path.to_owned()), next).take(LINKS_MAX + 1).last().unwrap_or_default()
}
