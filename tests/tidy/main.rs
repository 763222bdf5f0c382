//! The rules of the house that no compiler checks: layers, the list of unsafe files, sizes, words, manifests, documents.
//!
//! Reads the tree as text and knows no types. Each rule is a function from text to complaints, so that beside the test
//! over the tree there is one over made-up text that shows that the rule can fail.

mod docs;
mod layers;
mod manifests;
mod size;
mod source;
mod tree;
mod unsafety;
mod wording;

/// Fails with every complaint on a line of its own.
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} complaint(s):\n{}", complaints.len(), complaints.join("\n"));
}
