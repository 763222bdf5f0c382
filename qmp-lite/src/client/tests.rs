//! A schema as servers give it, and arguments as people type them.

use serde_json::json;

use super::{Arguments, Introspection};

fn server() -> Introspection {
    let schema = json!([
        {"name": "go", "meta-type": "command", "arg-type": "0", "ret-type": "9"},
        {"name": "0", "meta-type": "object", "tag": "kind", "members": [
            {"name": "kind", "type": "1"}, {"name": "size", "type": "int"}, {"name": "name", "type": "str"},
            {"name": "flag", "type": "bool"}, {"name": "file", "type": "3"}, {"name": "names", "type": "[str]"},
            {"name": "numbers", "type": "[int]"}, {"name": "maybe", "type": "5"}],
            "variants": [{"case": "a", "type": "6"}, {"case": "b", "type": "7"}]},
        {"name": "1", "meta-type": "enum", "values": ["a", "b"], "members": [{"name": "a"}, {"name": "b"}]},
        {"name": "2", "meta-type": "object", "members": [{"name": "direct", "type": "bool"}]},
        {"name": "3", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "2"}]},
        {"name": "5", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "null"}]},
        {"name": "6", "meta-type": "object", "members": [{"name": "extra", "type": "str"}]},
        {"name": "7", "meta-type": "object", "members": [{"name": "extra", "type": "int"}]},
        {"name": "int", "meta-type": "builtin", "json-type": "int"},
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
        {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
        {"name": "null", "meta-type": "builtin", "json-type": "null"},
        {"name": "[str]", "meta-type": "array", "element-type": "str"},
        {"name": "[int]", "meta-type": "array", "element-type": "int"},
    ]);
    Introspection::new(&json!([{"name": "go"}, {"name": "come"}]), schema)
}

fn check(words: &[&str], expected: serde_json::Value) {
    let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
    let arguments = Arguments::parse(&words, "go", &server()).unwrap();
    assert_eq!(arguments.value(), expected, "{words:?}");
}

#[test]
fn a_value_becomes_what_the_server_says_the_argument_is() {
    check(&["size=10", "name=10", "flag=on"], json!({"size": 10, "name": "10", "flag": true}));
    check(&["size=2G", "flag=false"], json!({"size": 2u64 << 30, "flag": false}));
    check(&["name=a,b=c", "kind=a"], json!({"name": "a,b=c", "kind": "a"}));
    check(&["names.0=1", "names.1=x", "numbers.0=1"], json!({"names": ["1", "x"], "numbers": [1]}));
    check(&["maybe=null"], json!({"maybe": null}));
}

#[test]
fn one_of_several_types_is_chosen_by_its_form() {
    check(&["file=disk0"], json!({"file": "disk0"}));
    check(&["file.direct=on"], json!({"file": {"direct": true}}));
    check(&["file={\"direct\": true}"], json!({"file": {"direct": true}}));
}

#[test]
fn a_variant_is_chosen_by_its_tag() {
    check(&["kind=a", "extra=1"], json!({"kind": "a", "extra": "1"}));
    check(&["extra=1", "kind=b"], json!({"extra": 1, "kind": "b"}));
}

#[test]
fn what_is_given_as_json_stays_what_it_is() {
    check(&["name:=10", "numbers:=[1, 2]"], json!({"name": 10, "numbers": [1, 2]}));
    check(&["{\"size\": \"x\"}"], json!({"size": "x"}));
}

#[test]
fn of_an_unknown_argument_the_form_decides() {
    check(&["x=1", "y=word", "z=[true]"], json!({"x": 1, "y": "word", "z": [true]}));
}

#[test]
fn what_does_not_fit_is_left_for_the_server_to_refuse() {
    check(&["size=big", "flag=maybe"], json!({"size": "big", "flag": "maybe"}));
}

#[test]
fn a_word_that_is_no_argument_is_refused() {
    for words in [&["size"][..], &["=1"], &["a..b=1"], &["name:=word"], &["{"]] {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        assert!(Arguments::parse(&words, "go", &server()).is_err(), "{words:?}");
    }
}

#[test]
fn commands_arguments_and_values_are_known_for_completion() {
    let server = server();
    assert_eq!(server.commands().collect::<Vec<_>>(), ["come", "go"]);
    let arguments = server.arguments("go");
    assert_eq!(
        arguments,
        ["extra", "file", "file.direct", "flag", "kind", "maybe", "name", "names", "numbers", "size"]
    );
    assert_eq!(server.values("go", "kind"), ["a", "b"]);
    assert_eq!(server.values("go", "file.direct"), ["on", "off"]);
    assert!(server.values("go", "name").is_empty());
    assert!(server.arguments("come").is_empty());
}
