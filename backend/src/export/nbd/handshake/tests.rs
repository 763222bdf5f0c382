//! What is answered to options, without a connection.

use super::*;
use crate::nbd_wire::handshake::{ReplyHeader, encode_info_request, encode_meta_queries, export_flags};
use proptest::prelude::*;

struct Shelf(Vec<Offer>);

impl Catalog for Shelf {
    fn find(&self, name: &[u8]) -> Option<Offer> {
        self.0.iter().find(|offer| offer.name.as_bytes() == name).cloned()
    }

    fn list(&self) -> Vec<Listed> {
        self.0.iter().map(|offer| Listed { name: offer.name.clone(), description: String::new() }).collect()
    }
}

fn shelf() -> Shelf {
    let offer = |name: &str| Offer {
        name: name.into(),
        description: None,
        size: 1 << 30,
        flags: export_flags::HAS_FLAGS,
        alignment: 1,
        allocation_depth: true,
        bitmaps: vec!["a".into(), "b".into()],
    };
    Shelf(vec![offer("disk"), Offer { alignment: 4096, ..offer("other") }])
}

fn begin<'a>(shelf: &'a Shelf, tls: Tls) -> Handshake<'a, Shelf> {
    let mut handshake = Handshake::new(shelf, tls);
    handshake.client_flags([0, 0, 0, 3]).unwrap();
    handshake
}

/// Says an option; the kinds of the replies and what comes next.
fn say(handshake: &mut Handshake<'_, Shelf>, option: u32, data: &[u8]) -> (Vec<u32>, Next) {
    let mut out = Vec::new();
    let header = OptionHeader { option, len: u32::try_from(data.len()).unwrap() };
    let next = handshake.option(header, Some(data), &mut out);
    (kinds(option, &out), next)
}

fn kinds(option: u32, mut out: &[u8]) -> Vec<u32> {
    let mut kinds = Vec::new();
    while let Some((header, rest)) = out.split_first_chunk() {
        let header = ReplyHeader::decode(header).unwrap();
        assert_eq!(header.option, option);
        kinds.push(header.kind);
        out = &rest[usize::try_from(header.len).unwrap()..];
    }
    assert!(out.is_empty());
    kinds
}

fn served(next: Next) -> Chosen {
    match next {
        Next::Serve(chosen) => *chosen,
        other => panic!("{other:?}"),
    }
}

#[test]
fn before_tls_nothing_goes_but_tls() {
    let shelf = shelf();
    let mut handshake = begin(&shelf, Tls::Required);
    let go = encode_info_request("disk", &[]);
    for (option, data) in [(option::LIST, &[][..]), (option::GO, &go), (option::STRUCTURED_REPLY, &[]), (77, b"abc")] {
        assert_eq!(say(&mut handshake, option, data), (vec![reply::ERR_TLS_REQD], Next::Option), "option {option}");
    }
    assert_eq!(say(&mut handshake, option::STARTTLS, &[]), (vec![reply::ACK], Next::StartTls));
    handshake.tls_started();
    assert_eq!(say(&mut handshake, option::STARTTLS, &[]), (vec![reply::ERR_INVALID], Next::Option));
    served(say(&mut handshake, option::GO, &go).1);
    for (option, data, next) in [
        (option::ABORT, &[][..], vec![reply::ERR_TLS_REQD]),
        (option::EXPORT_NAME, b"disk", vec![]),
        (option::STARTTLS, b"x", vec![reply::ERR_INVALID]),
    ] {
        assert_eq!(say(&mut begin(&shelf, Tls::Required), option, data), (next, Next::Close), "option {option}");
    }
}

#[test]
fn what_was_selected_counts_for_its_export_alone_and_until_something_else_is() {
    let shelf = shelf();
    let mut handshake = begin(&shelf, Tls::Never);
    say(&mut handshake, option::STRUCTURED_REPLY, &[]);
    let set = |handshake: &mut Handshake<'_, Shelf>, export, queries: &[&str]| {
        say(handshake, option::SET_META_CONTEXT, &encode_meta_queries(export, queries)).0.len()
    };
    let chosen = |handshake: &mut Handshake<'_, Shelf>, export| {
        served(say(handshake, option::GO, &encode_info_request(export, &[])).1).contexts.ids().to_vec()
    };
    assert_eq!(set(&mut handshake, "disk", &["qemu:dirty-bitmap:b", "base:allocation", "qemu:allocation-depth"]), 4);
    assert_eq!(chosen(&mut handshake, "disk"), [BASE_ID, DEPTH_ID, BITMAP_ID + 1]);
    assert_eq!(chosen(&mut handshake, "other"), [0; 0]);
    // A list changes nothing, and neither does it select by the beginnings of names.
    say(&mut handshake, option::LIST_META_CONTEXT, &encode_meta_queries("disk", &["qemu:"]));
    assert_eq!(chosen(&mut handshake, "disk").len(), 3);
    assert_eq!(set(&mut handshake, "disk", &["qemu:dirty-bitmap:"]), 1);
    assert_eq!(chosen(&mut handshake, "disk"), [0; 0]);
    set(&mut handshake, "disk", &["base:allocation"]);
    assert_eq!(set(&mut handshake, "nope", &["base:allocation"]), 1);
    assert_eq!(chosen(&mut handshake, "disk"), [0; 0], "a selection that failed has undone the last");
}

#[test]
fn whoever_has_to_keep_to_blocks_has_to_ask_for_them() {
    let shelf = shelf();
    let mut handshake = begin(&shelf, Tls::Never);
    let mut info = |option, types: &[u16]| say(&mut handshake, option, &encode_info_request("other", types)).0;
    assert_eq!(info(option::INFO, &[]).last(), Some(&reply::ERR_BLOCK_SIZE_REQD));
    assert_eq!(info(option::INFO, &[3]).last(), Some(&reply::ACK));
    assert_eq!(info(option::GO, &[]).last(), Some(&reply::ACK), "it may go without");
}

#[test]
fn a_client_of_the_old_way_gets_an_export_or_nothing() {
    let shelf = shelf();
    for (flags, len) in [(1, 134), (3, 10)] {
        let mut handshake = Handshake::new(&shelf, Tls::Never);
        handshake.client_flags([0, 0, 0, flags]).unwrap();
        let mut out = Vec::new();
        let next = handshake.option(OptionHeader { option: 1, len: 4 }, Some(b"disk"), &mut out);
        assert_eq!((served(next).offer.name.as_str(), out.len()), ("disk", len));
    }
    assert_eq!(say(&mut begin(&shelf, Tls::Never), option::EXPORT_NAME, b"nope"), (vec![], Next::Close));
    let mut handshake = Handshake::new(&shelf, Tls::Never);
    handshake.client_flags([0, 0, 0, 2]).unwrap();
    assert_eq!(say(&mut handshake, option::LIST, &[]), (vec![], Next::Close));
}

#[test]
fn options_do_not_go_on_for_ever() {
    let shelf = shelf();
    let mut handshake = begin(&shelf, Tls::Never);
    let said = (0..10_000).take_while(|_| say(&mut handshake, option::LIST, &[]).1 == Next::Option).count();
    assert_eq!(said, 4096);
}

proptest! {
    #[test]
    fn no_option_makes_it_panic_or_answer_without_bound(
        options in proptest::collection::vec((0u32..14, proptest::collection::vec(any::<u8>(), 0..80)), 0..20),
        tls in prop_oneof![Just(Tls::Never), Just(Tls::Required), Just(Tls::Started)],
    ) {
        let shelf = shelf();
        let mut handshake = begin(&shelf, tls);
        for (option, data) in options {
            let mut out = Vec::new();
            let header = OptionHeader { option, len: u32::try_from(data.len()).unwrap() };
            let next = handshake.option(header, Some(&data), &mut out);
            prop_assert!(out.len() < 1000);
            if next == Next::Close {
                break;
            }
        }
    }
}
