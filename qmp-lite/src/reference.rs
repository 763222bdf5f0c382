//! The reference of the protocol for people, printed from the declarations.
//!
//! Knows the order of its chapters. It is kept in the tree as `docs/qmp.md`; a test compares the two.

use crate::command::commands;
use crate::differences::{Difference, differences};
use crate::event::EVENTS;
use crate::schema::{Schema, markdown};

const INTRODUCTION: &str = "\
# QMP reference

This page is generated from the declarations in `qmp-lite`:
`cargo run -p qmp-lite --example reference > docs/qmp.md`.

The protocol is that of QEMU's storage daemon: one JSON text per message, `qmp_capabilities` first,
`{\"execute\": NAME, \"arguments\": {…}, \"id\": ANYTHING}` for a command, `{\"return\": …}` or
`{\"error\": {\"class\": …, \"desc\": …}}` with the same id for its reply. Members whose names begin with
`x-` are this program's own. What QEMU has and this page does not name is refused with an error. What is done otherwise than
by QEMU on purpose stands [at the end](#differences-from-qemu).

";

const DIFFERENCES: &str = "\
## Differences from QEMU

What is done otherwise than by `qemu-storage-daemon` 10.0 on purpose; decisions are in [decisions](decisions/).

| | When | QEMU | Here | Why |
|---|---|---|---|---|
";

/// The whole text.
pub fn markdown() -> String {
    let mut schema = Schema::default();
    let mut text = INTRODUCTION.to_owned();
    text.push_str("## Commands\n\n");
    for command in commands() {
        let arguments = (command.arguments)(&mut schema);
        let result = (command.result)(&mut schema);
        text.push_str(&format!("### {}\n\n{}\n\n", command.name, markdown::paragraph(command.doc)));
        if !markdown::is_empty(&schema, arguments) {
            text.push_str(&format!("Arguments:\n\n{}\n", markdown::members(&schema, arguments)));
        }
        if !markdown::is_empty(&schema, result) {
            text.push_str(&format!("Returns: {}\n\n", markdown::type_name(&schema, result)));
        }
    }
    text.push_str("## Events\n\n");
    for event in EVENTS {
        let data = (event.data)(&mut schema);
        let doc = markdown::paragraph(schema.get(data).doc);
        let members = markdown::members(&schema, data);
        text.push_str(&format!("### {}\n\n{doc}\n\nData:\n\n{members}\n", event.name));
    }
    text.push_str("## Types\n\n");
    text.push_str(&markdown::types(&schema));
    text.push_str(DIFFERENCES);
    for Difference { subject, case, qemu, ours, reason } in differences() {
        text.push_str(&format!("| `{subject}` | {case} | {qemu} | {ours} | {reason} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::markdown;

    #[test]
    fn the_page_in_the_tree_is_what_the_declarations_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/qmp.md");
        let page = std::fs::read_to_string(path).unwrap();
        let how = "cargo run -p qmp-lite --example reference > docs/qmp.md";
        assert!(page == markdown(), "docs/qmp.md is out of date: {how}");
    }

    #[test]
    fn every_link_leads_to_a_section() {
        let page = markdown();
        let sections: Vec<_> = page.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' ')).collect();
        for link in page.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(sections.iter().any(|section| section.to_lowercase().replace(' ', "-") == link), "{link}");
        }
    }
}
