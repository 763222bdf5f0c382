//! The reader against what QEMU's reader answers to the same bytes, and against itself in portions.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Reader, limits, parse, to_line, to_pretty_lines};
use crate::error::QmpError;

/// All values and errors of a text.
fn read(bytes: &[u8]) -> Vec<Result<Value, String>> {
    read_in_portions(bytes, bytes.len().max(1))
}

fn read_in_portions(bytes: &[u8], portion: usize) -> Vec<Result<Value, String>> {
    let mut reader = Reader::default();
    let mut found = Vec::new();
    for bytes in bytes.chunks(portion) {
        reader.feed(bytes, |value| found.push(value.map_err(|error| error.desc)));
    }
    found
}

#[track_caller]
fn check(bytes: impl AsRef<[u8]>, expected: &[Result<Value, &str>]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|value| match value {
            Ok(value) => Ok(value.clone()),
            Err(text) => Err(format!("JSON {text}")),
        })
        .collect();
    assert_eq!(read(bytes.as_ref()), expected);
}

#[test]
fn several_values_on_a_line_and_one_value_on_several_lines_are_read() {
    check("{'a':1}{\"b\":[true,null]} [2]\r\n", &[Ok(json!({"a": 1})), Ok(json!({"b": [true, null]})), Ok(json!([2]))]);
    check("{\n\"a\"\t:\r\n1\n}", &[Ok(json!({"a": 1}))]);
    check("1", &[]);
    check("1 ", &[Ok(json!(1))]);
}

#[test]
fn syntax_errors_have_the_texts_of_qemu() {
    let expecting = || Err("parse error, expecting value");
    check("{\"execute\": }", &[expecting()]);
    check("}", &[expecting()]);
    check("{\"a\":1,}", &[expecting()]);
    check("[1,]", &[expecting()]);
    check("[[[}", &[expecting()]);
    check("[[[}]]]", &[expecting(), expecting(), expecting(), expecting()]);
    check("foo ", &[Err("parse error, invalid keyword 'foo'")]);
    check("tru}", &[Err("parse error, invalid keyword 'tru'"), expecting()]);
    check("{\"a\" 1}", &[Err("parse error, missing : in object pair")]);
    check("{1:2}", &[Err("parse error, key is not a string in object")]);
    check("{\"a\":1 \"b\":2}", &[Err("parse error, expected separator in dict")]);
    check("{\"a\":1]", &[Err("parse error, expected separator in dict")]);
    check("[1 2]", &[Err("parse error, expected separator in list")]);
    check("{\"a\":1,\"a\":2}", &[Err("parse error, duplicate key")]);
}

#[test]
fn bad_strings_have_the_texts_of_qemu() {
    check(r#"{"a":"\x"}"#, &[Err("parse error, invalid escape sequence in string")]);
    for (text, shown) in [
        (r#""\ud800""#, r"\ud800"),
        (r#""\ud800\u0041""#, r"\ud800"),
        (r#""\u12""#, r#"\u12""#),
        (r#""\uzzzz""#, r"\uzzzz"),
        (r#""\uffff""#, r"\uffff"),
    ] {
        let error = format!("parse error, {shown} is not a valid Unicode character");
        check(text, &[Err(error.as_str())]);
    }
    check(b"\"\xc3(\"", &[Err("parse error, invalid UTF-8 sequence in string")]);
    check(b"\"a\tb\"\n", &[Err("parse error, stray '\"a\t'")]);
    check(
        r#"'a\'b' "\ud83d\ude00\u0000\b\f\n\r\t\/\\\"""#,
        &[Ok(json!("a'b")), Ok(json!("\u{1f600}\0\u{8}\u{c}\n\r\t/\\\""))],
    );
}

#[test]
fn the_reader_goes_on_after_stray_bytes() {
    check(b"\xff{\"a\":1}", &[Err("parse error, stray '\u{fffd}'"), Ok(json!({"a": 1}))]);
    check(b"\0{}", &[Err("parse error, stray ''"), Ok(json!({}))]);
    check("@@@ x {}", &[Err("parse error, stray '@'"), Ok(json!({}))]);
    check("01 -\n1.x\n5\n", &[Err("parse error, stray '01'"), Err("parse error, stray '1.x'"), Ok(json!(5))]);
    check("{\"a\":@@@\"x\"}{}", &[Err("parse error, stray '@'"), Err("parse error, expecting value"), Ok(json!({}))]);
}

#[test]
fn numbers_keep_their_64_bits() {
    check(
        "[18446744073709551615,-9223372036854775808,-0,1.5e3,0.25]",
        &[Ok(json!([u64::MAX, i64::MIN, 0, 1500.0, 0.25]))],
    );
    check("[18446744073709551616]", &[Ok(json!([18_446_744_073_709_551_616.0]))]);
    check("[1e999]", &[Err("parse error, number out of range")]);
}

#[test]
fn nesting_beyond_the_limit_is_an_error_and_the_next_value_is_read() {
    let depth = usize::try_from(limits::NESTING).unwrap();
    let mut text = "[".repeat(depth) + &"]".repeat(depth);
    assert!(read(text.as_bytes())[0].is_ok());
    text = "[".repeat(depth + 1);
    text.push_str("{}");
    check(text, &[Err("nesting depth limit exceeded"), Ok(json!({}))]);
}

#[test]
fn more_tokens_than_the_limit_are_an_error() {
    let mut text = b"[".to_vec();
    text.resize(limits::TOKENS + 1, b',');
    check(text, &[Err("token count limit exceeded")]);
}

#[test]
fn a_string_longer_than_the_limit_is_an_error() {
    let mut text = b"\"".to_vec();
    text.resize(limits::TOKEN_BYTES + 1, b'a');
    check(text, &[Err("token size limit exceeded")]);
}

#[test]
fn a_text_that_has_to_be_one_value_is_refused_when_it_is_less_or_more() {
    let error = |desc: &str| Err(QmpError::generic(desc));
    assert_eq!(parse("{\"a\":1} "), Ok(json!({"a": 1})));
    assert_eq!(parse("12"), Ok(json!(12)));
    assert_eq!(parse(""), error("Expecting a JSON value"));
    assert_eq!(parse("{"), error("JSON parse error, premature EOI"));
    assert_eq!(parse("\"a"), error("JSON parse error, stray '\"a'"));
    assert_eq!(parse("{} {}"), error("Expecting at most one JSON value"));
    assert_eq!(parse("{}}"), error("Expecting at most one JSON value"));
}

#[test]
fn output_is_one_line_of_ascii_as_qemu_prints_it() {
    let value = json!({"a": [1, {}, []], "é\u{1f600}": "\"\\/\u{8}\u{c}\n\r\t\u{1}\u{7f}<>&"});
    assert_eq!(
        to_line(&value),
        concat!(
            "{\"a\": [1, {}, []], \"\\u00E9\\uD83D\\uDE00\": ",
            "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u007F<>&\"}\r\n"
        )
    );
}

#[test]
fn pretty_output_is_indented_as_qemu_indents_it() {
    assert_eq!(to_pretty_lines(&json!({"return": {}})), "{\r\n    \"return\": {\r\n    }\r\n}\r\n");
    assert_eq!(
        to_pretty_lines(&json!([1, [], {"a": [2, 3]}])),
        concat!(
            "[\r\n    1,\r\n    [\r\n    ],\r\n    {\r\n        \"a\": [\r\n",
            "            2,\r\n            3\r\n        ]\r\n    }\r\n]\r\n"
        )
    );
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::from),
        "[^\u{fdd0}-\u{fdef}\u{fffe}\u{ffff}]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,4}", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn noncharacter(character: char) -> bool {
    let code = u32::from(character);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(value in any_value()) {
        let line = to_line(&value);
        prop_assert!(line.is_ascii());
        if !line.is_empty() && !value.to_string().chars().any(noncharacter) {
            prop_assert_eq!(read(line.as_bytes()), vec![Ok(value)]);
        }
    }

    #[test]
    fn values_that_serde_json_reads_are_read_alike(text in "[\\[\\]{}:,\"a-f0-9.eE+\\- tru]{0,24}") {
        if let Ok(value) = serde_json::from_str::<Value>(&text)
            && !text.contains(['e', 'E', '.']) {
            // QEMU refuses duplicate keys, serde_json takes the last.
            match parse(&text) {
                Ok(read) => prop_assert_eq!(read, value),
                Err(error) => prop_assert_eq!(error.desc, "JSON parse error, duplicate key"),
            }
        }
    }

    #[test]
    fn portions_make_no_difference(bytes in prop::collection::vec(any::<u8>(), 0..200),
                                   portion in 1_usize..20) {
        prop_assert_eq!(read_in_portions(&bytes, portion), read(&bytes));
    }
}
