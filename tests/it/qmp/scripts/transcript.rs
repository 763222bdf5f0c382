//! What a daemon showed during a script, made comparable: replies in order, and per job its events in order.
//!
//! Left out is what timing decides and no client may rely on: time stamps, generated node names, the order of replies and
//! events and of the events of different jobs (unless the script asks for it), progress of a job that has not succeeded,
//! and pauses that QEMU inserts while it drains.

use std::collections::BTreeMap;
use std::fmt;

use qmp_lite::wire::Value;

use crate::qmp::daemon::differs;

/// Replies and events of one daemon.
#[derive(Debug, Default)]
pub struct Transcript {
    replies: Vec<String>,
    /// By job or export.
    events: BTreeMap<String, Vec<String>>,
    /// All of them, if the script asks for it.
    together: Option<Vec<String>>,
    mistakes: Vec<String>,
}

/// A text without the numbers of generated node names.
pub fn anonymous(text: &str) -> String {
    let mut parts = text.split("#block");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("#block");
        out.push_str(part.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    }
    out
}

/// Members of an object, without some; those of `masked` show that they are there.
pub fn members(value: &Value, without: &[&str], masked: &[&str]) -> String {
    let Some(object) = value.as_object() else {
        return anonymous(&value.to_string());
    };
    // Members of our own begin with `x-`; nothing QEMU shows here does.
    let kept = object.iter().filter(|(name, _)| !without.contains(&name.as_str()) && !name.starts_with("x-"));
    let shown = kept.map(|(name, value)| {
        let value = if masked.contains(&name.as_str()) { "?".to_owned() } else { anonymous(&value.to_string()) };
        format!("{name}={value}")
    });
    let mut shown: Vec<_> = shown.collect();
    shown.sort();
    shown.join(" ")
}

/// A reply: `ok`, what is returned, or class and text of the error.
pub fn reply(reply: &Value) -> String {
    match reply.get("error") {
        Some(error) => {
            let class = error["class"].as_str().unwrap_or_default();
            anonymous(&format!("{class}: {}", error["desc"].as_str().unwrap_or_default()))
        }
        None if reply["return"].as_object().is_some_and(|members| members.is_empty()) => "ok".to_owned(),
        // In the order of their names, if it has members.
        None => members(&reply["return"], &[], &[]),
    }
}

impl Transcript {
    /// Notes what a step came to.
    pub fn note(&mut self, step: &str, outcome: &str) {
        self.replies.push(format!("{step}\n      {outcome}"));
    }

    /// Demands what the last step that was noted came to.
    pub fn expect(&mut self, wanted: &str) {
        let last = self.replies.last().cloned().unwrap_or_default();
        if last.split_once("\n      ").is_none_or(|(_, outcome)| outcome.replace("\n      ", " ") != wanted) {
            self.mistakes.push(format!("{last}\n      instead of\n      {wanted}"));
        }
    }

    /// Notes that the script itself was not obeyed.
    pub fn mistake(&mut self, text: String) {
        self.mistakes.push(text);
    }

    /// From now on events of different jobs have an order.
    pub fn in_order(&mut self) {
        self.together = Some(Vec::new());
    }

    /// Adds an event.
    pub fn event(&mut self, event: &Value) {
        let (name, data) = (event["event"].as_str().unwrap_or_default(), &event["data"]);
        if name == "BLOCK_IO_ERROR" {
            differs("BLOCK_IO_ERROR: a request of an export fails");
            return;
        }
        let subject = ["id", "device"].iter().find_map(|key| data[*key].as_str()).unwrap_or(name).to_owned();
        let ended_well = name == "BLOCK_JOB_COMPLETED" && data.get("error").is_none();
        let masked: &[&str] = if ended_well { &[] } else { &["offset"] };
        let text = match name {
            "JOB_STATUS_CHANGE" => data["status"].as_str().unwrap_or_default().to_owned(),
            _ => format!("{name} {}", members(data, &["id", "device"], masked)),
        };
        if let Some(together) = &mut self.together {
            together.push(format!("{subject} {text}"));
        }
        self.events.entry(subject).or_default().push(text);
    }

    /// Notes that the script waited for a status here.
    pub fn waited(&mut self, job: &str, status: &str) {
        self.events.entry(job.to_owned()).or_default().push(format!("-- waited for {status}"));
    }

    /// The status that the last event of a job told.
    pub fn last_status(&self, job: &str) -> Option<&str> {
        let is_status = |text: &&String| !text.contains(' ');
        self.events.get(job)?.iter().rev().find(is_status).map(String::as_str)
    }

    /// Whether an event told that a job is paused since the script waited for it last.
    pub fn is_paused_again(&self, job: &str) -> bool {
        let Some(events) = self.events.get(job) else { return false };
        let since = events.iter().rposition(|text| text.starts_with("-- ")).map_or(0, |at| at + 1);
        let error = events[since..].iter().position(|text| text.starts_with("BLOCK_JOB_ERROR"));
        error.is_some_and(|at| events[since + at..].iter().any(|text| text == "paused"))
    }

    /// The jobs there were events of.
    pub fn jobs(&self) -> Vec<String> {
        self.events.keys().filter(|job| self.last_status(job).is_some()).cloned().collect()
    }

    /// What the script demands and the daemon did not do.
    pub fn mistakes(&self) -> &[String] {
        &self.mistakes
    }

    /// Takes out the pauses that came and went by themselves.
    pub fn finish(mut self) -> Self {
        self.events.values_mut().for_each(without_short_pauses);
        self.together = self.together.map(without_later_pauses);
        self
    }

    /// How another transcript of the same script differs from this one, which is right.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let pairs = self.replies.iter().zip(&other.replies).filter(|(expected, found)| expected != found);
        let mut all: Vec<_> = pairs.map(|pair| format!("  QEMU: {}\n  other: {}", pair.0, pair.1)).collect();
        if self.events != other.events {
            let empty = Vec::new();
            let subjects = self.events.keys().chain(other.events.keys().filter(|key| !self.events.contains_key(*key)));
            for subject in subjects {
                let of = |transcript: &Self| transcript.events.get(subject).unwrap_or(&empty).join(", ");
                let (expected, found) = (of(self), of(other));
                if expected != found {
                    all.push(format!("  events of {subject}\n    QEMU: {expected}\n    other: {found}"));
                }
            }
        }
        if self.together != other.together {
            all.push(format!("  order of events\n    QEMU: {:?}\n    other: {:?}", self.together, other.together));
        }
        all.extend(other.mistakes.iter().map(|text| format!("  other: {text}")));
        (!all.is_empty()).then(|| all.join("\n"))
    }
}

/// Removes `paused` directly followed by `running`, and `standby` by `ready`: a user's pause has the script's wait between
/// them.
fn without_short_pauses(events: &mut Vec<String>) {
    let mut kept: Vec<String> = Vec::new();
    for event in events.drain(..) {
        let pause = match event.as_str() {
            "running" => Some("paused"),
            "ready" => Some("standby"),
            _ => None,
        };
        if pause.is_some() && kept.last().map(String::as_str) == pause {
            kept.pop();
        } else {
            kept.push(event);
        }
    }
    *events = kept;
}

/// Removes pauses and what follows them, but not the start of a job: between those of one job stand events of others.
fn without_later_pauses(events: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for event in events {
        let starts = event.strip_suffix(" running").map(|job| format!("{job} created"));
        let wanted = match starts {
            Some(created) => {
                let job = created.trim_end_matches("created");
                kept.iter().rev().find(|earlier| earlier.starts_with(job)) == Some(&created)
            }
            None => !event.ends_with(" paused"),
        };
        if wanted {
            kept.push(event);
        }
    }
    kept
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.replies.iter().try_for_each(|reply| writeln!(f, "    {reply}"))?;
        self.events.iter().try_for_each(|(subject, events)| writeln!(f, "    [{subject}] {}", events.join(", ")))?;
        self.together.iter().try_for_each(|together| writeln!(f, "    [all] {}", together.join(", ")))
    }
}
