//! The builtin types, lists and boxes.
//!
//! Knows the two spellings of numbers and booleans (JSON and options) and what QEMU makes of each.

use serde_json::Value;

use super::Qapi;
use super::input::{Input, Mode};
use super::types::{Schema, Shape, TypeId};
use crate::error::QmpError;

/// A number of bytes, which options may write with a suffix (`64k`, `1.5M`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl Qapi for String {
    fn type_of(schema: &mut Schema) -> TypeId {
        schema.define("str", &[], |_| Shape::Builtin("string"))
    }

    fn decode(input: Input<'_>) -> Result<Self, QmpError> {
        input.string().map(str::to_owned)
    }

    fn encode(&self) -> Value {
        Value::from(self.as_str())
    }
}

impl Qapi for bool {
    fn type_of(schema: &mut Schema) -> TypeId {
        schema.define("bool", &[], |_| Shape::Builtin("boolean"))
    }

    fn decode(input: Input<'_>) -> Result<Self, QmpError> {
        if input.mode() == Mode::KeyVal {
            return match input.string()? {
                "on" | "yes" | "true" | "y" => Ok(true),
                "off" | "no" | "false" | "n" => Ok(false),
                _ => Err(input.expects("'on' or 'off'")),
            };
        }
        input.value().as_bool().ok_or_else(|| input.wrong_type("boolean"))
    }

    fn encode(&self) -> Value {
        Value::from(*self)
    }
}

/// Any JSON value, taken and given as it is.
impl Qapi for Value {
    fn type_of(schema: &mut Schema) -> TypeId {
        schema.define("any", &[], |_| Shape::Builtin("value"))
    }

    fn decode(input: Input<'_>) -> Result<Self, QmpError> {
        Ok(input.value().clone())
    }

    fn encode(&self) -> Value {
        self.clone()
    }
}

/// The JSON value `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Null;

impl Qapi for Null {
    fn type_of(schema: &mut Schema) -> TypeId {
        schema.define("null", &[], |_| Shape::Builtin("null"))
    }

    fn decode(input: Input<'_>) -> Result<Self, QmpError> {
        if input.value().is_null() { Ok(Self) } else { Err(input.wrong_type("null")) }
    }

    fn encode(&self) -> Value {
        Value::Null
    }
}

fn int_type(schema: &mut Schema) -> TypeId {
    schema.define("int", &[], |_| Shape::Builtin("int"))
}

impl Qapi for i64 {
    fn type_of(schema: &mut Schema) -> TypeId {
        int_type(schema)
    }

    fn decode(input: Input<'_>) -> Result<Self, QmpError> {
        if input.mode() == Mode::KeyVal {
            let number = integer(input.string()?).and_then(|number| Self::try_from(number).ok());
            return number.ok_or_else(|| input.expects("integer"));
        }
        input.value().as_i64().ok_or_else(|| input.wrong_type("integer"))
    }

    fn encode(&self) -> Value {
        Value::from(*self)
    }
}

impl Qapi for u64 {
    fn type_of(schema: &mut Schema) -> TypeId {
        int_type(schema)
    }

    fn decode(input: Input<'_>) -> Result<Self, QmpError> {
        if input.mode() == Mode::KeyVal {
            let number = integer(input.string()?).and_then(wrap);
            return number.ok_or_else(|| input.expects("integer"));
        }
        let value = input.value();
        let number = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
        number.ok_or_else(|| input.expects("uint64"))
    }

    fn encode(&self) -> Value {
        Value::from(*self)
    }
}

impl Qapi for Size {
    fn type_of(schema: &mut Schema) -> TypeId {
        int_type(schema)
    }

    fn decode(input: Input<'_>) -> Result<Self, QmpError> {
        if input.mode() == Mode::KeyVal {
            return size(input.string()?).map(Self).ok_or_else(|| input.expects("size"));
        }
        u64::decode(input).map(Self)
    }

    fn encode(&self) -> Value {
        Value::from(self.0)
    }
}

/// A narrower integer: decoded as `$wide`, then checked.
macro_rules! narrow {
    ($type:ty, $wide:ty, $name:literal) => {
        impl Qapi for $type {
            fn type_of(schema: &mut Schema) -> TypeId {
                int_type(schema)
            }

            fn decode(input: Input<'_>) -> Result<Self, QmpError> {
                let number = <$wide>::decode(input)?;
                Self::try_from(number).map_err(|_| {
                    let name = input.name();
                    QmpError::generic(format!("Parameter '{name}' expects {}", $name))
                })
            }

            fn encode(&self) -> Value {
                Value::from(*self)
            }
        }
    };
}

narrow!(u16, u64, "uint16_t");
narrow!(u32, u64, "uint32_t");
narrow!(i32, i64, "int32_t");

impl<T: Qapi> Qapi for Vec<T> {
    fn type_of(schema: &mut Schema) -> TypeId {
        let element = T::type_of(schema);
        let name = format!("[{}]", schema.get(element).name);
        schema.define(&name, &[], |_| Shape::Array(element))
    }

    fn decode(input: Input<'_>) -> Result<Self, QmpError> {
        input.elements(T::decode)
    }

    fn encode(&self) -> Value {
        Value::Array(self.iter().map(T::encode).collect())
    }
}

impl<T: Qapi> Qapi for Box<T> {
    fn type_of(schema: &mut Schema) -> TypeId {
        T::type_of(schema)
    }

    fn decode(input: Input<'_>) -> Result<Self, QmpError> {
        T::decode(input).map(Self::new)
    }

    fn encode(&self) -> Value {
        T::encode(self)
    }
}

/// An integer as C's `strtol` with base 0 reads it: sign, decimal, `0x` hexadecimal, `0` octal.
fn integer(text: &str) -> Option<i128> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    if !digits.starts_with(|digit: char| digit.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

/// An unsigned number; a negative one wraps around, as C's `strtoul` lets it.
fn wrap(number: i128) -> Option<u64> {
    match u64::try_from(number) {
        Ok(number) => Some(number),
        Err(_) => i64::try_from(number).ok().filter(|&n| n < 0).map(i64::cast_unsigned),
    }
}

/// A number of bytes: decimal with an optional fraction, or hexadecimal, and a suffix
/// (B, k, M, G, T, P, E; powers of 1024).
fn size(text: &str) -> Option<u64> {
    if text.starts_with("0x") || text.starts_with("0X") {
        return integer(text).and_then(|number| u64::try_from(number).ok());
    }
    let unit = |suffix: char| "bkmgtpe".find(suffix.to_ascii_lowercase()).map(|power| 10 * power);
    let last = text.chars().next_back()?;
    let (digits, shift) = match unit(last) {
        Some(shift) => (text.get(..text.len() - 1)?, shift),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let decimal = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || !decimal(whole) || !decimal(fraction) || fraction.len() > 18 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = format!("0{fraction}").parse::<u128>().ok()?;
    let whole = u128::from(whole.parse::<u64>().ok()?);
    if shift == 0 && fraction > 0 {
        return None;
    }
    // At most 64 + 60 bits, so neither sum nor shift overflows.
    u64::try_from((whole << shift) + ((fraction << shift) / scale)).ok()
}
