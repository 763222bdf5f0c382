//! Files and functions stay small. What is larger already may only shrink: the tables are ratchets.

use crate::none;
use crate::source::{code, find_words, leading_name, line_of};
use crate::tree::sources;

/// Lines of a file.
const FILE_MAX: usize = 400;
/// Lines of code of a function, signature and braces included.
const FUNCTION_MAX: usize = 70;

/// Files that were longer when the rule came, and their lines.
const LONG_FILES: [(&str, usize); 0] = [];

/// Functions that were longer when the rule came: file, name, lines.
const LONG_FUNCTIONS: [(&str, &str, usize); 0] = [];

fn over(what: &str, len: usize, max: usize, known: Option<usize>) -> Option<String> {
    match known {
        None if len > max => Some(format!("{what}: {len} lines, {max} are the most")),
        Some(before) if len > before => Some(format!("{what}: grew from {before} to {len} lines")),
        Some(_) if len <= max => Some(format!("{what}: fits now, take it off the list")),
        _ => None,
    }
}

fn long_file(path: &str, text: &str) -> Option<String> {
    let known = LONG_FILES.iter().find(|(known, _)| *known == path).map(|(_, len)| *len);
    over(path, text.lines().count(), FILE_MAX, known)
}

/// Name, first line and lines of code of each function with a body.
fn functions(code: &str) -> Vec<(&str, usize, usize)> {
    let mut found = Vec::new();
    for at in find_words(code, "fn") {
        let name = leading_name(&code[at + 2..]);
        if let Some(end) = body_end(&code[at..])
            && !name.is_empty()
        {
            let lines = code[at..at + end].lines().filter(|line| !line.trim().is_empty()).count();
            found.push((name, line_of(code, at), lines));
        }
    }
    found
}

/// Where the body of the function that `code` starts with ends; `None` for one without a body.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0, 0);
    for (at, char) in code.char_indices() {
        match char {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces <= 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

fn long_functions(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let complain = |(name, line, len): (&str, usize, usize)| {
        let known = LONG_FUNCTIONS.iter().find(|(file, known, _)| *file == path && *known == name);
        over(&format!("{path}:{line}: fn {name}"), len, FUNCTION_MAX, known.map(|(_, _, len)| *len))
    };
    functions(&code).into_iter().filter_map(complain).collect()
}

#[test]
fn files_are_at_most_four_hundred_lines_long() {
    none(&sources().iter().filter_map(|file| long_file(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn functions_are_at_most_seventy_lines_long() {
    let sources = sources();
    assert!(sources.iter().map(|file| functions(&code(&file.text)).len()).sum::<usize>() > 500);
    none(&sources.iter().flat_map(|file| long_functions(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn long_files_and_functions_are_found() {
    assert!(long_file("a.rs", &"\n".repeat(FILE_MAX + 1)).is_some());
    assert!(long_file("a.rs", &"\n".repeat(FILE_MAX)).is_none());
    assert!(over("a.rs", 501, 400, Some(500)).is_some_and(|text| text.contains("grew")));
    assert!(over("a.rs", 400, 400, Some(500)).is_some_and(|text| text.contains("fits now")));
    assert!(over("a.rs", 499, 400, Some(500)).is_none());
    let function =
        |lines| format!("trait A {{ fn a(&self, b: [u8; 2]); }}\nfn long() {{\n{}}}", "x();\n\n".repeat(lines));
    assert_eq!(long_functions("a.rs", &function(FUNCTION_MAX)).len(), 1);
    assert_eq!(long_functions("a.rs", &function(FUNCTION_MAX - 2)).len(), 0);
}
