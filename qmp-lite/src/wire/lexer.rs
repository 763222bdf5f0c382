//! Splits bytes into tokens, one byte at a time.
//!
//! Knows no grammar. After a byte that fits no token everything is skipped until a structural
//! character or a control character, so that one bad token costs one error, not the connection.

use super::limits::TOKEN_BYTES;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    Colon,
    Comma,
    Integer,
    Float,
    Keyword,
    String,
}

/// What the lexer finds: a token with its text, or text that is no token.
#[derive(Debug)]
pub(super) enum Lexeme<'a> {
    Token(Kind, &'a [u8]),
    Stray(&'a [u8]),
    TooLong,
}

/// Where inside a token the lexer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Recovery,
    String(u8),
    Escape(u8),
    Sign,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
}

/// What one byte does.
enum Step {
    /// The byte belongs to the token; go on in this state.
    Into(State),
    /// The byte completes the token.
    Ends(Kind),
    /// The token was complete before this byte.
    EndsBefore(Kind),
    /// The byte fits nowhere.
    Stray,
    /// The byte ends the recovery from an error and starts a token.
    Resume,
}

/// The state between two bytes.
#[derive(Debug, Default)]
pub(super) struct Lexer {
    state: State,
    text: Vec<u8>,
}

impl Lexer {
    /// Takes one byte and reports what it completes.
    pub(super) fn feed(&mut self, byte: u8, sink: &mut impl FnMut(Lexeme<'_>)) {
        loop {
            match step(self.state, byte) {
                Step::Into(state) => {
                    if state != State::Start && state != State::Recovery {
                        self.text.push(byte);
                    }
                    self.state = state;
                    break;
                }
                Step::Ends(kind) => {
                    self.text.push(byte);
                    self.emit(kind, sink);
                    break;
                }
                Step::EndsBefore(kind) => self.emit(kind, sink),
                Step::Resume => self.state = State::Start,
                Step::Stray => {
                    self.text.push(byte);
                    self.stray(sink);
                    break;
                }
            }
        }
        if self.text.len() > TOKEN_BYTES {
            self.restart();
            sink(Lexeme::TooLong);
        }
    }

    /// The end of the text completes numbers and keywords; anything else unfinished is stray.
    pub(super) fn finish(&mut self, sink: &mut impl FnMut(Lexeme<'_>)) {
        match step(self.state, b'\n') {
            Step::EndsBefore(kind) => self.emit(kind, sink),
            Step::Stray => self.stray(sink),
            Step::Into(_) | Step::Ends(_) | Step::Resume => {}
        }
        self.restart();
    }

    fn emit(&mut self, kind: Kind, sink: &mut impl FnMut(Lexeme<'_>)) {
        sink(Lexeme::Token(kind, &self.text));
        self.restart();
    }

    fn stray(&mut self, sink: &mut impl FnMut(Lexeme<'_>)) {
        sink(Lexeme::Stray(&self.text));
        self.restart();
        self.state = State::Recovery;
    }

    fn restart(&mut self) {
        self.state = State::Start;
        self.text.clear();
        // One huge string must not keep its memory for the rest of the connection.
        self.text.shrink_to(4096);
    }
}

fn step(state: State, byte: u8) -> Step {
    match (state, byte) {
        (State::Start, _) => start(byte),
        (State::Recovery, b'{' | b'}' | b'[' | b']' | b':' | b',' | 0..=0x1f | 0xfe..) => Step::Resume,
        (State::Recovery, _) => Step::Into(State::Recovery),
        (State::String(_) | State::Escape(_), 0..=0x1f | 0xfe..) => Step::Stray,
        (State::String(quote), _) if byte == quote => Step::Ends(Kind::String),
        (State::String(quote), b'\\') => Step::Into(State::Escape(quote)),
        (State::String(quote) | State::Escape(quote), _) => Step::Into(State::String(quote)),
        (State::Keyword, b'a'..=b'z') => Step::Into(State::Keyword),
        (State::Keyword, _) => Step::EndsBefore(Kind::Keyword),
        _ => number(state, byte),
    }
}

fn start(byte: u8) -> Step {
    match byte {
        b'"' | b'\'' => Step::Into(State::String(byte)),
        b'{' => Step::Ends(Kind::OpenBrace),
        b'}' => Step::Ends(Kind::CloseBrace),
        b'[' => Step::Ends(Kind::OpenBracket),
        b']' => Step::Ends(Kind::CloseBracket),
        b':' => Step::Ends(Kind::Colon),
        b',' => Step::Ends(Kind::Comma),
        b'-' => Step::Into(State::Sign),
        b'0' => Step::Into(State::Zero),
        b'1'..=b'9' => Step::Into(State::Digits),
        b'a'..=b'z' => Step::Into(State::Keyword),
        b' ' | b'\t' | b'\r' | b'\n' => Step::Into(State::Start),
        _ => Step::Stray,
    }
}

fn number(state: State, byte: u8) -> Step {
    match (state, byte) {
        (State::Sign, b'0') => Step::Into(State::Zero),
        (State::Sign, b'1'..=b'9') | (State::Digits, b'0'..=b'9') => Step::Into(State::Digits),
        (State::Zero | State::Digits, b'.') => Step::Into(State::Point),
        (State::Zero, b'0'..=b'9') => Step::Stray,
        (State::Digits | State::Fraction, b'e' | b'E') => Step::Into(State::Exponent),
        (State::Zero | State::Digits, _) => Step::EndsBefore(Kind::Integer),
        (State::Point | State::Fraction, b'0'..=b'9') => Step::Into(State::Fraction),
        (State::Exponent, b'+' | b'-') => Step::Into(State::ExponentSign),
        (State::Exponent | State::ExponentSign | State::ExponentDigits, b'0'..=b'9') => {
            Step::Into(State::ExponentDigits)
        }
        (State::Fraction | State::ExponentDigits, _) => Step::EndsBefore(Kind::Float),
        _ => Step::Stray,
    }
}
