//! QEMU's blkdebug configuration file: `[inject-error]` and `[set-state]` sections of `key = "value"` lines.

use super::EVENTS;
use crate::error::GraphError;
use crate::node::options::{InjectError, IoType, SetState};
use std::collections::HashMap;
use std::path::Path;

/// Adds the rules of a file.
///
/// # Errors
/// Names the file that cannot be read, or the line that is none; of rules that make no sense, with QEMU's texts.
pub fn read(path: &Path, inject: &mut Vec<InjectError>, set_state: &mut Vec<SetState>) -> Result<(), GraphError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| GraphError::File {
        what: "Could not read blkdebug config file",
        path: shown.clone(),
        source,
    })?;
    for section in sections(&text).map_err(|line| bad(&shown, line, "expected [section] or key = \"value\""))? {
        match section.name {
            "inject-error" => inject.push(section.inject_error().map_err(GraphError::Options)?),
            "set-state" => set_state.push(section.set_state().map_err(GraphError::Options)?),
            other => return Err(GraphError::Options(format!("There is no option group '{other}'"))),
        }
    }
    Ok(())
}

fn bad(path: &str, line: usize, why: &str) -> GraphError {
    GraphError::Options(format!("Could not parse blkdebug config file: {path}:{line}: {why}"))
}

struct Section<'a> {
    name: &'a str,
    values: HashMap<&'a str, &'a str>,
}

fn sections(text: &str) -> Result<Vec<Section<'_>>, usize> {
    let mut all: Vec<Section<'_>> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            all.push(Section { name, values: HashMap::new() });
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(index + 1)?;
        let section = all.last_mut().ok_or(index + 1)?;
        section.values.insert(key.trim(), value.trim().trim_matches('"'));
    }
    Ok(all)
}

impl Section<'_> {
    fn number(&self, key: &str) -> Result<Option<i64>, String> {
        let parse = |text: &&str| text.parse().map_err(|_| format!("Parameter '{key}' expects a number"));
        self.values.get(key).map(parse).transpose()
    }

    fn switch(&self, key: &str) -> Result<bool, String> {
        match self.values.get(key).copied() {
            None | Some("off") => Ok(false),
            Some("on") => Ok(true),
            Some(_) => Err(format!("Parameter '{key}' expects 'on' or 'off'")),
        }
    }

    fn event(&self) -> Result<String, String> {
        match self.values.get("event").copied() {
            None => Err("Missing event name for rule".into()),
            Some(event) if EVENTS.contains(&event) => Ok(event.to_owned()),
            Some(event) => Err(format!("invalid parameter value: {event}")),
        }
    }

    fn inject_error(&self) -> Result<InjectError, String> {
        let iotype = match self.values.get("iotype").copied() {
            None => None,
            Some("read") => Some(IoType::Read),
            Some("write") => Some(IoType::Write),
            Some("write-zeroes") => Some(IoType::WriteZeroes),
            Some("discard") => Some(IoType::Discard),
            Some("flush") => Some(IoType::Flush),
            Some("block-status") => Some(IoType::BlockStatus),
            Some(other) => return Err(format!("Parameter 'iotype' does not accept value '{other}'")),
        };
        let errno = self.number("errno")?.map_or(Ok(5), i32::try_from).map_err(|_| "errno is out of range")?;
        let sector = self.number("sector")?.filter(|sector| *sector >= 0);
        Ok(InjectError {
            event: self.event()?,
            state: self.number("state")?.filter(|state| *state != 0),
            iotype,
            errno,
            sector: sector.map(i64::unsigned_abs),
            once: self.switch("once")?,
            immediately: self.switch("immediately")?,
        })
    }

    fn set_state(&self) -> Result<SetState, String> {
        let new_state = self.number("new_state")?.filter(|state| *state > 0).ok_or("Invalid new_state")?;
        Ok(SetState { event: self.event()?, state: self.number("state")?.filter(|state| *state != 0), new_state })
    }
}
