//! Collects the tokens of one value, until its brackets balance, and has them parsed.
//!
//! Knows the limits and where a value ends, not what it means. Whatever is collected is dropped with
//! the value it belongs to, complete or not.

use serde_json::Value;

use super::lexer::{Kind, Lexeme};
use super::limits::{NESTING, TOKEN_BYTES, TOKENS};
use super::parser::Parser;
use crate::error::QmpError;

/// A token as a piece of the collected text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) kind: Kind,
    start: u32,
    end: u32,
}

/// The tokens of a value so far.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    text: Vec<u8>,
    spans: Vec<Span>,
    braces: i32,
    brackets: i32,
}

impl Tokens {
    /// Adds what the lexer found; a complete value or an error goes to `sink`.
    pub(super) fn push(&mut self, lexeme: Lexeme<'_>, sink: &mut impl FnMut(Result<Value, QmpError>)) {
        let outcome = match lexeme {
            Lexeme::Token(kind, text) => match self.collect(kind, text) {
                Ok(false) => return,
                Ok(true) => self.parse(),
                Err(error) => Err(error),
            },
            Lexeme::Stray(text) => Err(stray(text)),
            Lexeme::TooLong => Err(QmpError::generic("JSON token size limit exceeded")),
        };
        self.restart();
        sink(outcome);
    }

    /// The end of the text.
    pub(super) fn finish(&mut self, sink: &mut impl FnMut(Result<Value, QmpError>)) {
        if !self.spans.is_empty() {
            let outcome = self.parse();
            self.restart();
            sink(outcome);
        }
    }

    /// The token at `index` with its text.
    pub(super) fn get(&self, index: usize) -> Option<(Kind, &[u8])> {
        let span = self.spans.get(index)?;
        let text = self.text.get(span.start as usize..span.end as usize)?;
        Some((span.kind, text))
    }

    /// Adds a token; true if the value ends with it.
    fn collect(&mut self, kind: Kind, text: &[u8]) -> Result<bool, QmpError> {
        match kind {
            Kind::OpenBrace => self.braces += 1,
            Kind::CloseBrace => self.braces -= 1,
            Kind::OpenBracket => self.brackets += 1,
            Kind::CloseBracket => self.brackets -= 1,
            _ => {}
        }
        let limit = |what| Err(QmpError::generic(format!("JSON {what} limit exceeded")));
        if self.text.len() + text.len() + 1 > TOKEN_BYTES {
            return limit("token size");
        }
        if self.spans.len() + 1 > TOKENS {
            return limit("token count");
        }
        if i64::from(self.braces) + i64::from(self.brackets) > i64::from(NESTING) {
            return limit("nesting depth");
        }
        let place = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let start = place(self.text.len());
        self.text.extend_from_slice(text);
        self.spans.push(Span { kind, start, end: place(self.text.len()) });
        let open = self.braces > 0 || self.brackets > 0;
        Ok(!(open && self.braces >= 0 && self.brackets >= 0))
    }

    fn parse(&self) -> Result<Value, QmpError> {
        Parser::new(self).value()
    }

    fn restart(&mut self) {
        self.braces = 0;
        self.brackets = 0;
        self.text.clear();
        self.text.shrink_to(4096);
        self.spans.clear();
        self.spans.shrink_to(512);
    }
}

fn stray(text: &[u8]) -> QmpError {
    let shown = text.split(|&byte| byte == 0).next().unwrap_or_default();
    QmpError::generic(format!("JSON parse error, stray '{}'", String::from_utf8_lossy(shown)))
}
