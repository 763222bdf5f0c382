//! The text of QMP: a stream of JSON values in, lines of ASCII JSON out.
//!
//! Knows no command and no type. Reading is incremental and follows QEMU's reader, also where it is
//! more liberal than RFC 8259 (single quotes) and in how it finds its way after bad input; memory per
//! value is bounded by the limits of [`limits`].

mod lexer;
mod parser;
mod print;
mod tokens;

#[cfg(test)]
mod tests;

pub use print::{to_line, to_pretty_lines};

pub use serde_json::Value;

use crate::error::QmpError;
use lexer::Lexer;
use tokens::Tokens;

/// The bounds on one value of the input. They are QEMU's.
pub mod limits {
    /// Bytes in all tokens of one value.
    pub const TOKEN_BYTES: usize = 64 << 20;
    /// Tokens of one value.
    pub const TOKENS: usize = 2 << 20;
    /// Arrays and objects inside one another.
    pub const NESTING: u32 = 1 << 10;
}

/// An incremental reader: bytes in any portions, values and errors out in the order of the text.
#[derive(Debug, Default)]
pub struct Reader {
    lexer: Lexer,
    tokens: Tokens,
}

impl Reader {
    /// Reads `bytes` and hands every value that they complete, or the error found instead, to `sink`.
    pub fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(Result<Value, QmpError>)) {
        for &byte in bytes {
            self.lexer.feed(byte, &mut |lexeme| self.tokens.push(lexeme, &mut sink));
        }
    }

    /// The end of the text: what was begun and is not complete is an error.
    pub fn finish(&mut self, mut sink: impl FnMut(Result<Value, QmpError>)) {
        self.lexer.finish(&mut |lexeme| self.tokens.push(lexeme, &mut sink));
        self.tokens.finish(&mut sink);
    }
}

/// Reads a text that has to be exactly one value.
///
/// # Errors
/// A syntax error, no value at all, or more than one.
pub fn parse(text: &str) -> Result<Value, QmpError> {
    let mut result = None;
    let mut sink = |value| {
        result = Some(match result.take() {
            None => value,
            Some(Ok(_)) => Err(QmpError::generic("Expecting at most one JSON value")),
            Some(error) => error,
        });
    };
    let mut reader = Reader::default();
    reader.feed(text.as_bytes(), &mut sink);
    reader.finish(&mut sink);
    result.unwrap_or_else(|| Err(QmpError::generic("Expecting a JSON value")))
}
