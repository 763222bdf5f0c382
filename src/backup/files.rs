//! What the files of a point are called.
//!
//! A number is used up by every attempt, so a name is given once in the life of a directory.

/// Bytes of a disk's name in the name of a file, at most.
const MOST: usize = 64;

/// The name without its ending of the files of the `index`-th disk of point `number`. What is no plain name of a file
/// becomes one; then the index keeps two disks apart.
pub fn stem(disk: &str, index: usize, number: u64) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
    let is_plain = disk.len() <= MOST && !disk.is_empty() && disk.chars().all(plain) && !disk.starts_with("disk-");
    match is_plain {
        true => format!("{disk}-{number}"),
        false => format!("disk-{index}-{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_disks_have_the_same_files_and_all_names_are_plain() {
        let disks = ["disk0", "#block123", "a/../b", "disk-1", "disk-1-7", "", "disk", ".", &"x".repeat(65)];
        let mut names: Vec<_> = disks.iter().enumerate().map(|(index, disk)| stem(disk, index, 7)).collect();
        assert_eq!(names[0], "disk0-7");
        assert!(
            names.iter().all(|name| name.chars().all(|char| char.is_ascii_alphanumeric() || char == '-')),
            "{names:?}"
        );
        names.sort();
        names.dedup();
        assert_eq!(names.len(), disks.len(), "{names:?}");
    }
}
