//! `tidemark backup list`: the points in time of a directory, for people and for programs.

use super::directory::{Directory, Purpose};
use super::manifest::{Entry, Point};
use super::offline::allocated;
use crate::info::size::size;
use crate::inspect::{self, Output, printable};
use anyhow::{Result, anyhow};
use qmp_lite::document;
use std::path::PathBuf;

/// Options of `tidemark backup list`.
#[derive(clap::Args, Debug)]
pub struct ListOptions {
    /// Directory of the backups.
    dir: PathBuf,
    /// Who is told.
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
}

/// Lists what there is.
///
/// # Errors
/// It is no directory of backups, or somebody is changing it.
pub fn run(options: &ListOptions) -> Result<()> {
    let directory = Directory::open(&options.dir, Purpose::Read)?;
    let points = &directory.manifest.points;
    inspect::print(&match options.output {
        Output::Json => document::encode(points).map_err(|error| anyhow!("{}", error.desc))?,
        Output::Human if points.is_empty() => "There is no point in time yet.\n".to_owned(),
        Output::Human => table(&directory),
    })
}

fn table(directory: &Directory) -> String {
    let head = ["POINT", "TIME", "DISK", "SIZE", "KIND", "STORED", "FILE"].map(str::to_owned);
    let points = directory.manifest.points.iter();
    let rows = points.flat_map(|point| point.disks.iter().map(|entry| columns(directory, point, entry)));
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max();
    let widths: Vec<_> = (0..7).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn columns(directory: &Directory, point: &Point, entry: &Entry) -> [String; 7] {
    let stored = std::fs::metadata(directory.file(&entry.file));
    [
        point.number.to_string(),
        printable(&point.time),
        printable(&entry.disk),
        size(entry.size),
        if entry.parent.is_none() { "full" } else { "incremental" }.to_owned(),
        stored.map_or("missing".to_owned(), |meta| size(allocated(&meta))),
        printable(&entry.file),
    ]
}
