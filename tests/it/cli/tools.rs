//! The image tools beside `qemu-img`: what they make is what it makes, what they tell is what it tells, and what goes
//! wrong leaves nothing behind that looks whole.

mod bitmaps;
mod chains;
mod kept;
mod left;
mod random;
mod refused;
mod resized;
mod several;
mod snapshots;
mod told;

use super::process::{Place, TIDEMARK};

/// How a program has ended, and what it has said.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    status: i32,
    out: String,
    err: String,
}

/// What a program says of files in a place.
fn told(place: &Place, program: &str, arguments: &[&str]) -> Told {
    let output = place.run(program, arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Told { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// What our program says.
fn ours(place: &Place, arguments: &[&str]) -> Told {
    told(place, TIDEMARK, arguments)
}

/// What `qemu-img` says.
fn qemu(place: &Place, arguments: &[&str]) -> Told {
    told(place, "qemu-img", arguments)
}

/// Has a program do something that succeeds.
fn succeed(place: &Place, program: &str, arguments: &[&str]) -> Told {
    let told = told(place, program, arguments);
    assert_eq!(told.status, 0, "{program} {arguments:?}: {told:?}");
    told
}

/// Our program does.
fn tidemark(place: &Place, arguments: &[&str]) -> Told {
    succeed(place, TIDEMARK, arguments)
}

/// `qemu-img` does.
fn qemu_img(place: &Place, arguments: &[&str]) -> Told {
    succeed(place, "qemu-img", arguments)
}

/// The bytes of an image's disk, as `qemu-img` reads them.
fn content(place: &Place, image: &str, format: &str) -> Vec<u8> {
    qemu_img(place, &["convert", "-f", format, "-O", "raw", image, "content"]);
    std::fs::read(place.file("content")).unwrap()
}

/// An image is sound, by `qemu-img check`.
fn check(place: &Place, image: &str) {
    qemu_img(place, &["check", "-q", "-f", "qcow2", image]);
}
