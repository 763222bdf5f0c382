//! Arrows point down: between the crates as their manifests say, and between the modules of the backend.

use crate::none;
use crate::source::{code, find_words, leading_name, line_of};
use crate::tree::{File, manifests, sources};

/// Each crate of the product, and the crates of this workspace it may depend on.
const CRATES: [(&str, &[&str]); 8] = [
    ("tidemark", &["qmp-lite", "tidemark-jobs", "tidemark-backend", "tidemark-frontend"]),
    ("qmp-lite", &["tidemark-jobs", "tidemark-backend"]),
    ("tidemark-jobs", &["tidemark-backend", "tidemark-cbt"]),
    ("tidemark-backend", &["tidemark-cbt"]),
    ("tidemark-cbt", &[]),
    ("tidemark-frontend", &[]),
    ("tidemark-benches", &["tidemark-frontend"]),
    ("tidemark-fuzz", &["tidemark-backend"]),
];

/// The modules of the backend from bottom to top; none uses one that stands after it. Their tests may: what is
/// simplest to make a case from stands above, often.
const BACKEND: [&str; 15] = [
    "sync",
    "error",
    "io",
    "mailbox",
    "reactor",
    "tls",
    "stream",
    "nbd_wire",
    "range_lock",
    "epoch",
    "bitmaps",
    "node",
    "graph",
    "event",
    "export",
];

/// Who may know JSON: QMP, and what speaks it from outside to measure.
const JSON: [&str; 2] = ["qmp-lite", "tidemark-benches"];

/// The names in a manifest's table of dependencies, without what tests alone use.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]" || line.trim() == "[build-dependencies]";
        } else if inside && !line.trim_start().starts_with('#') {
            found.extend(line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty()));
        }
    }
    found
}

fn package_name(manifest: &str) -> Option<&str> {
    let package = manifest.split_once("[package]")?.1;
    package.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
}

fn upward_crates(manifests: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for File { path, text } in manifests {
        let Some(name) = package_name(text) else {
            complaints.push(format!("{path}: no package name"));
            continue;
        };
        let Some((_, allowed)) = CRATES.iter().find(|(known, _)| *known == name) else {
            complaints.push(format!("{path}: crate {name} has no place in the layers"));
            continue;
        };
        for used in dependencies(text) {
            let ours = CRATES.iter().any(|(known, _)| *known == used);
            if ours && !allowed.contains(&used) {
                complaints.push(format!("{path}: {name} may not use {used}"));
            }
            if used == "serde_json" && !JSON.contains(&name) {
                complaints.push(format!("{path}: only {} knows JSON", JSON[0]));
            }
        }
    }
    complaints
}

/// The top-level modules named by a path that follows `crate::` or enough `super::`.
fn roots(after: &str) -> Vec<&str> {
    let Some(group) = after.strip_prefix('{') else { return vec![leading_name(after)] };
    let mut depth = 0;
    let mut names = vec![leading_name(group)];
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(leading_name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

/// Where a file of the backend names a module of the crate's top level: the byte, and the module.
fn uses(code: &str, depth: usize) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for at in find_words(code, "crate") {
        if let Some(after) = code[at..].strip_prefix("crate::") {
            found.extend(roots(after).into_iter().map(|root| (at, root)));
        }
    }
    for at in find_words(code, "super") {
        let mut after = &code[at..];
        let mut climbed = 0;
        while let Some(next) = after.strip_prefix("super::") {
            (after, climbed) = (next, climbed + 1);
        }
        // A `super` inside a chain was counted from its start.
        if climbed >= depth && !code[..at].ends_with("super::") {
            found.extend(roots(after).into_iter().map(|root| (at, root)));
        }
    }
    found
}

fn upward_modules(path: &str, text: &str) -> Vec<String> {
    let Some(inside) = path.strip_prefix("backend/src/").and_then(|path| path.strip_suffix(".rs")) else {
        return Vec::new();
    };
    let parts: Vec<&str> = inside.split('/').filter(|part| *part != "mod").collect();
    let own = parts[0];
    if own == "lib" || parts.contains(&"tests") {
        return Vec::new();
    }
    let level = |module: &str| BACKEND.iter().position(|known| *known == module);
    let Some(mine) = level(own) else {
        return vec![format!("{path}: module {own} has no place in the layers")];
    };
    let code = code(text);
    let upward = |(at, module): &(usize, &str)| {
        (level(module)? > mine).then(|| format!("{path}:{}: {own} may not use {module}", line_of(&code, *at)))
    };
    uses(&code, parts.len()).iter().filter_map(upward).collect()
}

/// The program uses the front-end for its demonstration alone.
fn stray_front_end(path: &str, text: &str) -> Vec<String> {
    let allowed = !path.starts_with("src/") || path == "src/demo.rs" || path.starts_with("src/demo/");
    let code = code(text);
    let complain = |at| format!("{path}:{}: the front-end is for src/demo alone", line_of(&code, at));
    find_words(&code, "tidemark_frontend").filter(|_| !allowed).map(complain).collect()
}

#[test]
fn crates_use_only_crates_below_them() {
    none(&upward_crates(&manifests()));
}

#[test]
fn an_upward_dependency_of_a_crate_is_found() {
    let manifest = |name: &str, uses: &str| File {
        path: "x/Cargo.toml".into(),
        text: format!(
            "[package]\nname = \"{name}\"\n[dependencies]\n# why\n{uses} = true\n[dev-dependencies]\nqmp-lite = 1\n"
        ),
    };
    let count = |name, uses| upward_crates(&[manifest(name, uses)]).len();
    assert_eq!(count("tidemark-backend", "qmp-lite.workspace"), 1);
    assert_eq!(count("tidemark-backend", "serde_json.workspace"), 1);
    assert_eq!(count("tidemark-newcomer", "libc.workspace"), 1);
    assert_eq!(count("qmp-lite", "tidemark-backend.workspace"), 0);
}

#[test]
fn modules_of_the_backend_use_only_modules_below_them() {
    none(&sources().iter().flat_map(|file| upward_modules(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn an_upward_use_of_a_module_is_found() {
    let count = |path: &str, text: &str| upward_modules(path, text).len();
    assert_eq!(count("backend/src/io/op.rs", "use crate::node::Node;"), 1);
    assert_eq!(count("backend/src/io/op.rs", "use super::super::graph::Graph;"), 1);
    assert_eq!(count("backend/src/io/mod.rs", "fn f(_: &super::export::Exports) {}"), 1);
    assert_eq!(count("backend/src/node/raw.rs", "use crate::{error::{A, B}, graph::Graph, io::Op};"), 1);
    assert_eq!(count("backend/src/newcomer.rs", ""), 1);
    assert_eq!(count("backend/src/io/tests.rs", "use crate::node::Node;"), 0);
    assert_eq!(count("backend/src/node/raw.rs", "use super::{Node, file}; use crate::io::Op; // crate::export"), 0);
    assert_eq!(count("backend/src/export/vhost/queue.rs", "use super::super::ExportError; use crate::graph;"), 0);
}

#[test]
fn the_backend_documents_the_order_that_is_checked() {
    let lib = sources().into_iter().find(|file| file.path == "backend/src/lib.rs").expect("the backend has a lib.rs");
    let from = lib.text.lines().skip_while(|line| !line.starts_with("//! `error`"));
    let list: Vec<&str> = from.take_while(|line| line.starts_with("//! `")).collect();
    let listed: Vec<&str> = list.iter().flat_map(|line| line.split('`').skip(1).step_by(2)).collect();
    let checked: Vec<&str> = BACKEND.into_iter().filter(|module| *module != "sync").collect();
    assert_eq!(listed, checked);
}

#[test]
fn only_the_demonstration_uses_the_front_end() {
    none(&sources().iter().flat_map(|file| stray_front_end(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn a_stray_use_of_the_front_end_is_found() {
    let text = "use tidemark_frontend::Device;";
    assert_eq!(stray_front_end("src/daemon.rs", text).len(), 1);
    assert_eq!(stray_front_end("src/demo/load.rs", text).len(), 0);
    assert_eq!(stray_front_end("tests/it/main.rs", text).len(), 0);
}
