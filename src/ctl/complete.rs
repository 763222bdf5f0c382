//! Completion at the prompt: names of commands, then of arguments, then values. All from what the server says.

use qmp_lite::client::Introspection;
use rustyline::completion::{Completer, Pair};
use rustyline::{Context, Helper, Highlighter, Hinter, Validator};
use std::rc::Rc;

/// Words of the prompt itself.
pub const OWN: [&str; 2] = ["help", "exit"];

/// See the module's description.
#[derive(Helper, Highlighter, Hinter, Validator)]
pub struct Completion {
    server: Rc<Introspection>,
}

impl Completion {
    /// Completion for a server.
    pub fn new(server: Rc<Introspection>) -> Self {
        Self { server }
    }

    /// Where the word that `line` ends with begins, and what it may become.
    fn candidates(&self, line: &str) -> (usize, Vec<String>) {
        let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let (before, word) = line.split_at(start);
        let fitting = |words: Vec<String>, word: &str| words.into_iter().filter(|it| it.starts_with(word)).collect();
        let Some(command) = before.split_whitespace().next() else {
            let commands = self.server.commands().chain(OWN);
            return (start, fitting(commands.map(|name| format!("{name} ")).collect(), word));
        };
        match word.split_once('=') {
            None => {
                let given = |name: &String| before.split_whitespace().any(|word| word.starts_with(&format!("{name}=")));
                let free = self.server.arguments(command).into_iter().filter(|name| !given(name));
                (start, fitting(free.map(|name| format!("{name}=")).collect(), word))
            }
            Some((argument, value)) => {
                let values = self.server.values(command, argument);
                let values = values.into_iter().map(|value| format!("{value} ")).collect();
                (start + argument.len() + 1, fitting(values, value))
            }
        }
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, words) = self.candidates(line.get(..position).unwrap_or(line));
        let pair = |word: String| Pair { display: word.trim_end().to_owned(), replacement: word };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}
