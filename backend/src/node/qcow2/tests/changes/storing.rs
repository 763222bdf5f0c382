//! What storing bitmaps, and giving a journal up, waits for while the image is in use.

use super::operator::{Operator, Phases};
use super::rig::{Files, JOURNAL_FILE, Rig};
use super::start::{Shape, Start};
use super::truth::{Action, Truth};
use super::verdict::look;
use crate::io::sim::Faults;
use crate::io::{Buf, FileId};
use crate::node::qcow2::tests::bitmaps::opened::image;
use crate::node::qcow2::tests::model::bytes;
use crate::node::{Kind, Request};
use std::cell::RefCell;
use std::rc::Rc;

const SECTOR: usize = 512;

/// Has a guest write a sector of sevens.
fn write(rig: &mut Rig, offset: u64) {
    let mut buf = Buf::new(SECTOR);
    buf.as_mut_slice().copy_from_slice(&bytes(7, 1));
    let request = Request { kind: Kind::Write, fua: false, offset, len: SECTOR as u64, memory: buf.into() };
    let slot = rig.machine.begin(0, request);
    while slot.borrow().is_none() {
        assert!(rig.machine.step() || slot.borrow().is_some(), "a hang");
    }
    slot.take().unwrap().1.unwrap();
}

/// What the worst power cut leaves.
fn stable(rig: &Rig, files: usize) -> Files {
    let contents = (0..).map(FileId).take(files).map(|file| rig.world().stable_content(file));
    Files { contents: contents.collect(), journal: true }
}

/// A guest has flushed nothing; the bitmap does not say that it has written.
#[test]
fn what_was_written_before_a_bitmap_was_cleared_survives_the_power_cut_that_the_bitmap_survives() {
    for shape in [Shape::Mapped, Shape::Sparse, Shape::Raw] {
        let Start { files, windows, content, bitmaps, .. } = Start::new(shape, &mut fastrand::Rng::with_seed(3));
        let mut rig = Rig::new(1, &files);
        rig.open().unwrap();
        let (first, place) = windows.within(rig.node().length())[0].clone();
        write(&mut rig, place.start);
        let truth = Rc::new(RefCell::new(Truth::new(windows.clone(), &content, bitmaps)));
        let operator = Operator { node: rig.node(), world: rig.world(), truth, phases: Phases::default() };
        let actions = vec![("b0".to_owned(), Action::Clear)];
        rig.machine.run(move |io| operator.transact(io, actions));
        let found = look(2, &stable(&rig, files.contents.len()), &windows).unwrap();
        assert!(!found.bitmaps["b0"].inconsistent && found.content[first] == 7, "{shape:?}: {}", found.content[first]);
    }
}

#[test]
fn nothing_is_stored_while_what_was_swapped_out_of_a_bitmap_is_missing() {
    let start = Start::new(Shape::Mapped, &mut fastrand::Rng::with_seed(1));
    let mut rig = Rig::new(1, &start.files);
    rig.open().unwrap();
    let node = rig.node();
    let missing = node.points().tracking().count_unsettled();
    let saving = node.clone();
    let slot = rig.machine.start(move |io| async move { image(&saving).save_bitmaps(&io, saving.points()).await });
    let operations = rig.world().operations();
    for _ in 0..200 {
        rig.machine.step();
    }
    assert!(slot.borrow().is_none(), "it has ended");
    assert_eq!(rig.world().operations(), operations, "it has begun");
    drop(missing);
    while slot.borrow().is_none() {
        assert!(rig.machine.step() || slot.borrow().is_some(), "a hang");
    }
    assert_eq!(slot.take(), Some(Ok(true)));
}

#[test]
fn a_write_past_a_journal_that_cannot_be_written_waits_until_its_image_does_not_name_it() {
    let Start { files, windows, .. } = Start::new(Shape::Mapped, &mut fastrand::Rng::with_seed(1));
    let mut rig = Rig::new(1, &files);
    rig.open().unwrap();
    let found = look(2, &stable(&rig, files.contents.len()), &windows).unwrap();
    assert!(found.bitmaps.values().all(|bitmap| !bitmap.inconsistent), "nothing has happened yet");
    rig.world().set_faults_of(JOURNAL_FILE, Faults { write_error: 1024, ..Faults::default() });
    write(&mut rig, 0);
    let found = look(2, &stable(&rig, files.contents.len()), &windows).unwrap();
    assert!(found.bitmaps.values().all(|bitmap| bitmap.inconsistent), "they lack what was written");
}

#[test]
fn no_write_waits_for_a_journal_that_is_kept_for_no_bitmap_until_there_is_one_again() {
    let Start { files, windows, content, bitmaps, .. } = Start::new(Shape::Mapped, &mut fastrand::Rng::with_seed(1));
    let names: Vec<String> = bitmaps.keys().cloned().collect();
    let mut rig = Rig::new(1, &files);
    rig.open().unwrap();
    let node = rig.node();
    let truth = Rc::new(RefCell::new(Truth::new(windows, &content, bitmaps)));
    let operator = Operator { node: node.clone(), world: rig.world(), truth, phases: Phases::default() };
    let covered = || image(&node).changes().journal().unwrap().areas().count();
    write(&mut rig, 0);
    let with_bitmaps = covered();
    assert!(with_bitmaps > 0);
    let (one, removals) = (operator.clone(), names.into_iter().map(|name| (name, Action::Remove)).collect());
    rig.machine.run(move |io| one.transact(io, removals));
    write(&mut rig, 1 << 20);
    assert_eq!(covered(), with_bitmaps, "nothing has to be kept for anybody");
    let add = vec![("new".to_owned(), Action::Add { granularity: 65536, recording: true })];
    rig.machine.run(move |io| operator.transact(io, add));
    write(&mut rig, 1 << 20);
    assert!(covered() > with_bitmaps, "the new one would lose it in a crash");
}
