//! Images that QEMU's tools make and look at, as bytes.

use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// An image in a directory of its own.
pub struct Made {
    directory: TempDir,
}

/// A bitmap as `qemu-img info` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub name: String,
    pub granularity: u64,
    pub in_use: bool,
    pub auto: bool,
}

impl Made {
    /// `options` of `qemu-img create`.
    pub fn create(options: &str, size: u64) -> Self {
        let made = Self { directory: tempfile::tempdir().unwrap() };
        made.tool("qemu-img", &format!("create -q -f qcow2 {options} image {size}"));
        made
    }

    /// A file with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let made = Self { directory: tempfile::tempdir().unwrap() };
        std::fs::write(made.path(), bytes).unwrap();
        made
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    fn command(&self, program: &str, arguments: &str) -> Command {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace()).current_dir(self.directory.path());
        command
    }

    /// Runs a program, which has to end well; what it prints.
    pub fn tool(&self, program: &str, arguments: &str) -> String {
        let output = self.command(program, arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Adds a bitmap; options and name of `qemu-img bitmap --add`.
    pub fn add(&self, options: &str, name: &str) {
        self.tool("qemu-img", &format!("bitmap --add {options} image {name}"));
    }

    /// Writes as a guest of QEMU does.
    pub fn write(&self, offset: u64, len: u64) {
        let output = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", &format!("write {offset} {len}")])
            .arg(self.path())
            .output();
        assert!(output.as_ref().unwrap().status.success(), "{output:?}");
    }

    /// The bitmaps that the image has, as QEMU sees them.
    pub fn told(&self) -> Vec<Told> {
        let info = self.tool("qemu-img", "info --output json image");
        let Some((_, bitmaps)) = info.split_once("\"bitmaps\": [") else { return Vec::new() };
        let told = |bitmap: &str| {
            let (flags, rest) = bitmap.split_once(']').unwrap();
            let (_, name) = rest.split_once("\"name\": \"").unwrap();
            Told {
                name: name.split('"').next().unwrap().to_owned(),
                granularity: number(rest, "granularity").unwrap(),
                in_use: flags.contains("in-use"),
                auto: flags.contains("auto"),
            }
        };
        bitmaps.split("\"flags\": [").skip(1).map(told).collect()
    }

    /// Leaks and corruptions that QEMU finds.
    pub fn check(&self) -> (u64, u64) {
        // Its backing file need not be there.
        let alone = r#"json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"image"}}"#;
        let output = self.command("qemu-img", &format!("check --output json {alone}")).output().unwrap();
        let found = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(number(&found, "check-errors"), Some(0), "{output:?}");
        (number(&found, "leaks").unwrap_or(0), number(&found, "corruptions").unwrap_or(0))
    }

    /// What a bitmap marks, as qemu-storage-daemon hands it out.
    pub fn marked(&self, name: &str) -> Vec<Range<u64>> {
        let _daemon = self.serve(name);
        let options =
            format!("driver=nbd,server.type=unix,server.path=socket,export=e,x-dirty-bitmap=qemu:dirty-bitmap:{name}");
        let map = self.tool("qemu-img", &format!("map --output json --image-opts {options}"));
        let mut marked: Vec<Range<u64>> = Vec::new();
        // What is dirty is shown as what is no data; an extent a line.
        for extent in map.lines().filter(|line| line.contains("\"data\": false")) {
            let (start, len) = (number(extent, "start").unwrap(), number(extent, "length").unwrap());
            match marked.last_mut().filter(|last| last.end == start) {
                Some(last) => last.end += len,
                None => marked.push(start..start + len),
            }
        }
        marked
    }

    fn serve(&self, name: &str) -> Daemon {
        let pid = self.directory.path().join("pid");
        let _ = std::fs::remove_file(&pid);
        let arguments = format!(
            "--blockdev file,node-name=f,filename=image,read-only=on --blockdev \
             qcow2,node-name=q,file=f,read-only=on --nbd-server addr.type=unix,addr.path=socket \
             --export nbd,id=e,name=e,node-name=q,bitmaps.0={name} --pidfile pid"
        );
        let daemon = self.command("qemu-storage-daemon", &arguments).stderr(Stdio::inherit()).spawn().unwrap();
        let mut daemon = Daemon(daemon);
        // The file is written when the daemon listens.
        while !pid.exists() {
            assert_eq!(daemon.0.try_wait().unwrap(), None, "the daemon has ended: {arguments}");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        daemon
    }
}

/// A daemon that ends with its user.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A number that JSON has under this name.
fn number(json: &str, name: &str) -> Option<u64> {
    let (_, after) = json.split_once(&format!("\"{name}\": "))?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
