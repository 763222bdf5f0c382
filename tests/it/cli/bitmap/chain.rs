//! `tidemark bitmap check` beside the rules as a jq program over what `qemu-img info` tells of the same chains.
//!
//! `CHAINS` is how many there are; the next failing one is printed with its layers.

use super::{shell, tidemark};
use crate::cli::images::bitmap_directory;
use crate::cli::process::{Place, TIDEMARK};
use qmp_lite::wire;
use std::fmt::Write as _;
use std::fs;

/// The rules.
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/cli/bitmap/chain_valid.jq");
/// Images of a chain, at most.
const DEPTH: usize = 5;
/// What a layer may have of bitmap `b`: nothing, one that records or not, one that is out of date.
const STATES: [char; 4] = ['-', 'R', 'D', 'I'];

/// The file of the layer in this state at this place, over the next one or over nothing.
fn template(state: char, at: usize, over: bool) -> String {
    format!("{state}{at}{}", if over { "over" } else { "" })
}

/// Every layer that a chain may be made of, and a raw image. All have another bitmap besides.
fn templates() -> Place {
    let place = Place::new();
    let mut script = String::new();
    for at in 0..DEPTH {
        writeln!(script, "qemu-img create -q -f qcow2 -o cluster_size=4k R{at} 64k; qemu-img bitmap --add R{at} b")
            .unwrap();
        writeln!(
            script,
            "qemu-img bitmap --add --disable R{at} other; cp R{at} D{at}; qemu-img bitmap --disable D{at} b"
        )
        .unwrap();
        writeln!(script, "cp R{at} ./-{at}; qemu-img bitmap --remove ./-{at} b; cp R{at} I{at}").unwrap();
        for state in STATES {
            let (alone, over) = (template(state, at, false), template(state, at, true));
            writeln!(script, "cp ./{alone} ./{over}").unwrap();
            if at + 1 < DEPTH {
                writeln!(script, "qemu-img rebase -u -b layer{} -F qcow2 ./{over}", at + 1).unwrap();
            }
            writeln!(script, "cp ./{over} ./{over}raw; qemu-img rebase -u -b raw -F raw ./{over}raw").unwrap();
        }
    }
    shell(&place, &script);
    for at in 0..DEPTH {
        for end in ["", "over", "overraw"] {
            let path = place.file(&format!("I{at}{end}"));
            let mut content = fs::read(&path).unwrap();
            let flags = usize::try_from(bitmap_directory(&content)).unwrap() + 15;
            // In use, and of those that record.
            content[flags] |= 1;
            fs::write(&path, content).unwrap();
        }
    }
    place
}

/// Puts a chain together; the last layer may be over a raw image.
fn build(place: &Place, chain: &[char], raw: bool) {
    for (at, state) in chain.iter().enumerate() {
        let last = at + 1 == chain.len();
        let file = match (last, raw) {
            (true, true) => template(*state, at, true) + "raw",
            (true, false) => template(*state, at, false),
            _ => template(*state, at, true),
        };
        fs::copy(place.file(&file), place.file(&format!("layer{at}"))).unwrap();
    }
    fs::copy(place.file("disk"), place.file("raw")).unwrap();
}

/// What the program says: whether, or which rule, and the layers' states.
fn ours(place: &Place) -> (String, String) {
    let output = place.run(TIDEMARK, &["bitmap", "check", "layer0", "b", "--output", "json"]);
    let told = wire::parse(&String::from_utf8(output.stdout).unwrap()).unwrap();
    let letter = |layer: &wire::Value| match layer["bitmap"].as_str().unwrap() {
        "missing" => '-',
        word => word.chars().next().unwrap().to_ascii_uppercase(),
    };
    let layers = told["layers"].as_array().unwrap().iter().map(letter).collect();
    let verdict = match told["rule"].as_u64() {
        None => "valid".to_owned(),
        Some(rule) => format!("invalid(rule{rule}"),
    };
    let status = if told["valid"].as_bool().unwrap() { 0 } else { 2 };
    assert_eq!(output.status.code(), Some(status), "{verdict} {layers}");
    (verdict, layers)
}

#[test]
fn chains_are_valid_by_the_rules_that_libvirt_has() {
    let chains: usize = std::env::var("CHAINS").map_or(100, |text| text.parse().unwrap());
    let place = templates();
    let mut random = fastrand::Rng::with_seed(5);
    let (mut told, mut found) = (String::new(), Vec::new());
    for _ in 0..chains {
        let depth = random.usize(1..=DEPTH);
        // Half of them are as they should be, but for one layer or none.
        let start = random.usize(0..=depth);
        let mut chain: Vec<char> = (0..depth).map(|at| if at < start { 'R' } else { '-' }).collect();
        let changes = if random.bool() { random.usize(0..=1) } else { depth };
        (0..changes).for_each(|_| chain[random.usize(..depth)] = random.choice(STATES).unwrap());
        build(&place, &chain, random.bool());
        told += &shell(&place, "qemu-img info --backing-chain --output json layer0");
        found.push(ours(&place));
    }
    fs::write(place.file("told"), told).unwrap();
    let judged = shell(&place, &format!("jq -r --arg b b -f '{RULES}' told"));
    let judged: Vec<_> = judged.lines().collect();
    assert_eq!(judged.len(), chains);
    for (judged, (verdict, layers)) in judged.iter().zip(&found) {
        assert_eq!(judged.split([' ', ':']).next(), Some(verdict.as_str()), "{judged}");
        assert_eq!(judged.rsplit(' ').next(), Some(layers.as_str()), "{judged}");
    }
    let rules = ["valid", "invalid(rule1", "invalid(rule2", "invalid(rule3", "invalid(rule4"];
    let missing: Vec<_> = rules.iter().filter(|rule| !found.iter().any(|(verdict, _)| verdict == *rule)).collect();
    assert!(missing.is_empty(), "no chain was {missing:?}");
}

#[test]
fn the_rule_the_layer_and_what_to_do_are_said() {
    let place = templates();
    build(&place, &['R', 'R', '-'], true);
    assert_eq!(
        tidemark(&place, &["bitmap", "check", "layer0", "b"]),
        "valid\n    0: recording     layer0\n    1: recording     layer1\n    2: missing       layer2\n    3: missing       raw\n"
    );
    build(&place, &['R', '-', 'R'], false);
    let output = place.run(TIDEMARK, &["bitmap", "check", "layer0", "b"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stdout).unwrap();
    let first = said.lines().next().unwrap();
    assert_eq!(
        first,
        "invalid: rule 2, layer 2 'layer2': it is here and not in the image above: what changed there is unknown; begin \
         with a full backup"
    );
    let said = place.refusal(&["bitmap", "check", "nowhere", "b"]);
    assert_eq!(said, "tidemark: Could not open 'nowhere': Could not open 'nowhere': No such file or directory\n");
}

#[test]
fn a_raw_disk_alone_has_no_bitmap() {
    let place = Place::new();
    let output = place.run(TIDEMARK, &["bitmap", "check", "disk", "b"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("invalid: rule 1, layer 0 'disk': "));
}
