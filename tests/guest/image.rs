//! What `make guest-deps` provides: the guest's kernel, initramfs and boot disk, and the programs of the
//! host. Knows where they are and that they belong to the scripts of this tree; a missing or outdated
//! piece is a failure that names the cure, never a skipped test.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The sources the cached image has to be built from, as `build.sh` leaves them beside it.
const SOURCES: [(&str, &str); 3] = [
    ("init", include_str!("image/init")),
    ("build.sh", include_str!("image/build.sh")),
    ("syslinux.cfg", include_str!("image/syslinux.cfg")),
];

/// Oldest QEMU whose socket chardev has `reconnect-ms` is 9.2; the tests are written for 10.
const QEMU_MAJOR: u32 = 10;

/// One file of the guest image, such as `vmlinux`.
///
/// # Panics
///
/// If the image was not built, or was built by other scripts than those of this tree.
pub fn file(name: &str) -> PathBuf {
    static CHECKED: OnceLock<PathBuf> = OnceLock::new();
    let path = CHECKED.get_or_init(checked_cache).join(name);
    assert!(path.exists(), "{} is missing: run `make guest-deps`", path.display());
    path
}

/// The name of a program of the host, after a look whether it can be run.
///
/// # Panics
///
/// If it cannot.
pub fn program(name: &'static str) -> &'static str {
    let found = Command::new(name).arg("--version").output().is_ok();
    assert!(found, "the program {name} is missing: run `make guest-deps`");
    name
}

/// The machine emulator.
///
/// # Panics
///
/// If it is missing or older than [`QEMU_MAJOR`].
pub fn qemu() -> &'static str {
    static CHECKED: OnceLock<&'static str> = OnceLock::new();
    CHECKED.get_or_init(|| {
        let name = program("qemu-system-x86_64");
        let output = Command::new(name).arg("--version").output().expect("it ran a moment ago");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let major = text.split("version ").nth(1).and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        assert!(major >= Some(QEMU_MAJOR), "QEMU {QEMU_MAJOR} is needed, found: {text}: run `make guest-deps`");
        name
    })
}

fn checked_cache() -> PathBuf {
    let cache = std::env::var_os("TIDEMARK_GUEST_CACHE")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/guest"), PathBuf::from);
    for (name, source) in SOURCES {
        let built_from = fs::read_to_string(cache.join(name)).unwrap_or_default();
        assert!(
            built_from == source,
            "the guest image in {} is missing or older than tests/guest/image/{name}: run `make guest-deps`",
            cache.display()
        );
    }
    cache
}
