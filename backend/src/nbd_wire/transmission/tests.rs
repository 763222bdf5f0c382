//! Bytes as doc/proto.md has them.

use super::*;
use proptest::prelude::*;

const REQUEST: Request = Request {
    flags: command_flags::FUA,
    command: Command::Write,
    cookie: 0x0102_0304_0506_0708,
    offset: 0x1122_3344_5566_7788,
    len: 0x0004_0000,
};

#[test]
fn a_compact_request_is_28_bytes() {
    let bytes = b"\x25\x60\x95\x13\x00\x01\x00\x01\x01\x02\x03\x04\x05\x06\x07\x08\x11\x22\x33\x44\x55\x66\x77\x88\
                  \x00\x04\x00\x00";
    assert_eq!(REQUEST.encode(Headers::Structured), bytes);
    assert_eq!(Request::decode(bytes, Headers::Simple), Ok(REQUEST));
    assert_eq!(Request::decode(bytes, Headers::Extended), Err(WireError::Magic));
}

#[test]
fn an_extended_request_has_64_bits_of_length() {
    let bytes = b"\x21\xe4\x1c\x71\x00\x08\x00\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\x40\0\0\0\0";
    let request = Request {
        flags: command_flags::REQ_ONE,
        command: Command::BlockStatus,
        cookie: 9,
        offset: 0,
        len: 0x40_0000_0000,
    };
    assert_eq!(request.encode(Headers::Extended), bytes);
    assert_eq!(Request::decode(bytes, Headers::Extended), Ok(request));
    assert_eq!(Request::decode(bytes, Headers::Structured), Err(WireError::Magic));
}

#[test]
fn a_command_that_means_nothing_yet_keeps_its_number() {
    let request = Request { command: Command::Unknown(77), ..REQUEST };
    let bytes = request.encode(Headers::Simple);
    assert_eq!((bytes[6], bytes[7]), (0, 77));
    assert_eq!(Request::decode(&bytes, Headers::Simple), Ok(request));
}

#[test]
fn a_simple_reply_is_16_bytes() {
    let bytes = *b"\x67\x44\x66\x98\0\0\0\x16\0\0\0\0\0\0\0\x07";
    assert_eq!(simple_reply(7, error_number::INVAL), bytes);
    let head = ReplyHead::Simple { cookie: 7, error: 22 };
    assert_eq!(ReplyHead::decode(&bytes, Headers::Structured), Ok(head));
}

#[test]
fn chunks_have_20_or_32_bytes_before_their_payload() {
    let chunk = Chunk { flags: REPLY_DONE, kind: chunk_kind::OFFSET_DATA, cookie: 3, offset: 0, len: 24 };
    let check = |chunk: Chunk, headers, bytes: &[u8]| {
        let mut encoded = Vec::new();
        chunk.encode(headers, &mut encoded);
        assert_eq!(encoded, bytes);
        assert_eq!(chunk_size(headers), bytes.len());
        assert_eq!(ReplyHead::decode(bytes, headers), Ok(ReplyHead::Chunk(chunk)));
    };
    check(chunk, Headers::Structured, b"\x66\x8e\x33\xef\0\x01\0\x01\0\0\0\0\0\0\0\x03\0\0\0\x18");
    check(
        Chunk { offset: 0x1000, ..chunk },
        Headers::Extended,
        b"\x6e\x8a\x27\x8c\0\x01\0\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\x18",
    );
}

#[test]
fn only_replies_that_were_agreed_on_are_taken() {
    let (simple, structured, extended) = (*b"\x67\x44\x66\x98", *b"\x66\x8e\x33\xef", *b"\x6e\x8a\x27\x8c");
    let form = Err(WireError::Form);
    for (headers, sizes) in [
        (Headers::Simple, [Ok(16), form, form]),
        (Headers::Structured, [Ok(16), Ok(20), form]),
        (Headers::Extended, [form, form, Ok(32)]),
    ] {
        assert_eq!([simple, structured, extended].map(|magic| ReplyHead::size(magic, headers)), sizes, "{headers:?}");
        assert_eq!(ReplyHead::size(*b"HTTP", headers), Err(WireError::Magic));
    }
}

#[test]
fn holes_have_an_offset_and_32_bits_of_length() {
    let bytes = *b"\0\0\0\0\0\0\x10\0\0\0\x02\0";
    assert_eq!(hole(0x1000, 512), bytes);
    assert_eq!(Hole::decode(&bytes), Ok(Hole { offset: 0x1000, len: 512 }));
    assert_eq!(Hole::decode(&bytes[..11]), Err(WireError::Length));
    assert_eq!(Hole::decode(&hole(0, 0)), Err(WireError::Value));
}

#[test]
fn block_status_is_a_list_of_descriptors_after_its_context() {
    let extents = vec![Extent { len: 0x10000, flags: 3 }, Extent { len: 0x200, flags: 0 }];
    let compact = b"\0\0\0\x02\0\x01\0\0\0\0\0\x03\0\0\x02\0\0\0\0\0".to_vec();
    let wide = b"\0\0\0\x02\0\0\0\x02\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0".to_vec();
    for (headers, bytes) in [(Headers::Structured, compact), (Headers::Extended, wide)] {
        assert_eq!(status(2, &extents, headers), bytes);
        let decoded = Status::decode(&bytes, bytes.len() as u64, headers).unwrap();
        assert_eq!(decoded, Status { context: 2, extents: extents.clone() });
        for len in 0..bytes.len() {
            assert!(Status::decode(&bytes[..len], len as u64, headers).is_err() || len == 12, "{len} of {headers:?}");
        }
    }
}

#[test]
fn a_block_status_of_empty_extents_or_with_a_wrong_count_is_refused() {
    let empty = status(0, &[Extent { len: 0, flags: 0 }], Headers::Structured);
    assert_eq!(Status::decode(&empty, empty.len() as u64, Headers::Structured), Err(WireError::Value));
    let mut wrong = status(0, &[Extent { len: 512, flags: 0 }], Headers::Extended);
    wrong[7] = 2;
    assert_eq!(Status::decode(&wrong, wrong.len() as u64, Headers::Extended), Err(WireError::Length));
    let endless = 4 + 8 * (STATUS_EXTENTS_MAX as u64 + 1);
    assert_eq!(Status::decode(&empty, endless, Headers::Structured), Err(WireError::Length));
}

#[test]
fn a_client_that_wants_to_know_the_first_extents_alone_reads_those_alone() {
    let extents = vec![Extent { len: 512, flags: 1 }; 100];
    let bytes = status(0, &extents, Headers::Structured);
    let first = Status::decode(&bytes[..4 + 8 * 3], bytes.len() as u64, Headers::Structured).unwrap();
    assert_eq!(first.extents, extents[..3]);
}

#[test]
fn errors_have_a_message_and_may_have_an_offset() {
    let bytes = failure(error_number::IO, "no", Some(0x1000));
    assert_eq!(bytes, b"\0\0\0\x05\0\x02no\0\0\0\0\0\0\x10\0");
    let failed = Failure { error: 5, message: "no".into(), offset: Some(0x1000) };
    assert_eq!(Failure::decode(&bytes), Ok(failed.clone()));
    assert_eq!(Failure::decode(&bytes[..8]), Ok(Failure { offset: None, ..failed }));
    assert_eq!(Failure::decode(&bytes[..7]), Err(WireError::Length));
    assert_eq!(Failure::decode(&failure(0, "", None)), Err(WireError::Value), "an error that is none");
}

#[test]
fn a_message_that_is_too_long_ends_at_a_whole_character() {
    let bytes = failure(5, &"\u{20ac}".repeat(2000), None);
    assert_eq!(Failure::decode(&bytes).unwrap().message, "\u{20ac}".repeat(1365));
}

#[test]
fn errors_keep_their_meaning_from_end_to_end() {
    use crate::error::IoError::*;
    for error in [Io, NoSpace, Invalid, Permission, Unsupported, NoMemory] {
        assert_eq!(from_wire(to_wire(error)), error);
    }
    assert_eq!(from_wire(13), Invalid, "as QEMU takes a number that the protocol does not have");
    assert_eq!((to_wire(NoSpace), to_wire(Permission), to_wire(Unsupported)), (28, 1, 95));
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), len: u64) {
        for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
            let _ = Request::decode(&bytes, headers);
            let _ = ReplyHead::decode(&bytes, headers);
            let _ = Status::decode(&bytes, len, headers);
        }
        let _ = (Hole::decode(&bytes), Failure::decode(&bytes));
    }
}
