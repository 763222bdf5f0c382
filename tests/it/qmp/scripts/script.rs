//! The text of scripts. Knows its words, not what comes of them.
//!
//! A script begins with `script` and a sentence. Each line after it is a step; `#` begins a comment, and a line that
//! begins with spaces goes on with the one before. Sizes and offsets are bytes, or have a suffix `K` or `M`. A line
//! `each $NAME WORD...` makes as many scripts of one, with each of the words in the place of `$NAME`; a `+` in
//! them stands for a space.
//!
//! | Step | What it does |
//! |---|---|
//! | `disk D SIZE` | makes a file `D.img` in which no byte is zero, and a node `D` on it |
//! | `empty D SIZE` | the same with a file that is one hole |
//! | `chain N SIZE`, `chain N SIZE writable` | makes images `n0.img` up to N, each over the one before, and nodes `n0` and so on on them, of which others than the topmost take writes if it says so |
//! | `header FILE` | what the header of an image says is below it is compared |
//! | `shows FILE` | what an image shows, checked by QEMU; only after the daemon's end |
//! | `nodes` | a query whose answer is compared: names, drivers, what is read-only and what is below |
//! | `guest D` | exports node `D` and connects a guest to it |
//! | `reader D` | the same without the right to write |
//! | `hang-up D` | takes that guest away |
//! | `write D OFFSET LEN BYTE`, `zero D OFFSET LEN`, `unmap D OFFSET LEN`, `discard D OFFSET LEN`, `flush D`, `read D OFFSET LEN` | a request of the guest of `D`, whose status, and what was read, is compared (`unmap`: zeroes that may deallocate) |
//! | `until JOB STATUS` | waits until the job has this status, its event included; `gone`: until there is no such job |
//! | `rest JOB` | waits until the job moves no further by itself: it is paused, pending, concluded or gone |
//! | `again JOB` | waits until there is one more event that the job is paused |
//! | `progress JOB OFFSET` | waits until `offset` of the job is this; without it, until it is not 0, and compares it |
//! | `begun JOB` | waits until `offset` of the job is not 0, whatever it is |
//! | `jobs`, `bitmaps NODE`, `exports` | queries whose answers are compared |
//! | `content FILE` | its bytes are compared |
//! | `keep FILE COPY` | copies a file |
//! | `same FILE COPY` | both have to have the same bytes, whatever the daemons agree on |
//! | `differs SUBJECT: CASE` | what it tries is to differ from QEMU's, for the reason that docs/qmp.md has in this row |
//! | `answer TEXT` | what the step before has to come to: of our daemon, where it is to differ from QEMU's |
//! | `lock FILE` | another program has the file locked from here on |
//! | `unless-refused` | the rest is done only if the last command succeeded |
//! | `in-order` | events of different jobs are compared in their common order too |
//! | `reconnect` | closes the monitor's connection and opens another |
//! | `quit`, `terminate` | ends the daemon by command or SIGTERM, the last step |
//! | anything else | a QMP command with its arguments in braces, whose reply is compared |

use super::request;

/// One step.
pub struct Step {
    /// As it stands in the file.
    pub text: String,
    /// The first word.
    pub verb: String,
    /// The rest of it.
    pub rest: String,
}

/// Steps with a name.
pub struct Script {
    /// A sentence.
    pub name: String,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// First words that are not commands.
const VERBS: [&str; 2] = [
    "disk empty chain header shows nodes guest reader hang-up write zero unmap discard flush read until rest again begun",
    "progress jobs bitmaps exports content keep same differs answer lock in-order unless-refused reconnect quit terminate",
];

impl Step {
    fn new(text: &str) -> Self {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        Self { text: text.to_owned(), verb: verb.to_owned(), rest: rest.to_owned() }
    }

    /// A word of the rest.
    pub fn word(&self, index: usize) -> &str {
        let word = self.rest.split_whitespace().nth(index);
        word.unwrap_or_else(|| panic!("'{}' needs more words", self.text))
    }

    /// A size or offset of the rest.
    pub fn size(&self, index: usize) -> u64 {
        request::size(self.word(index)).unwrap_or_else(|| panic!("'{}': not a size", self.text))
    }

    /// Whether it is a QMP command.
    pub fn is_command(&self) -> bool {
        !VERBS.iter().flat_map(|line| line.split(' ')).any(|verb| verb == self.verb)
    }

    /// The commands it needs: its own, and those that are actions of a transaction; of `blockdev-add` the driver too.
    fn commands(&self) -> Vec<String> {
        let actions = self.rest.split("{type: ").skip(1).filter_map(|rest| rest.split(',').next());
        let actions = actions.filter(|action| action.starts_with("block-dirty-bitmap-") || action.ends_with("-backup"));
        let queries: &[&str] = match self.verb.as_str() {
            "jobs" => &["query-jobs", "query-block-jobs"],
            "until" | "rest" => &["query-jobs"],
            "begun" | "progress" => &["query-block-jobs"],
            _ => &[],
        };
        let drivers = self.rest.split("{driver: ").skip(1).filter_map(|rest| rest.split(',').next());
        let own = self.is_command().then_some(self.verb.as_str());
        own.into_iter().chain(actions).chain(drivers).chain(queries.iter().copied()).map(str::to_owned).collect()
    }
}

impl Script {
    /// The commands it needs, each once.
    pub fn commands(&self) -> Vec<String> {
        let mut commands: Vec<_> = self.steps.iter().flat_map(Step::commands).collect();
        commands.sort();
        commands.dedup();
        commands
    }
}

/// The scripts of a file.
pub fn parse(text: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    let joined = text.replace("\n  ", " ");
    for line in joined.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match (line.strip_prefix("script "), scripts.last_mut()) {
            (Some(name), _) => scripts.push(Script { name: name.to_owned(), steps: Vec::new() }),
            (None, Some(script)) => script.steps.push(Step::new(line)),
            (None, None) => panic!("'{line}' belongs to no script"),
        }
    }
    scripts.into_iter().flat_map(each).collect()
}

/// The scripts that one with `each` stands for.
fn each(mut script: Script) -> Vec<Script> {
    let Some(at) = script.steps.iter().position(|step| step.verb == "each") else {
        return vec![script];
    };
    let step = script.steps.remove(at);
    let with = |word: &str| {
        let put = |text: &str| text.replace(step.word(0), &word.replace('+', " "));
        let steps = script.steps.iter().map(|step| Step::new(&put(&step.text))).collect();
        each(Script { name: put(&script.name), steps })
    };
    step.rest.split_whitespace().skip(1).flat_map(with).collect()
}
