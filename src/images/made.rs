//! Files of images that are being made. One that is not kept goes again: half an image is not to be taken for one.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Files that were made, or emptied to be made anew.
#[derive(Debug, Default)]
pub struct Made(Vec<PathBuf>);

impl Made {
    /// This one is made now. A device is not removed.
    pub fn add(&mut self, path: &Path) {
        let is_file = fs::metadata(path).map_or(true, |meta| !meta.file_type().is_block_device());
        if is_file && !self.0.iter().any(|made| made == path) {
            self.0.push(path.to_owned());
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

    /// Removes them; says so, in words that follow what has gone wrong.
    pub fn remove(mut self) -> String {
        let gone = std::mem::take(&mut self.0).into_iter().filter(|path| fs::remove_file(path).is_ok());
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
            let _ = fs::remove_file(path);
        }
    }
}
