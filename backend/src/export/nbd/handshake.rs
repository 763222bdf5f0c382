//! The server's end of the handshake: what is answered to each option, and what was agreed on when an export is chosen.
//!
//! Bytes in, bytes out: knows no socket. What it allocates for an option is bounded by [`DATA_MAX`] and by the exports
//! that there are.

mod contexts;
mod describe;
#[cfg(test)]
mod tests;

pub use contexts::{BASE_ID, BITMAP_ID, Contexts, DEPTH_ID};

use crate::nbd_wire::handshake::{
    Greeting, Listed, Malformed, MetaQueries, OptionHeader, STRING_MAX, decode_client_flags, encode_error,
    encode_reply, handshake_flags, option, reply,
};
use crate::nbd_wire::transmission::Headers;
use contexts::Selection;

/// The most bytes of an option's data that are looked at: enough for hundreds of contexts.
pub const DATA_MAX: u32 = 64 * 1024;

/// Options of one client: enough to ask everything about a thousand exports.
const OPTIONS_MAX: u32 = 4096;

/// An export as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// What is said of it.
    pub description: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Those of its export flags that hang on nothing a client says.
    pub flags: u16,
    /// Bytes that requests had better be multiples of.
    pub alignment: u32,
    /// Whether it has `qemu:allocation-depth`.
    pub allocation_depth: bool,
    /// The bitmaps that it has, in order.
    pub bitmaps: Vec<String>,
}

/// What exports there are at a moment.
pub trait Catalog {
    /// The export of that name.
    fn find(&self, name: &[u8]) -> Option<Offer>;
    /// All of them.
    fn list(&self) -> Vec<Listed>;
}

/// What was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The export as the client knows it.
    pub offer: Offer,
    /// The form of requests and replies.
    pub headers: Headers,
    /// What BLOCK_STATUS tells of.
    pub contexts: Contexts,
}

/// What comes next, after all that was answered has been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next option.
    Option,
    /// The TLS handshake, then the next option.
    StartTls,
    /// Requests to this export.
    Serve(Box<Chosen>),
    /// Nothing.
    Close,
}

/// How TLS is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// There is none.
    Never,
    /// Nothing goes without it.
    Required,
    /// It is there.
    Started,
}

/// One client's handshake.
pub struct Handshake<'a, C> {
    catalog: &'a C,
    tls: Tls,
    is_fixed: bool,
    no_zeroes: bool,
    headers: Headers,
    selection: Option<Selection>,
    options: u32,
}

impl<'a, C: Catalog> Handshake<'a, C> {
    /// With a client that has said nothing so far.
    pub fn new(catalog: &'a C, tls: Tls) -> Self {
        let headers = Headers::Simple;
        Self { catalog, tls, is_fixed: false, no_zeroes: false, headers, selection: None, options: 0 }
    }

    /// What is sent first.
    pub fn greeting() -> [u8; Greeting::LEN] {
        Greeting { flags: handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES }.encode()
    }

    /// Takes the client's answer to that.
    ///
    /// # Errors
    /// Flags that were not offered: the connection is of no use.
    pub fn client_flags(&mut self, bytes: [u8; 4]) -> Result<(), Malformed> {
        let flags = decode_client_flags(bytes)?;
        self.is_fixed = flags & handshake_flags::FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & handshake_flags::NO_ZEROES != 0;
        Ok(())
    }

    /// TLS has been started, as [`Next::StartTls`] says.
    pub fn tls_started(&mut self) {
        self.tls = Tls::Started;
    }

    /// Takes an option with its data, `None` if that is more than [`DATA_MAX`]; appends the answers to `out`.
    pub fn option(&mut self, header: OptionHeader, data: Option<&[u8]>, out: &mut Vec<u8>) -> Next {
        self.options += 1;
        if self.options > OPTIONS_MAX || (!self.is_fixed && header.option != option::EXPORT_NAME) {
            return Next::Close;
        }
        let mut answers = Answers { option: header.option, out };
        if self.tls == Tls::Required {
            return before_tls(header, &mut answers);
        }
        match (header.option, data) {
            (option::EXPORT_NAME, data) => self.export_name(data, answers.out),
            (option::ABORT, _) => {
                answers.acknowledge();
                Next::Close
            }
            (option::LIST | option::STARTTLS | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS, data) => match data
            {
                Some([]) => self.switch(&mut answers),
                _ => answers.wrong_length(),
            },
            (option::INFO | option::GO, Some(data)) => self.info(data, &mut answers),
            (option::LIST_META_CONTEXT | option::SET_META_CONTEXT, Some(data)) => self.contexts(data, &mut answers),
            (option::INFO | option::GO | option::LIST_META_CONTEXT | option::SET_META_CONTEXT, None) => {
                let text = format!("option '{}' has more than {DATA_MAX} bytes", option::name(header.option));
                answers.refuse(reply::ERR_TOO_BIG, &text)
            }
            (other, _) => {
                let text = format!("Unsupported option {other} ({})", option::name(other));
                answers.refuse(reply::ERR_UNSUP, &text)
            }
        }
    }

    /// Options without data.
    fn switch(&mut self, answers: &mut Answers<'_>) -> Next {
        let wanted = match answers.option {
            option::LIST => {
                let listed = self.catalog.list();
                listed.iter().for_each(|listed| answers.reply(reply::SERVER, &listed.encode()));
                return answers.acknowledge();
            }
            option::STARTTLS if self.tls == Tls::Started => {
                return answers.refuse(reply::ERR_INVALID, "TLS already enabled");
            }
            option::STARTTLS => return answers.refuse(reply::ERR_POLICY, "TLS not configured"),
            option::STRUCTURED_REPLY => Headers::Structured,
            _ => Headers::Extended,
        };
        match self.headers {
            Headers::Extended if wanted == Headers::Structured => {
                answers.refuse(reply::ERR_EXT_HEADER_REQD, "extended headers already negotiated")
            }
            Headers::Extended => answers.refuse(reply::ERR_INVALID, "extended headers already negotiated"),
            Headers::Structured if wanted == Headers::Structured => {
                answers.refuse(reply::ERR_INVALID, "structured reply already negotiated")
            }
            Headers::Simple | Headers::Structured => {
                self.headers = wanted;
                answers.acknowledge()
            }
        }
    }

    /// Nothing can be answered to this one but an export.
    fn export_name(&mut self, name: Option<&[u8]>, out: &mut Vec<u8>) -> Next {
        let name = name.filter(|name| name.len() <= STRING_MAX && self.headers != Headers::Extended);
        match name.and_then(|name| self.catalog.find(name)) {
            Some(offer) => {
                let chosen = self.choose(offer);
                describe::as_old(&chosen, self.no_zeroes, out);
                Next::Serve(Box::new(chosen))
            }
            None => Next::Close,
        }
    }

    fn info(&mut self, data: &[u8], answers: &mut Answers<'_>) -> Next {
        let request = match describe::decode(data) {
            Ok(request) => request,
            Err(error) => return answers.malformed(error),
        };
        let Some(offer) = self.catalog.find(request.name) else { return answers.unknown(request.name) };
        let chosen = self.choose(offer);
        match describe::answer(&chosen, &request, answers) {
            Next::Option if answers.option == option::GO => Next::Serve(Box::new(chosen)),
            next => next,
        }
    }

    fn choose(&self, offer: Offer) -> Chosen {
        // What was selected of another export means nothing here.
        let selected = self.selection.as_ref().filter(|selection| selection.export == offer.name);
        let contexts = selected.map(|selection| selection.contexts.clone()).unwrap_or_default();
        Chosen { offer, headers: self.headers, contexts }
    }

    fn contexts(&mut self, data: &[u8], answers: &mut Answers<'_>) -> Next {
        let is_set = answers.option == option::SET_META_CONTEXT;
        if is_set && self.headers == Headers::Simple {
            let text = "request option 'set meta context' when structured reply is not negotiated";
            return answers.refuse(reply::ERR_INVALID, text);
        }
        if is_set {
            self.selection = None;
        }
        let queries = match MetaQueries::decode(data) {
            Ok(queries) => queries,
            Err(error) => return answers.malformed(error),
        };
        let Some(offer) = self.catalog.find(queries.name) else { return answers.unknown(queries.name) };
        let contexts = match Contexts::matching(&offer, queries, !is_set) {
            Ok(contexts) => contexts,
            Err(error) => return answers.malformed(error),
        };
        for context in contexts.described(&offer, is_set) {
            answers.reply(reply::META_CONTEXT, &context.encode());
        }
        if is_set {
            self.selection = Some(Selection { export: offer.name, contexts });
        }
        answers.acknowledge()
    }
}

/// Nothing goes but TLS, and going.
fn before_tls(header: OptionHeader, answers: &mut Answers<'_>) -> Next {
    match header.option {
        option::STARTTLS if header.len == 0 => {
            answers.acknowledge();
            Next::StartTls
        }
        // Whoever cannot begin TLS is not talked to without it.
        option::STARTTLS => {
            answers.wrong_length();
            Next::Close
        }
        option::EXPORT_NAME => Next::Close,
        other => {
            let text = format!("Option {other:#x} not permitted before TLS");
            answers.refuse(reply::ERR_TLS_REQD, &text);
            if other == option::ABORT { Next::Close } else { Next::Option }
        }
    }
}

/// What is answered to one option.
struct Answers<'a> {
    option: u32,
    out: &'a mut Vec<u8>,
}

impl Answers<'_> {
    fn reply(&mut self, kind: u32, data: &[u8]) {
        encode_reply(self.out, self.option, kind, data);
    }

    fn acknowledge(&mut self) -> Next {
        self.reply(reply::ACK, &[]);
        Next::Option
    }

    fn refuse(&mut self, kind: u32, text: &str) -> Next {
        encode_error(self.out, self.option, kind, text);
        Next::Option
    }

    fn wrong_length(&mut self) -> Next {
        self.refuse(reply::ERR_INVALID, &format!("option '{}' has unexpected length", option::name(self.option)))
    }

    fn malformed(&mut self, error: Malformed) -> Next {
        let text = match error {
            Malformed::Lengths | Malformed::Nul => format!("{error} in option {}", option::name(self.option)),
            Malformed::Trailing => return self.wrong_length(),
            other => other.to_string(),
        };
        self.refuse(reply::ERR_INVALID, &text)
    }

    fn unknown(&mut self, name: &[u8]) -> Next {
        let shown: String = String::from_utf8_lossy(name).chars().take(80).collect();
        self.refuse(reply::ERR_UNKNOWN, &format!("export '{shown}' not present"))
    }
}
