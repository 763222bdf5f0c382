//! Manifests and licences: every dependency says why it is there, and every crate is under the licence of the house.

use crate::none;
use crate::tree::{File, manifests, root};
use std::fs;

/// Dependencies on any version, and those without a reason in the line above. Crates of the workspace need none; a member that takes a
/// dependency over from the workspace has its reason there.
fn complaints(path: &str, manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut before = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        let own = line.contains("path = ") || line.contains("workspace = true");
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside && line.contains('=') && !line.starts_with('#') && !own && !before.starts_with("# ") {
            found.push(format!("{path}: no reason above `{line}`"));
        }
        if inside && !line.starts_with('#') && line.contains("\"*\"") {
            found.push(format!("{path}: any version at all in `{line}`"));
        }
        before = line;
    }
    found
}

/// Members that do not take the workspace's licence over.
fn unlicensed(File { path, text }: &File) -> Option<String> {
    let ours = text.contains("\nlicense.workspace = true\n");
    (!ours).then(|| format!("{path}: the licence is not the workspace's"))
}

#[test]
fn every_dependency_says_why_it_is_there() {
    none(&manifests().iter().flat_map(|file| complaints(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn every_crate_is_under_the_licence_of_the_house() {
    let manifests = manifests();
    assert!(manifests[0].text.contains("license = \"Apache-2.0 OR MIT\""));
    none(&manifests.iter().filter_map(unlicensed).collect::<Vec<_>>());
    for (name, words) in [("LICENSE-APACHE", "Apache License\n"), ("LICENSE-MIT", "Permission is hereby granted")] {
        let text = fs::read_to_string(root().join(name)).unwrap_or_default();
        assert!(text.contains(words), "{name} is missing or not what it says");
    }
}

#[test]
fn an_unexplained_or_unbounded_dependency_is_found() {
    let manifest = "[dependencies]\n# Reason.\na = \"1\"\nb = \"2\"\nc.workspace = true\nd = { path = \"d\" }\n";
    assert_eq!(complaints("Cargo.toml", manifest), ["Cargo.toml: no reason above `b = \"2\"`"]);
    assert_eq!(complaints("Cargo.toml", "[dependencies]\n# Reason.\na = \"*\"\n").len(), 1);
    assert!(unlicensed(&File { path: "Cargo.toml".into(), text: "[package]\nlicense = \"X\"\n".into() }).is_some());
}
