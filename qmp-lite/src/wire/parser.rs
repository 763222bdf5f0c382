//! The grammar: the tokens of one value become the value.
//!
//! Knows no limits: the tokens were counted and their nesting bounded when they were collected, so
//! the recursion here is bounded too. The texts of the errors and their order are QEMU's.

use serde_json::{Map, Number, Value};

use super::lexer::Kind;
use super::tokens::Tokens;
use crate::error::QmpError;

/// A walk over collected tokens.
pub(super) struct Parser<'a> {
    tokens: &'a Tokens,
    next: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(tokens: &'a Tokens) -> Self {
        Self { tokens, next: 0 }
    }

    /// The value that starts at the next token.
    pub(super) fn value(&mut self) -> Result<Value, QmpError> {
        let Some((kind, text)) = self.pop() else {
            return error("expecting value");
        };
        match kind {
            Kind::OpenBrace => self.object(),
            Kind::OpenBracket => self.array(),
            Kind::String => string(text).map(Value::String),
            Kind::Integer => integer(text),
            Kind::Float => float(text),
            Kind::Keyword => keyword(text),
            Kind::CloseBrace | Kind::CloseBracket | Kind::Colon | Kind::Comma => error("expecting value"),
        }
    }

    fn object(&mut self) -> Result<Value, QmpError> {
        let mut members = Map::new();
        if self.peek()? == Kind::CloseBrace {
            self.pop();
            return Ok(Value::Object(members));
        }
        loop {
            self.pair(&mut members)?;
            match self.pop() {
                None => return error("premature EOI"),
                Some((Kind::CloseBrace, _)) => return Ok(Value::Object(members)),
                Some((Kind::Comma, _)) => {}
                Some(_) => return error("expected separator in dict"),
            }
        }
    }

    fn pair(&mut self, members: &mut Map<String, Value>) -> Result<(), QmpError> {
        self.peek()?;
        let Value::String(key) = self.value()? else {
            return error("key is not a string in object");
        };
        match self.pop() {
            None => return error("premature EOI"),
            Some((Kind::Colon, _)) => {}
            Some(_) => return error("missing : in object pair"),
        }
        let value = self.value()?;
        if members.insert(key, value).is_some() {
            return error("duplicate key");
        }
        Ok(())
    }

    fn array(&mut self) -> Result<Value, QmpError> {
        let mut elements = Vec::new();
        if self.peek()? == Kind::CloseBracket {
            self.pop();
            return Ok(Value::Array(elements));
        }
        loop {
            elements.push(self.value()?);
            match self.pop() {
                None => return error("premature EOI"),
                Some((Kind::CloseBracket, _)) => return Ok(Value::Array(elements)),
                Some((Kind::Comma, _)) => {}
                Some(_) => return error("expected separator in list"),
            }
        }
    }

    fn pop(&mut self) -> Option<(Kind, &'a [u8])> {
        let token = self.tokens.get(self.next)?;
        self.next += 1;
        Some(token)
    }

    fn peek(&self) -> Result<Kind, QmpError> {
        match self.tokens.get(self.next) {
            Some((kind, _)) => Ok(kind),
            None => error("premature EOI"),
        }
    }
}

fn error<T>(what: &str) -> Result<T, QmpError> {
    Err(QmpError::generic(format!("JSON parse error, {what}")))
}

fn keyword(text: &[u8]) -> Result<Value, QmpError> {
    match text {
        b"true" => Ok(Value::Bool(true)),
        b"false" => Ok(Value::Bool(false)),
        b"null" => Ok(Value::Null),
        _ => error(&format!("invalid keyword '{}'", String::from_utf8_lossy(text))),
    }
}

fn integer(text: &[u8]) -> Result<Value, QmpError> {
    let digits = String::from_utf8_lossy(text);
    if let Ok(number) = digits.parse::<i64>() {
        return Ok(Value::from(number));
    }
    digits.parse::<u64>().map_or_else(|_| float(text), |number| Ok(Value::from(number)))
}

fn float(text: &[u8]) -> Result<Value, QmpError> {
    let number = String::from_utf8_lossy(text).parse::<f64>().ok();
    match number.and_then(Number::from_f64) {
        Some(number) => Ok(Value::Number(number)),
        None => error("number out of range"),
    }
}

/// The text of a string token (with its quotes).
fn string(token: &[u8]) -> Result<String, QmpError> {
    let mut text = String::with_capacity(token.len());
    let quote = token.first().copied().unwrap_or_default();
    let mut rest = token.get(1..).unwrap_or_default();
    while let Some(&byte) = rest.first().filter(|&&byte| byte != quote) {
        if byte == b'\\' {
            rest = escape(rest, &mut text)?;
        } else {
            rest = character(rest, &mut text)?;
        }
    }
    Ok(text)
}

/// Takes one character of UTF-8 and returns what follows it.
fn character<'a>(rest: &'a [u8], text: &mut String) -> Result<&'a [u8], QmpError> {
    // U+0000 as modified UTF-8 spells it.
    if let Some(after) = rest.strip_prefix(b"\xc0\x80") {
        text.push('\0');
        return Ok(after);
    }
    let len = match rest.first() {
        Some(0..=0x7f) => 1,
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        _ => 4,
    };
    let decoded = rest.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok());
    match decoded.and_then(|decoded| decoded.chars().next()) {
        Some(character) if valid(u32::from(character)) => {
            text.push(character);
            Ok(rest.get(len..).unwrap_or_default())
        }
        _ => error("invalid UTF-8 sequence in string"),
    }
}

/// Takes one escape sequence and returns what follows it.
fn escape<'a>(rest: &'a [u8], text: &mut String) -> Result<&'a [u8], QmpError> {
    let after = rest.get(2..).unwrap_or_default();
    let plain = match rest.get(1) {
        Some(&byte @ (b'"' | b'\'' | b'\\' | b'/')) => char::from(byte),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode(after, text),
        _ => return error("invalid escape sequence in string"),
    };
    text.push(plain);
    Ok(after)
}

/// Takes the digits of `\uXXXX`, and of a second one if the first is half of a pair.
fn unicode<'a>(digits: &'a [u8], text: &mut String) -> Result<&'a [u8], QmpError> {
    let shown = digits.get(..4).unwrap_or(digits);
    let after = digits.get(4..).unwrap_or_default();
    let mut code = hex4(digits);
    let mut rest = after;
    if let (Some(high @ 0xd800..=0xdbff), Some(second)) = (code, after.strip_prefix(b"\\u")) {
        code = match hex4(second) {
            Some(low @ 0xdc00..=0xdfff) => Some(0x10000 + ((high & 0x3ff) << 10) + (low & 0x3ff)),
            _ => None,
        };
        rest = second.get(4..).unwrap_or_default();
    }
    match code.filter(|&code| valid(code)).and_then(char::from_u32) {
        Some(character) => text.push(character),
        None => {
            let shown = String::from_utf8_lossy(shown);
            return error(&format!("\\u{shown} is not a valid Unicode character"));
        }
    }
    Ok(rest)
}

fn hex4(digits: &[u8]) -> Option<u32> {
    let digits = digits.get(..4)?;
    digits.iter().try_fold(0, |code, &digit| Some(code << 4 | char::from(digit).to_digit(16)?))
}

/// Surrogates and noncharacters are refused, as QEMU refuses them.
fn valid(code: u32) -> bool {
    !(0xfdd0..=0xfdef).contains(&code) && code & 0xfffe != 0xfffe
}
