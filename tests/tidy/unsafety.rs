//! `unsafe` stands in the files listed here and nowhere else, so that a reader knows where to look.

use crate::none;
use crate::source::{code, find_words, line_of};
use crate::tree::{manifests, sources};

/// The files that may hold `unsafe`: memory that others see, and system calls no safe crate wraps.
const FILES: [&str; 18] = [
    "backend/src/export/vhost/inflight/area.rs",
    "backend/src/export/vhost/memory.rs",
    "backend/src/export/vhost/memory/fault.rs",
    "backend/src/export/vhost/memory/mapping.rs",
    "backend/src/export/vhost/memory/segment.rs",
    "backend/src/export/vhost/memory/tests.rs",
    "backend/src/export/vhost/ring/chain.rs",
    "backend/src/export/vhost/ring/layout.rs",
    "backend/src/io/buf.rs",
    "backend/src/io/heap.rs",
    "backend/src/io/inherited.rs",
    "backend/src/io/lock.rs",
    "backend/src/io/turns.rs",
    "backend/src/io/uring.rs",
    "backend/src/io/uring/entry.rs",
    "backend/src/io/uring/inline.rs",
    "backend/src/io/uring/message.rs",
    "backend/src/io/workers.rs",
];

fn allows(code: &str) -> bool {
    ["allow(unsafe_code", "expect(unsafe_code", "warn(unsafe_code"].iter().any(|attribute| code.contains(attribute))
}

fn stray(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    if FILES.contains(&path) {
        let stale = !allows(&code) && find_words(&code, "unsafe").next().is_none();
        return stale.then(|| format!("{path}: is listed and holds no unsafe code")).into_iter().collect();
    }
    let mut complaints: Vec<String> = find_words(&code, "unsafe")
        .map(|at| format!("{path}:{}: `unsafe` outside the listed files", line_of(&code, at)))
        .collect();
    if allows(&code) {
        complaints.push(format!("{path}: allows unsafe code and is not listed"));
    }
    complaints
}

/// A crate that does not take the workspace's lints over, or a workspace that does not deny `unsafe`.
fn lax(path: &str, manifest: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !manifest.contains("[lints]\nworkspace = true") {
        complaints.push(format!("{path}: does not take over the workspace's lints"));
    }
    if manifest.contains("[workspace]") && !manifest.contains("\nunsafe_code = \"deny\"\n") {
        complaints.push(format!("{path}: the workspace does not deny unsafe code"));
    }
    complaints
}

#[test]
fn unsafe_code_stands_only_in_the_listed_files() {
    let sources = sources();
    let mut complaints: Vec<String> = sources.iter().flat_map(|file| stray(&file.path, &file.text)).collect();
    let missing = FILES.iter().filter(|listed| !sources.iter().any(|file| file.path == **listed));
    complaints.extend(missing.map(|listed| format!("{listed}: is listed and does not exist")));
    none(&complaints);
}

#[test]
fn every_crate_denies_unsafe_code() {
    none(&manifests().iter().flat_map(|file| lax(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn stray_unsafe_code_is_found() {
    assert_eq!(stray("src/main.rs", "fn f() { unsafe { g() } }").len(), 1);
    assert_eq!(stray("src/main.rs", "#![allow(unsafe_code)]").len(), 1);
    assert_eq!(stray("src/main.rs", "// unsafe\nconst A: &str = \"unsafe\";").len(), 0);
    assert_eq!(stray(FILES[0], "fn f() {}").len(), 1);
    assert_eq!(lax("x/Cargo.toml", "[package]").len(), 1);
    assert_eq!(lax("Cargo.toml", "[workspace]\n[lints]\nworkspace = true").len(), 1);
}
