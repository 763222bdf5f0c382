//! Options in the manner of getopt_long, in the order given: `--name=value`, `--name value`, unique beginnings of names,
//! short options in clusters, `--` as the end. The texts are those of glibc, since this is where scripts look first.
//!
//! Knows the shape of options, not what any of them means.

use std::iter::FusedIterator;

/// An option that may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known<Id> {
    /// Its name after two dashes.
    pub name: &'static str,
    /// Its letter after one dash.
    pub short: Option<char>,
    /// Whether a value follows.
    pub takes_value: bool,
    /// What it is to the caller.
    pub id: Id,
}

/// An argument of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given<Id> {
    /// Which option; `None` for an argument that is none.
    pub id: Option<Id>,
    /// Its value, or the argument itself; empty without one.
    pub value: String,
    /// As it was written, for messages.
    pub shown: String,
}

/// Walks over a command line.
pub struct Scan<'a, Id> {
    known: &'a [Known<Id>],
    arguments: std::slice::Iter<'a, String>,
    /// Letters left of a cluster.
    cluster: &'a str,
}

impl<'a, Id: Copy> Scan<'a, Id> {
    /// The arguments after the program's name.
    pub fn new(known: &'a [Known<Id>], arguments: &'a [String]) -> Self {
        Self { known, arguments: arguments.iter(), cluster: "" }
    }

    fn long(&mut self, text: &str) -> Result<Given<Id>, String> {
        let (name, attached) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let option = self.lookup(name)?;
        match (option.takes_value, attached) {
            (false, None) => Ok(Given { id: Some(option.id), value: String::new(), shown: format!("--{text}") }),
            (false, Some(_)) => Err(format!("option '--{}' doesn't allow an argument", option.name)),
            (true, Some(value)) => {
                Ok(Given { id: Some(option.id), value: value.to_owned(), shown: format!("--{text}") })
            }
            (true, None) => {
                let value = self.arguments.next();
                let value = value.ok_or_else(|| format!("option '--{}' requires an argument", option.name))?;
                Ok(Given { id: Some(option.id), value: value.clone(), shown: format!("--{text} {value}") })
            }
        }
    }

    /// The option with this name, or the only one whose name begins like this.
    fn lookup(&self, name: &str) -> Result<Known<Id>, String> {
        if let Some(exact) = self.known.iter().find(|known| known.name == name) {
            return Ok(*exact);
        }
        let candidates: Vec<_> = self.known.iter().filter(|known| known.name.starts_with(name)).collect();
        match candidates.as_slice() {
            [] => Err(format!("unrecognized option '--{name}'")),
            [only] => Ok(**only),
            several => {
                let names: Vec<_> = several.iter().map(|known| format!(" '--{}'", known.name)).collect();
                Err(format!("option '--{name}' is ambiguous; possibilities:{}", names.concat()))
            }
        }
    }

    fn short(&mut self) -> Option<Result<Given<Id>, String>> {
        let mut letters = self.cluster.chars();
        let letter = letters.next()?;
        self.cluster = letters.as_str();
        let Some(option) = self.known.iter().find(|known| known.short == Some(letter)) else {
            return Some(Err(format!("invalid option -- '{letter}'")));
        };
        if !option.takes_value {
            return Some(Ok(Given { id: Some(option.id), value: String::new(), shown: format!("-{letter}") }));
        }
        let (value, shown) = match std::mem::take(&mut self.cluster) {
            "" => match self.arguments.next() {
                Some(value) => (value.clone(), format!("-{letter} {value}")),
                None => return Some(Err(format!("option requires an argument -- '{letter}'"))),
            },
            attached => (attached.to_owned(), format!("-{letter}{attached}")),
        };
        Some(Ok(Given { id: Some(option.id), value, shown }))
    }
}

impl<Id: Copy> Iterator for Scan<'_, Id> {
    type Item = Result<Given<Id>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(given) = self.short() {
            return Some(given);
        }
        let argument = self.arguments.next()?;
        match argument.strip_prefix("--") {
            // As in the original, whatever follows is not looked at.
            Some("") => {
                self.arguments = [].iter();
                None
            }
            Some(text) => Some(self.long(text)),
            None => match argument.strip_prefix('-') {
                Some(letters) if !letters.is_empty() => {
                    self.cluster = letters;
                    self.short()
                }
                _ => Some(Ok(Given { id: None, value: argument.clone(), shown: argument.clone() })),
            },
        }
    }
}

impl<Id: Copy> FusedIterator for Scan<'_, Id> {}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Known<char>] = &[
        Known { name: "blockdev", short: None, takes_value: true, id: 'b' },
        Known { name: "blk-file", short: None, takes_value: true, id: 'f' },
        Known { name: "help", short: Some('h'), takes_value: false, id: 'h' },
        Known { name: "trace", short: Some('T'), takes_value: true, id: 'T' },
    ];

    /// What each argument is: `b=value`, an argument that is no option as `=value`, or `!message`.
    fn check(arguments: &[&str], expected: &[&str]) {
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let show = |given: Result<Given<char>, String>| match given {
            Ok(given) => format!("{}={}", given.id.map(String::from).unwrap_or_default(), given.value),
            Err(message) => format!("!{message}"),
        };
        let found: Vec<_> = Scan::new(KNOWN, &arguments).map(show).collect();
        assert_eq!(found, expected, "{arguments:?}");
    }

    #[test]
    fn options_come_in_the_order_given_with_either_form_of_value() {
        check(&["--blk-file", "a", "--blockdev=b=c", "-h"], &["f=a", "b=b=c", "h="]);
        check(&["--blockdev", "--help"], &["b=--help"]);
    }

    #[test]
    fn the_beginning_of_one_name_is_enough_and_of_two_is_ambiguous() {
        check(&["--blo", "a", "--h"], &["b=a", "h="]);
        check(&["--bl"], &["!option '--bl' is ambiguous; possibilities: '--blockdev' '--blk-file'"]);
    }

    #[test]
    fn short_options_cluster_and_one_with_a_value_takes_the_rest() {
        check(&["-hTall"], &["h=", "T=all"]);
        check(&["-T", "all"], &["T=all"]);
        check(&["-hx"], &["h=", "!invalid option -- 'x'"]);
    }

    #[test]
    fn a_single_dash_before_a_long_name_is_a_cluster_as_with_getopt_long() {
        check(&["-blo"], &["!invalid option -- 'b'", "!invalid option -- 'l'", "!invalid option -- 'o'"]);
    }

    #[test]
    fn wrong_options_are_named() {
        check(&["--nope"], &["!unrecognized option '--nope'"]);
        check(&["--help=1"], &["!option '--help' doesn't allow an argument"]);
        check(&["--blockdev"], &["!option '--blockdev' requires an argument"]);
        check(&["-T"], &["!option requires an argument -- 'T'"]);
    }

    #[test]
    fn two_dashes_end_the_command_line_and_other_words_are_arguments() {
        check(&["a", "-", "--", "--nope"], &["=a", "=-"]);
    }
}
