//! Images of every kind that `qemu-img` makes, and what it and our program tell of them.

use super::process::TIDEMARK;
use qmp_lite::wire;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// The names of the images in a place.
pub const ALL: &[&str] = &[
    "base",
    "v2",
    "v2snap",
    "small",
    "large",
    "bits1",
    "bits64",
    "zstd",
    "lazy",
    "middle",
    "top",
    "deep",
    "apart",
    "apartraw",
    "full",
    "packed",
    "dirty",
    "corrupt",
    "inuse",
    "stale",
    "states",
    "v2states",
    "control",
    "missing",
    "elsewhere",
    "unsaid",
    "remote",
    "described",
    "round",
    "unknown",
    "tiny",
    "empty",
    "four",
    "nope",
    "dir",
];

const SCRIPT: &str = r#"
    set -e
    mk() { qemu-img create -q -f qcow2 "$@"; }
    io() { qemu-io -f qcow2 "$@" > /dev/null; }
    # Bytes of an image from a place on.
    patch() { printf "$3" | dd of=$1 bs=1 seek=$2 conv=notrunc status=none; }
    number() { od -An -tu8 --endian=big -j$2 -N8 $1 | tr -d ' '; }
    qemu-img create -q -f raw base 4M
    qemu-io -f raw -c 'write -P 7 0 1M' base > /dev/null
    mk -o compat=0.10 v2 10M
    mk -o compat=0.10,cluster_size=4k v2snap 1M
    qemu-img snapshot -c old v2snap
    mk -o cluster_size=512 small 3M
    mk -o cluster_size=2M large 100G
    mk -o refcount_bits=1 bits1 1M
    mk -o refcount_bits=64,cluster_size=4k bits64 1M
    mk -o compression_type=zstd zstd 1M
    mk -o lazy_refcounts=on lazy 1M
    mk -b base -F raw middle
    mk -b middle -F qcow2 top
    io -c 'write 0 128k' top
    mkdir dir
    mk -b ../top -F qcow2 dir/under 8M
    mk -b dir/under -F qcow2 deep
    mk -o data_file=data apart 1M
    io -c 'write 64k 128k' apart
    mk -o data_file=rawdata,data_file_raw=on apartraw 1M
    mk -o cluster_size=4k full 8M
    io -c 'write 0 300k' -c 'write 1M 70k' -c 'write -z 3M 64k' full
    qemu-img bitmap --add full b0
    qemu-img bitmap --add --disable -g 128k full 'a bitmap with a name'
    qemu-img snapshot -c 'the first' full
    io -c 'write 4k 64k' -c 'discard 1M 32k' full
    qemu-img snapshot -c second full
    yes 'tide' | head -c 2000000 > plain
    qemu-img convert -c -f raw -O qcow2 plain packed
    cp full dirty; patch dirty 79 '\001'
    cp full corrupt; patch corrupt 79 '\002'
    cp full inuse
    cp full stale; patch stale 95 '\000'
    mk -o cluster_size=4k states 1M
    qemu-img snapshot -c state states
    table=$(number states 64)
    patch states $((table + 16)) '\377\377\377\377'
    patch states $((table + 24)) '\200\007\060\000\001\002\003\004'
    patch states $((table + 40)) '\000\000\000\034\276\231\032\024'
    patch states $((table + 56)) '\377\377\377\377\377\377\377\377'
    cp v2snap v2states
    table=$(number v2states 64)
    patch v2states $((table + 36)) '\000\000\000\020'
    mk control 1M
    qemu-img snapshot -c 'two.lines.[31m' control
    table=$(number control 64)
    patch control $((table + 68)) '\n'
    patch control $((table + 74)) '\033'
    mk -u -b nothing -F raw missing 1M
    cp base ../elsewhere/base
    mk -b ../elsewhere/base -F raw elsewhere
    mk -b base -F raw unsaid
    patch unsaid 112 '\021\021\021\021'
    mk -u -b nbd://127.0.0.1:1/x -F raw remote 1M
    mk -u -b 'json:{"driver":"null-co"}' -F raw described 1M
    mk -u -b far -F qcow2 round 1M
    mk -u -b round -F qcow2 far 1M
    cp full unknown; patch unknown 79 '\100'
    head -c 100 base > tiny
    : > empty
    head -c 4 full > four
"#;

/// A directory with the images.
pub struct Images {
    dir: TempDir,
}

impl Images {
    /// Makes them.
    pub fn new() -> Self {
        let images = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["work", "elsewhere"] {
            std::fs::create_dir(images.dir.path().join(name)).unwrap();
        }
        images.shell(SCRIPT);
        let full = images.content("inuse");
        images.patch("inuse", bitmap_directory(&full) + 15, &[3]);
        images
    }

    /// Runs a script where they are.
    pub fn shell(&self, script: &str) {
        let output =
            Command::new("bash").args(["-c", script]).current_dir(self.dir.path().join("work")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Where an image is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("work").join(name)
    }

    /// Its file's bytes.
    pub fn content(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Writes over some of them.
    pub fn patch(&self, name: &str, at: u64, bytes: &[u8]) {
        File::options().write(true).open(self.path(name)).unwrap().write_all_at(bytes, at).unwrap();
    }

    /// What our program tells.
    pub fn tidemark(&self, arguments: &[&str]) -> Told {
        self.run(TIDEMARK, arguments)
    }

    /// What `qemu-img` tells, as if it had the name of ours.
    pub fn qemu_img(&self, arguments: &[&str]) -> Told {
        let told = self.run("qemu-img", arguments);
        // A line that QEMU does not end.
        let err = told.err.replace("image file to fix.Leaked", "image file to fix.\nLeaked");
        let err = err.replace("'qemu-img check -r'", "'tidemark check --repair leaks'");
        let err = err.lines().map(|line| line.replacen("qemu-img:", "tidemark:", 1) + "\n").collect();
        Told { err, ..told }
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Told {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "30", program]).args(arguments).current_dir(self.dir.path().join("work"));
        // A zone that no tables are needed for, and that is not the one of this machine.
        let output = command.env("TZ", "XYZ-3:30").output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Told { status: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// How a program has ended, and what it has said.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Told {
    /// Whether it is the same, line for line; of JSON, by value.
    pub fn same(&self, other: &Self) -> bool {
        let json = |text: &str| wire::parse(text).ok().filter(|_| text.starts_with(['{', '[']));
        let outputs = match (json(&self.out), json(&other.out)) {
            (Some(ours), Some(others)) => ours == others,
            _ => self.out == other.out,
        };
        outputs && self.status == other.status && self.err == other.err
    }
}

/// A number of an image, most significant byte first.
pub fn number(content: &[u8], at: u64, len: usize) -> u64 {
    let at = usize::try_from(at).unwrap();
    content[at..at + len].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Where the bitmap directory of an image is.
pub fn bitmap_directory(content: &[u8]) -> u64 {
    let mut at = number(content, 100, 4);
    while number(content, at, 4) != 0x2385_2875 {
        at += 8 + number(content, at + 4, 4).next_multiple_of(8);
    }
    number(content, at + 24, 8)
}
