//! QEMU's tools at work on images in a directory.

use std::path::PathBuf;
use std::process::{Command, Output};
use tempfile::TempDir;

/// The directory.
#[derive(Debug)]
pub struct Qemu {
    directory: PathBuf,
    whole: Option<TempDir>,
}

impl Drop for Qemu {
    /// What a failed test leaves is kept to be looked at.
    fn drop(&mut self) {
        if let Some(whole) = self.whole.as_mut().filter(|_| std::thread::panicking()) {
            whole.disable_cleanup(true);
            eprintln!("the images are in {}", self.directory.display());
        }
    }
}

impl Qemu {
    pub fn new() -> Self {
        let whole = TempDir::new().unwrap();
        Self { directory: whole.path().to_owned(), whole: Some(whole) }
    }

    /// Where a file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let output = Command::new(program).args(arguments).current_dir(&self.directory).output();
        output.unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// `qemu-img`, which has to succeed.
    pub fn img(&self, arguments: &[&str]) {
        let output = self.run("qemu-img", arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Commands of `qemu-io`, all of which have to succeed.
    pub fn io(&self, image: &str, commands: &[String]) {
        let mut arguments = vec!["-t", "unsafe", "-f", "qcow2"];
        commands.iter().for_each(|command| arguments.extend(["-c", command]));
        arguments.push(image);
        let output = self.run("qemu-io", &arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("failed"), "{arguments:?}: {text}");
    }

    /// What `qemu-img check` says: leaks and corruptions. That it cannot look is a mistake.
    pub fn check(&self, image: &str) -> (u64, u64) {
        let output = self.run("qemu-img", &["check", "--output", "json", "-f", "qcow2", image]);
        let text = String::from_utf8_lossy(&output.stdout);
        let number = |name: &str| {
            let (_, after) = text.split_once(&format!("\"{name}\": "))?;
            after.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        let errors = number("check-errors");
        assert_eq!(errors, Some(0), "{text} {}", String::from_utf8_lossy(&output.stderr));
        (number("leaks").unwrap_or(0), number("corruptions").unwrap_or(0))
    }

    /// A directory in this one; QEMU looks for a data file where it was started.
    pub fn inside(&self, name: &str) -> Self {
        std::fs::create_dir(self.path(name)).unwrap();
        Self { directory: self.path(name), whole: None }
    }

    /// What a guest sees of an image, as QEMU has it; or of one of its snapshots.
    pub fn content(&self, image: &str, snapshot: Option<&str>) -> Vec<u8> {
        let mut arguments = vec!["convert", "-t", "unsafe", "-f", "qcow2", "-O", "raw"];
        let snapshot = snapshot.map(|name| format!("snapshot.name={name}"));
        if let Some(snapshot) = &snapshot {
            arguments.extend(["-l", snapshot]);
        }
        arguments.extend([image, "content"]);
        self.img(&arguments);
        std::fs::read(self.path("content")).unwrap()
    }
}
