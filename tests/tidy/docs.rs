//! Documents: links lead somewhere, decisions are numbered and short.

use crate::none;
use crate::tree::{File, files, root};
use std::path::Path;

/// Lines of a decision.
const DECISION_MAX: usize = 40;

/// Targets of relative links, without the part after `#`.
fn links(text: &str) -> Vec<&str> {
    let targets = text.match_indices("](").filter_map(|(at, open)| text[at + open.len()..].split_once(')'));
    let relative = targets.map(|(target, _)| target).filter(|target| !target.contains("://"));
    relative.filter_map(|target| target.split('#').next()).filter(|target| !target.is_empty()).collect()
}

fn broken_links(file: &File, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let directory = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    let broken = links(&file.text).into_iter().filter(|target| !exists(&directory.join(target)));
    broken.map(|target| format!("{}: the link to {target} leads nowhere", file.path)).collect()
}

/// Decisions by path: numbered 0001, 0002, … and short.
fn bad_decisions<'a>(decisions: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (index, (path, text)) in decisions.enumerate() {
        let name = path.rsplit('/').next().unwrap_or(path);
        if !name.starts_with(&format!("{:04}-", index + 1)) {
            complaints.push(format!("{path}: number {:04} is missing or taken twice", index + 1));
        }
        if text.lines().count() > DECISION_MAX {
            complaints.push(format!("{path}: more than {DECISION_MAX} lines"));
        }
        for part in ["## Context", "## Choice", "## Consequence"] {
            if !text.contains(part) {
                complaints.push(format!("{path}: has no `{part}`"));
            }
        }
    }
    complaints
}

fn is_document(file: &File) -> bool {
    file.path.ends_with(".md")
}

#[test]
fn links_between_documents_lead_somewhere() {
    let exists = |path: &Path| root().join(path).exists();
    let documents = files().into_iter().filter(is_document);
    none(&documents.flat_map(|file| broken_links(&file, exists)).collect::<Vec<_>>());
}

#[test]
fn decisions_are_numbered_and_short() {
    let files = files();
    let decisions = files.iter().filter(|file| file.path.starts_with("docs/decisions/"));
    assert!(decisions.clone().count() > 0, "there are no decisions");
    none(&bad_decisions(decisions.map(|file| (file.path.as_str(), file.text.as_str()))));
}

#[test]
fn broken_links_and_bad_decisions_are_found() {
    let text = "[a](b.md#c) [d](https://example.org) [e](../f.md) [g](#h)".to_owned();
    let file = File { path: "docs/x.md".into(), text };
    assert_eq!(broken_links(&file, |path| path == Path::new("docs/b.md")).len(), 1);
    let good = "## Context\n## Choice\n## Consequence\n";
    let long = "\n".repeat(DECISION_MAX) + good;
    assert_eq!(bad_decisions([("d/0001-a.md", good)].into_iter()).len(), 0);
    assert_eq!(bad_decisions([("d/0002-a.md", good)].into_iter()).len(), 1);
    assert_eq!(bad_decisions([("d/0001-a.md", long.as_str())].into_iter()).len(), 1);
    assert_eq!(bad_decisions([("d/0001-a.md", "")].into_iter()).len(), 3);
}
