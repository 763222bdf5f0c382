//! What storing bitmaps waits for while the image is in use.

use super::operator::{Operator, Phases};
use super::rig::{Files, Rig};
use super::start::{Shape, Start};
use super::truth::{Action, Truth};
use super::verdict::look;
use crate::io::{Buf, FileId};
use crate::node::qcow2::tests::bitmaps::opened::image;
use crate::node::qcow2::tests::model::bytes;
use crate::node::{Kind, Request};
use std::cell::RefCell;
use std::rc::Rc;

const SECTOR: usize = 512;

/// A guest has flushed nothing; the bitmap does not say that it has written.
#[test]
fn what_was_written_before_a_bitmap_was_cleared_survives_the_power_cut_that_the_bitmap_survives() {
    for shape in [Shape::Mapped, Shape::Sparse, Shape::Raw] {
        let Start { files, windows, content, bitmaps, .. } = Start::new(shape, &mut fastrand::Rng::with_seed(3));
        let mut rig = Rig::new(1, &files);
        rig.open().unwrap();
        let (first, place) = windows.within(rig.node().length())[0].clone();
        let mut buf = Buf::new(SECTOR);
        buf.as_mut_slice().copy_from_slice(&bytes(7, 1));
        let request =
            Request { kind: Kind::Write, fua: false, offset: place.start, len: SECTOR as u64, memory: buf.into() };
        let slot = rig.machine.begin(0, request);
        while slot.borrow().is_none() {
            assert!(rig.machine.step() || slot.borrow().is_some(), "a hang");
        }
        slot.take().unwrap().1.unwrap();
        let truth = Rc::new(RefCell::new(Truth::new(windows.clone(), &content, bitmaps)));
        let operator = Operator { node: rig.node(), world: rig.world(), truth, phases: Phases::default() };
        let actions = vec![("b0".to_owned(), Action::Clear)];
        rig.machine.run(move |io| operator.transact(io, actions));
        let stable = (0..).map(FileId).take(files.contents.len()).map(|file| rig.world().stable_content(file));
        let found = look(2, &Files { contents: stable.collect(), journal: true }, &windows).unwrap();
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
