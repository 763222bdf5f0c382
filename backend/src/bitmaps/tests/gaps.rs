//! Why nobody knows what has changed: each way to lose it has a text that names the bitmap, and the names of points in
//! time are those of one node.

use super::disk::{Disk, transact};
use crate::bitmaps::{BitmapError, ChangeId, Outcome, Persistent, Stage, Tracked};
use std::sync::Arc;
use tidemark_cbt::{Bitmap, Granularity};

const LEN: u64 = 1 << 20;

/// A point in time made by an edit.
fn point(disk: &Arc<Disk>, edit: impl FnOnce(&mut Stage<Disk>) -> Result<(), BitmapError>) -> ChangeId {
    transact(edit).unwrap();
    disk.tracking().last_point().unwrap()
}

fn with_a() -> (Arc<Disk>, ChangeId) {
    let disk = Disk::new("d", LEN);
    let since = point(&disk, |stage| stage.add(&disk, "a", None, false, false));
    disk.write(0, 1);
    (disk, since)
}

/// The text, with the names of points in time as numbers.
fn refused(disk: &Disk, since: ChangeId) -> String {
    let text = disk.tracking().changed_since(since, LEN).unwrap_err().to_string();
    let life = since.to_string();
    let life = life.split_once('-').unwrap().0;
    text.replace(&format!("'{life}-"), "'#")
}

type Edit = fn(&mut Stage<Disk>, &Arc<Disk>) -> Result<(), BitmapError>;

#[test]
fn whoever_lost_what_was_asked_for_is_named_with_the_moment() {
    let all = "No bitmap has all that was changed since '#1': bitmap 'a'";
    let cases: [(&[Edit], &str); 5] = [
        (&[|s, d| s.remove(d, "a")], ", which had it, was removed at '#2'"),
        (&[|s, d| s.clear(d, "a"), |s, d| s.remove(d, "a")], ", which had it, was cleared at '#2'"),
        (&[|s, d| s.disable(d, "a")], " has been disabled since '#2'"),
        (&[|s, d| s.disable(d, "a"), |s, d| s.enable(d, "a")], " was disabled from '#2' to '#3'"),
        (&[|s, d| s.add(d, "b", None, false, false), |s, d| s.remove(d, "a")], ", which had it, was removed at '#3'"),
    ];
    for (edits, text) in cases {
        let (disk, since) = with_a();
        for edit in edits {
            point(&disk, |stage| edit(stage, &disk));
        }
        assert_eq!(refused(&disk, since), format!("{all}{text}"));
    }
}

#[test]
fn a_bitmap_that_a_backup_used_up_answers_from_the_backups_beginning_on() {
    let (disk, since) = with_a();
    let backup = point(&disk, |stage| stage.freeze(&disk, "a", true).map(drop));
    disk.write(65536, 1);
    let told = |since| disk.tracking().changed_since(since, LEN).unwrap().page(0, 9).extents;
    assert_eq!(told(since), vec![0..131_072], "while it runs");
    assert_eq!(told(backup), vec![65536..131_072], "while it runs");
    disk.release("a", Outcome::Replace(None), &[]);
    let lost = "bitmap 'a', which had it, was used up by a backup that began at '#2'";
    assert_eq!(refused(&disk, since), format!("No bitmap has all that was changed since '#1': {lost}"));
    assert_eq!(told(backup), vec![65536..131_072]);
}

#[test]
fn a_backup_that_failed_leaves_the_bitmap_all_that_it_had() {
    let (disk, since) = with_a();
    point(&disk, |stage| stage.freeze(&disk, "a", true).map(drop));
    disk.write(65536, 1);
    disk.release("a", Outcome::Keep, &[]);
    assert_eq!(disk.tracking().changed_since(since, LEN).unwrap().page(0, 9).extents, vec![0..131_072]);
}

#[test]
fn what_was_never_recorded_is_said_of_the_bitmaps_there_are() {
    let none = Disk::new("d", LEN);
    none.tracking().begin_point();
    let since = none.tracking().last_point().unwrap();
    let all = "No bitmap has all that was changed since '#1': ";
    assert_eq!(refused(&none, since), format!("{all}the node has no bitmap"));
    point(&none, |stage| stage.add(&none, "late", None, false, false));
    assert_eq!(refused(&none, since), format!("{all}bitmap 'late' records only since '#2'"));

    let disk = Disk::new("d", LEN);
    disk.tracking().adopt(vec![kept("off", false, false)], false);
    disk.tracking().begin_point();
    let since = disk.tracking().last_point().unwrap();
    assert_eq!(refused(&disk, since), format!("{all}bitmap 'off' is disabled"));
    disk.tracking().adopt(vec![kept("lost", false, true)], false);
    assert_eq!(refused(&disk, since), format!("{all}bitmap 'lost' is inconsistent"));
    assert!(disk.tracking().kept().is_empty());
}

fn kept(name: &str, enabled: bool, inconsistent: bool) -> Persistent {
    let bits = Bitmap::new(if inconsistent { 0 } else { LEN }, Granularity::DEFAULT).unwrap();
    bits.mark(0, 1);
    Persistent { name: name.into(), bits: Arc::new(bits), enabled, inconsistent }
}

#[test]
fn a_bitmap_that_came_with_the_image_knows_all_of_this_life_and_is_named_to_those_of_another() {
    let (before, since_before) = with_a();
    let disk = Disk::new("d", LEN);
    disk.tracking().adopt(vec![kept("daily", true, false), kept("off", false, false)], false);
    let text = refused(&disk, since_before);
    assert_eq!(text, "Change ID '#1' is not of this node, or of before it was opened");
    assert!(before.tracking().gave(since_before) && !disk.tracking().gave(since_before));
    assert_eq!(disk.tracking().kept(), ["daily"]);

    let since = point(&disk, |stage| stage.enable(&disk, "daily"));
    disk.write(LEN - 1, 1);
    let told = |changed: Result<crate::bitmaps::Changed, _>| changed.unwrap().page(0, 9).extents;
    let all = vec![0..65536, LEN - 65536..LEN];
    assert_eq!(told(disk.tracking().changed_since(since, LEN)), all, "what it had before is told, too");
    assert_eq!(told(disk.tracking().marked_in("daily", LEN)), all);
    assert_eq!(disk.tracking().list()[1].since, None, "it has recorded since the node was opened");
}

#[test]
fn a_point_in_time_that_has_not_been_is_refused() {
    let (disk, since) = with_a();
    let life = since.to_string();
    let life = life.split_once('-').unwrap().0;
    for generation in [0, 2, u64::MAX] {
        let id: ChangeId = format!("{life}-{generation}").parse().unwrap();
        let text = format!("Change ID '#{generation}' is of no point in time that there has been");
        assert_eq!(refused(&disk, id), text);
    }
}

#[test]
fn what_is_no_name_of_a_point_in_time_is_refused() {
    let (_, since) = with_a();
    assert_eq!(since.to_string().parse::<ChangeId>(), Ok(since));
    let life = since.to_string();
    let life = life.split_once('-').unwrap().0;
    for text in [
        "",
        "-",
        "1",
        "1-1",
        "x-1",
        &format!("{life}-"),
        &format!("{life}-01"),
        &format!("{life}-+1"),
        &format!(" {life}-1"),
    ] {
        assert_eq!(text.parse::<ChangeId>().unwrap_err().to_string(), format!("'{text}' is no change ID"));
    }
}

#[test]
fn what_is_below_a_node_may_be_anything_once_it_was_replaced() {
    let (disk, since) = with_a();
    disk.tracking().forget_past();
    let text = "bitmap 'a' had it until what is below the node was replaced at '#2'";
    assert_eq!(refused(&disk, since), format!("No bitmap has all that was changed since '#1': {text}"));
    let since = disk.tracking().last_point().unwrap();
    disk.write(LEN - 1, 1);
    assert_eq!(disk.tracking().list()[0].since, Some(since));
    let told = disk.tracking().changed_since(since, LEN).unwrap().page(0, 9).extents;
    assert_eq!(told, vec![0..65536, LEN - 65536..LEN]);
}

#[test]
fn a_disk_that_was_shorter_meanwhile_has_changed_beyond() {
    let (disk, since) = with_a();
    disk.resize(LEN / 2, &[]).unwrap();
    disk.resize(LEN, &[]).unwrap();
    let told = |since| disk.tracking().changed_since(since, LEN).unwrap().page(0, 9).extents;
    assert_eq!(told(since), vec![0..65536, LEN / 2..LEN]);
    let later = point(&disk, |stage| stage.enable(&disk, "a"));
    assert_eq!(told(later), vec![0..65536]);
}
