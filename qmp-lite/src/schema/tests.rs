//! Decoding, encoding and description of one small family of types, against QEMU's texts.

use serde_json::{Value, json};

use super::{Input, Mode, Qapi, Schema, Size, introspect, markdown};
use crate::schema::{Empty, qapi_alternate, qapi_enum, qapi_struct, qapi_union};

qapi_enum! {
    /// A colour.
    pub enum Colour "Colour" {
        /// Like blood.
        Red = "red",
        /// Like grass.
        Green = "green",
    }
    unsupported "Colour" ["blue"]
}

qapi_struct! {
    /// Some numbers.
    pub struct Numbers "Numbers" {
        /// Any integer.
        "an-int" an_int: i64,
        /// A small one.
        "small" small: Option<u16>,
        /// A size.
        "size" size: Option<Size>,
        /// A switch.
        "on" on: Option<bool>,
        /// Inner ones.
        "list" list: Option<Vec<Numbers>>,
    }
}

qapi_alternate! {
    /// A thing or its name.
    pub enum ThingRef "ThingRef" {
        /// The thing.
        "definition" Definition(Box<Thing>): Object,
        /// Its name.
        "reference" Reference(String): String,
    }
}

qapi_struct! {
    /// What red things have.
    pub struct RedThing "RedThing" {
        /// Another thing.
        "next" next: ThingRef,
    }
}

qapi_union! {
    /// A thing.
    pub struct Thing "Thing" {
        /// Its colour.
        "colour" colour: Colour,
        /// Its name.
        "name" name: Option<String>,
    }
    /// What depends on the colour.
    pub enum ThingBranch by "colour" colour: Colour {
        /// Red.
        Red(RedThing),
        /// Green.
        Green(Empty),
    }
}

fn decode<T: Qapi>(value: &Value, mode: Mode) -> Result<T, String> {
    T::decode(Input::new(value, mode)).map_err(|error| error.desc)
}

#[track_caller]
fn refused<T: Qapi + std::fmt::Debug>(value: Value, mode: Mode, text: &str) {
    assert_eq!(decode::<T>(&value, mode).unwrap_err(), text, "{value}");
}

#[test]
fn json_values_of_the_wrong_type_are_named_with_their_path() {
    let json = |value: Value, text: &str| refused::<Numbers>(value, Mode::Json, text);
    let wrong = "Invalid parameter type for";
    json(json!({}), "Parameter 'an-int' is missing");
    json(json!({"an-int": "1"}), &format!("{wrong} 'an-int', expected: integer"));
    json(json!({"an-int": 1.5}), &format!("{wrong} 'an-int', expected: integer"));
    json(json!({"an-int": u64::MAX}), &format!("{wrong} 'an-int', expected: integer"));
    json(json!({"an-int": null}), &format!("{wrong} 'an-int', expected: integer"));
    json(json!({"an-int": 1, "small": -1}), "Parameter 'small' expects uint16_t");
    json(json!({"an-int": 1, "small": 65536}), "Parameter 'small' expects uint16_t");
    json(json!({"an-int": 1, "small": "1"}), "Parameter 'small' expects uint64");
    json(json!({"an-int": 1, "size": "1k"}), "Parameter 'size' expects uint64");
    json(json!({"an-int": 1, "on": "on"}), &format!("{wrong} 'on', expected: boolean"));
    json(json!({"an-int": 1, "list": {}}), &format!("{wrong} 'list', expected: array"));
    json(json!({"an-int": 1, "list": [3]}), &format!("{wrong} 'list[0]', expected: object"));
    let inner = json!({"an-int": 1, "list": [{"an-int": 1}, {"an-int": 1, "x": 1}]});
    json(inner, "Parameter 'list[1].x' is unexpected");
    json(json!({"an-int": 1, "y": null}), "Parameter 'y' is unexpected");
}

#[test]
fn option_strings_are_read_as_numbers_sizes_and_switches() {
    let value = json!({"an-int": "-0x10", "small": " +010", "size": "1.5k", "on": "yes"});
    let numbers: Numbers = decode(&value, Mode::KeyVal).unwrap();
    assert_eq!(numbers.an_int, -16);
    assert_eq!(numbers.small, Some(8));
    assert_eq!(numbers.size, Some(Size(1536)));
    assert_eq!(numbers.on, Some(true));
    for (text, bytes) in [("4k", 4096), ("0x200", 512), ("512B", 512), ("1M", 1 << 20), ("7", 7)] {
        let value = json!({"an-int": "0", "size": text});
        assert_eq!(decode::<Numbers>(&value, Mode::KeyVal).unwrap().size, Some(Size(bytes)));
    }
}

#[test]
fn option_strings_that_do_not_fit_are_named_with_their_path() {
    let options = |value: Value, text: &str| refused::<Numbers>(value, Mode::KeyVal, text);
    options(json!({"an-int": "1k"}), "Parameter 'an-int' expects integer");
    options(json!({"an-int": ""}), "Parameter 'an-int' expects integer");
    options(json!({"an-int": "99999999999999999999"}), "Parameter 'an-int' expects integer");
    options(json!({"an-int": {"x": "1"}}), "Parameters 'an-int.*' are unexpected");
    options(json!({"an-int": "1", "small": "-1"}), "Parameter 'small' expects uint16_t");
    options(json!({"an-int": "1", "on": "1"}), "Parameter 'on' expects 'on' or 'off'");
    for size in ["4kk", "-1", "99999999999999999999", "", "k", "1.5", "16E", "0x"] {
        options(json!({"an-int": "1", "size": size}), "Parameter 'size' expects size");
    }
    let inner = json!({"an-int": "1", "list": [{"an-int": "1"}, {}]});
    options(inner, "Parameter 'list.1.an-int' is missing");
}

#[test]
fn a_union_has_the_members_of_its_branch_and_no_others() {
    let green = json!({"name": "n", "colour": "green"});
    let thing: Thing = decode(&green, Mode::Json).unwrap();
    assert_eq!(thing.branch, ThingBranch::Green(Empty {}));
    let red = json!({"colour": "red", "next": {"colour": "red", "next": "name"}});
    let thing: Thing = decode(&red, Mode::Json).unwrap();
    assert_eq!(thing.encode(), red);
    let json = |value: Value, text: &str| refused::<Thing>(value, Mode::Json, text);
    json(json!({}), "Parameter 'colour' is missing");
    json(json!({"colour": "pink"}), "Parameter 'colour' does not accept value 'pink'");
    json(json!({"colour": "blue"}), "Colour 'blue' is not supported");
    json(json!({"colour": "red"}), "Parameter 'next' is missing");
    json(json!({"colour": "green", "next": "x"}), "Parameter 'next' is unexpected");
    let wrong = "Invalid parameter type for 'next', expected: ThingRef";
    json(json!({"colour": "red", "next": 5}), wrong);
    let inner = json!({"colour": "red", "next": {"colour": "green", "x": 1}});
    json(inner, "Parameter 'next.x' is unexpected");
}

#[test]
fn a_value_of_an_enum_in_a_list_is_called_null_as_qemu_calls_it() {
    let value = json!(["pink"]);
    refused::<Vec<Colour>>(value, Mode::Json, "Parameter 'null' does not accept value 'pink'");
    refused::<Vec<Colour>>(json!([1]), Mode::Json, "Invalid parameter type for '[0]', expected: string");
}

#[test]
fn the_schema_says_what_was_declared() {
    let mut schema = Schema::default();
    Thing::type_of(&mut schema);
    let infos = introspect::types(&schema);
    let thing = infos.iter().find(|info| info["tag"] == "colour").unwrap();
    assert_eq!(thing["meta-type"], "object");
    assert_eq!(thing["members"][0]["name"], "colour");
    assert_eq!(thing["members"][0].get("default"), None);
    assert_eq!(thing["members"][1]["default"], Value::Null);
    assert_eq!(thing["members"][1]["type"], "str");
    let case = |name: &str| {
        let variants = thing["variants"].as_array().unwrap();
        let id = &variants.iter().find(|variant| variant["case"] == name).unwrap()["type"];
        infos.iter().find(|info| &info["name"] == id).unwrap().clone()
    };
    assert_eq!(case("green")["members"], json!([]));
    assert_eq!(case("red")["members"][0]["name"], "next");
    let alternate = infos.iter().find(|info| info["meta-type"] == "alternate").unwrap();
    assert_eq!(alternate["members"][0]["type"], thing["name"]);
    let colour = infos.iter().find(|info| info["meta-type"] == "enum").unwrap();
    assert_eq!(colour["values"], json!(["red", "green"]));
}

#[test]
fn the_reference_says_what_was_declared() {
    let mut schema = Schema::default();
    let id = Thing::type_of(&mut schema);
    let members = markdown::members(&schema, id);
    assert!(members.contains("* `colour` ([Colour](#colour)): Its colour.\n"), "{members}");
    assert!(members.contains("* `name` (str, optional): Its name.\n"), "{members}");
    let branch = "* when `colour` is `red`: the members of [RedThing](#redthing)\n";
    assert!(members.contains(branch), "{members}");
    let types = markdown::types(&schema);
    assert!(types.contains("### Colour\n\nA colour.\n\n* `\"red\"`: Like blood.\n"), "{types}");
}
