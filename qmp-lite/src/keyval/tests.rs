//! Option texts against what QEMU makes of them.

use serde_json::{Value, json};

use super::{parse, parse_option};
use crate::schema::Mode;

#[track_caller]
fn check(text: &str, expected: Result<Value, &str>) {
    let read = parse(text, Some("driver")).map_err(|error| error.desc);
    assert_eq!(read, expected.map_err(str::to_owned), "{text}");
}

#[test]
fn keys_with_dots_are_objects_and_numbers_are_lists() {
    check("", Ok(json!({})));
    check("raw,a.b.c=1,a.d=2", Ok(json!({"driver": "raw", "a": {"b": {"c": "1"}, "d": "2"}})));
    check("l.1=y,l.0=x", Ok(json!({"l": ["x", "y"]})));
    check("l.00.e=x", Ok(json!({"l": [{"e": "x"}]})));
    check("l.0.0=x", Ok(json!({"l": [["x"]]})));
    check("driver=a,driver=b", Ok(json!({"driver": "b"})));
    check("__org.x_foo.y=a", Ok(json!({"__org.x_foo": {"y": "a"}})));
    check("a=", Ok(json!({"a": ""})));
    check("raw,", Ok(json!({"driver": "raw"})));
}

#[test]
fn doubled_commas_are_commas_in_values() {
    check("f=/a,,b,x=,,,y=,,,,", Ok(json!({"f": "/a,b", "x": ",", "y": ",,"})));
    check("a=b=c", Ok(json!({"a": "b=c"})));
}

#[test]
fn malformed_options_have_the_texts_of_qemu() {
    check("driver=raw,foo", Err("Expected '=' after parameter 'foo'"));
    check("a.b=c,null-co", Err("Expected '=' after parameter 'null-co'"));
    check("a=b,=x", Err("Invalid parameter ''"));
    check(",x=1", Err("Invalid parameter ''"));
    check("null-co,,x,a=b", Err("Invalid parameter ''"));
    check("a=b,fi..le=x", Err("Invalid parameter 'fi..le'"));
    check("a=b,0.le=x", Err("Invalid parameter '0.le'"));
    check("a=b,9x=a", Err("Invalid parameter '9x'"));
    check("a=b,a.c=d", Err("Parameters 'a.*' used inconsistently"));
    check("a.c=d,a=b", Err("Parameters 'a.*' used inconsistently"));
    check("a.b=c,a.b.c=d", Err("Parameters 'a.b.*' used inconsistently"));
    check("l.0.e=x,l.2.e=x", Err("Parameter 'l.1' missing"));
    check("l.9999999999999999999999.e=x", Err("Parameter 'l.0' missing"));
    check("l.0.e=x,l.x.e=x", Err("Parameters 'l.*' used inconsistently"));
    check("a=b,__x=a", Err("Invalid parameter '__x'"));
    check("a=b,__org.x_=a", Err("Invalid parameter '__org.x_'"));
    let long = "a".repeat(128);
    check(&format!("{long}=1"), Err(&format!("Parameter '{long}' is too long")));
    check(&format!("a.{long}=1"), Err(&format!("Parameter fragment '{long}' is too long")));
}

#[test]
fn an_option_that_begins_with_a_brace_is_json() {
    assert_eq!(parse_option("{'a': 1}", None), Ok((json!({"a": 1}), Mode::Json)));
    assert_eq!(parse_option("a=1", None), Ok((json!({"a": "1"}), Mode::KeyVal)));
    let error = parse_option("{'a': 1", None).unwrap_err();
    assert_eq!(error.desc, "JSON parse error, premature EOI");
    let error = parse_option("nokey", None).unwrap_err();
    assert_eq!(error.desc, "Expected '=' after parameter 'nokey'");
}
