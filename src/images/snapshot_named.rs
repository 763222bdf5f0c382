//! Which internal snapshot of an image `-l` means: by its id or else its name, or by what is said of each.

use super::options::split;
use crate::image::Format;
use crate::inspect;
use anyhow::{Context as _, Result, anyhow, bail};
use qmp_lite::context::Context;
use std::path::Path;

/// What an option begins with that tells id and name apart.
const PREFIX: &str = "snapshot.";

/// What the snapshot is opened by, of the image at a path.
///
/// # Errors
/// The image cannot be read or has no such snapshot; the text makes no sense.
pub fn find(context: &Context, path: &Path, format: Option<Format>, text: &str) -> Result<String> {
    let (id, name) = wanted(text)?;
    let looked = context.graph.inspect(path, format.map(Format::in_headers), true);
    let looked = looked.map_err(|error| inspect::refusal(&error))?;
    let description = looked.description().ok_or_else(|| anyhow!("Failed to load snapshot: a raw image has none"))?;
    let snapshots = &description.snapshots;
    let is_meant = |wanted: &Option<String>, is: &String| wanted.as_ref().is_none_or(|wanted| wanted == is);
    let found = match (&id, &name) {
        (None, None) => snapshots.find(text).ok(),
        _ => snapshots.snapshots.iter().find(|one| is_meant(&id, &one.id) && is_meant(&name, &one.name)),
    };
    Ok(found.context("Failed to load snapshot: Can't find snapshot")?.id.clone())
}

/// The id and the name that are said of a snapshot; neither if the text is one of them.
fn wanted(text: &str) -> Result<(Option<String>, Option<String>)> {
    let (mut id, mut name) = (None, None);
    for part in split(text).into_iter().filter(|_| text.starts_with(PREFIX)) {
        match part.split_once('=') {
            Some(("snapshot.id", value)) => id = Some(value.to_owned()),
            Some(("snapshot.name", value)) => name = Some(value.to_owned()),
            said => {
                let said = said.map_or(part.as_str(), |(name, _)| name);
                bail!("Invalid parameter '{said}'\nFailed in parsing snapshot param '{text}'");
            }
        }
    }
    Ok((id, name))
}
