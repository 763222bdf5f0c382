//! Internal snapshots for people: a table with QEMU's columns, with dates of this machine's time zone.

use super::size::size;
use crate::inspect::printable;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use qmp_lite::block::image::SnapshotInfo;

/// Bytes of a column at least; of the first two what stands left.
const WIDTHS: [usize; 6] = [7, 16, 8, 19, 15, 10];

/// The lines of the table.
pub fn table(snapshots: &[SnapshotInfo]) -> Vec<String> {
    let head = ["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"].map(str::to_owned);
    let zone = TimeZone::system();
    std::iter::once(line(&head)).chain(snapshots.iter().map(|snapshot| line(&columns(snapshot, &zone)))).collect()
}

fn columns(snapshot: &SnapshotInfo, zone: &TimeZone) -> [String; 6] {
    let seconds = snapshot.vm_clock_sec;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    [
        printable(&snapshot.id),
        printable(&snapshot.name),
        size(snapshot.vm_state_size.cast_unsigned()),
        date(snapshot.date_sec, zone),
        format!("{hours:04}:{minutes:02}:{seconds:02}.{:03}", snapshot.vm_clock_nsec / 1_000_000),
        snapshot.icount.map_or("--".to_owned(), |count| count.to_string()),
    ]
}

fn date(seconds: i64, zone: &TimeZone) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) => time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => seconds.to_string(),
    }
}

/// Columns are as wide as printf makes them, which counts bytes.
fn line(columns: &[String; 6]) -> String {
    let padded = columns.iter().zip(WIDTHS).enumerate().map(|(index, (text, width))| {
        let blanks = " ".repeat(width.saturating_sub(text.len()));
        if index < 2 { format!("{text}{blanks}") } else { format!("{blanks}{text}") }
    });
    padded.collect::<Vec<_>>().join(" ")
}
