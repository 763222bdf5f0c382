//! Words that must stand in a file and words that must not: the opening comment, names that say nothing, unfinished
//! code, tests that are skipped, paths of somebody's machine.

use crate::none;
use crate::source::{code, find_words, line_of};
use crate::tree::{files, sources};

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 9] =
    ["util", "utils", "helper", "helpers", "common", "manager", "managers", "misc", "shared_utils"];

/// Code that is not finished, or a test that does not run.
const UNFINISHED: [&str; 5] = ["todo!", "unimplemented!", "dbg!", "#[ignore", "#![ignore"];

/// Beginnings of paths that exist on a developer's machine only. Written in pieces: this file is searched too.
const MACHINE: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("../sha", "red/"), concat!("/home", "/"), concat!("/root", "/")];

fn headless(path: &str, text: &str) -> Option<String> {
    (!text.starts_with("//! ")).then(|| format!("{path}: does not open with `//!`"))
}

fn empty_names(path: &str, text: &str) -> Vec<String> {
    let part = path.split(['/', '.']).find(|part| EMPTY_NAMES.contains(part));
    let mut complaints: Vec<String> = part.map(|part| format!("{path}: `{part}` says nothing")).into_iter().collect();
    let code = code(text);
    for at in find_words(&code, "mod") {
        let name = crate::source::leading_name(&code[at + 3..]);
        if EMPTY_NAMES.contains(&name) {
            complaints.push(format!("{path}:{}: module `{name}` says nothing", line_of(&code, at)));
        }
    }
    complaints
}

fn unfinished(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let squeezed = code.replace("# [", "#[");
    let found = UNFINISHED.iter().flat_map(|word| squeezed.match_indices(word));
    found.map(|(at, word)| format!("{path}:{}: {word}", line_of(&squeezed, at))).collect()
}

fn machine_paths(path: &str, text: &str) -> Vec<String> {
    let found = MACHINE.iter().flat_map(|start| text.match_indices(start));
    // `~/…` and `$HOME/…` are anybody's; `target/…` and the like do not begin at the root.
    let absolute = |at: usize| !text[..at].ends_with(|char: char| char.is_alphanumeric() || "}$_-.".contains(char));
    found
        .filter(|(at, _)| absolute(*at))
        .map(|(at, start)| format!("{path}:{}: {start} is a path of one machine", line_of(text, at)))
        .collect()
}

#[test]
fn every_source_opens_by_saying_what_it_is() {
    none(&sources().iter().filter_map(|file| headless(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    none(&sources().iter().flat_map(|file| empty_names(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn no_code_is_unfinished_and_no_test_ignored() {
    none(&sources().iter().flat_map(|file| unfinished(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    none(&files().iter().flat_map(|file| machine_paths(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn forbidden_words_and_missing_openings_are_found() {
    assert!(headless("a.rs", "use std::fs;").is_some());
    assert!(headless("a.rs", "//! A file.\n").is_none());
    assert_eq!(empty_names("backend/src/utils.rs", "").len(), 1);
    assert_eq!(empty_names("tests/common/mod.rs", "").len(), 1);
    assert_eq!(empty_names("src/main.rs", "mod helpers;\nmod commonly;").len(), 1);
    assert_eq!(unfinished("a.rs", "fn f() { todo!() }\n#[ignore]\nfn g() { dbg!(1); }").len(), 3);
    assert_eq!(unfinished("a.rs", "// todo!\nconst A: &str = \"#[ignore]\";").len(), 0);
    let path = format!("see {}notes.md", MACHINE[0]);
    assert_eq!(machine_paths("a.md", &path).len(), 1);
    assert_eq!(machine_paths("a.sh", "cp $work/tree ~/x target/work/y").len(), 0);
}
