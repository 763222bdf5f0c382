//! Snapshots that are taken and deleted while the guest writes: each shows one moment of the disk, and is there from the
//! end of the command that took it to the beginning of the one that deleted it.

use super::guest::Guest;
use crate::node::Driver;
use crate::node::points::hold;
use crate::node::qcow2::open::read_header;
use crate::node::qcow2::snapshot::{Description, SnapshotTable};
use crate::node::qcow2::store::Store;
use crate::node::qcow2::tests::machine::Machine;
use crate::node::qcow2::tests::model::{SECTOR, bytes};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A snapshot that was asked for.
struct Point {
    name: String,
    /// What each sector may have held at that moment.
    legal: Vec<Vec<u64>>,
    /// From which event on it is there, and until which one.
    there: Option<usize>,
    gone: usize,
}

/// All of a recording.
#[derive(Default)]
pub struct Points(Vec<Point>);

impl Points {
    /// Looks at the snapshots of an image after a power cut before this event.
    ///
    /// # Panics
    /// If one is missing, or shows what never was.
    pub fn judge(&self, image: &[u8], event: usize) {
        if self.0.is_empty() {
            return;
        }
        let mut machine = Machine::new(1, &[image.to_vec()], 1);
        let file = machine.file(0);
        let table = machine.run(|io| async move {
            let header = read_header(&io, &file).await.unwrap();
            SnapshotTable::of(&io, &Store::new(file), &header).await.unwrap()
        });
        let names: Vec<_> = table.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect();
        for Point { name, legal, there, gone } in &self.0 {
            let is_there = names.contains(name);
            let has_to_be = there.is_some_and(|there| there <= event) && event <= *gone;
            assert!(is_there || !has_to_be, "snapshot {name} is missing: {names:?}");
            if is_there {
                let content = machine.content_at(name);
                let wrong = content
                    .chunks(SECTOR)
                    .zip(legal)
                    .position(|(found, legal)| !legal.iter().any(|value| bytes(*value, 1) == found));
                assert_eq!(wrong, None, "a sector of snapshot {name} never held that");
            }
        }
    }
}

impl Guest {
    /// Takes and deletes some snapshots; requests go on.
    pub fn change_snapshots(&mut self) {
        for number in 0..self.random.usize(1..4) {
            self.take(format!("s{number}"));
            let count = self.random.usize(0..10);
            self.load(count);
            if self.random.bool() {
                self.delete();
            }
        }
    }

    fn take(&mut self, name: String) {
        let node = self.machine.node.clone().unwrap();
        let held = Rc::new(Cell::new(false));
        let (is_held, description) = (held.clone(), Description { name: name.clone(), date: Duration::from_secs(7) });
        let slot = self.machine.begin_task(|io, _| async move {
            let Driver::Qcow2(image) = node.driver() else { unreachable!("an image") };
            let taking = image.begin_snapshot(&io, node.points()).await.ok()?;
            let gate = taking.gate.clone();
            let mut put = || {
                node.points().add_gate(gate.clone());
                is_held.set(true);
            };
            let grace = loop {
                if let Ok(grace) = hold(std::slice::from_ref(&node), &mut put) {
                    break grace;
                }
                io.sleep_until(io.read_clock() + 1000).await;
            };
            while !grace.is_over() {
                io.sleep_until(io.read_clock() + 1000).await;
            }
            let taken = image.take_snapshot(&io, taking, &description, node.points()).await;
            let mut away = || node.points().remove_gate(&gate);
            while hold(&[Arc::clone(&node)], &mut away).is_err() {
                io.sleep_until(io.read_clock() + 1000).await;
            }
            taken.ok()
        });
        let mut legal = None;
        self.go_on_until(|guest| {
            if held.get() && legal.is_none() {
                legal = Some(guest.past.now());
            }
            slot.borrow().is_some()
        });
        let taken = slot.take().unwrap();
        assert!(taken.is_some() || self.faulty, "the snapshot was not taken");
        let there = taken.map(|_| self.event());
        self.points.0.extend(legal.map(|legal| Point { name, legal, there, gone: usize::MAX }));
    }

    fn delete(&mut self) {
        let there = self.points.0.iter().filter(|point| point.there.is_some() && point.gone == usize::MAX).count();
        if there == 0 {
            return;
        }
        let (chosen, event) = (self.random.usize(0..there), self.event());
        let mut all = self.points.0.iter_mut().filter(|point| point.there.is_some() && point.gone == usize::MAX);
        let point = all.nth(chosen).unwrap();
        point.gone = event;
        let (name, node) = (point.name.clone(), self.machine.node.clone().unwrap());
        let slot = self.machine.begin_task(|io, _| async move {
            let Driver::Qcow2(image) = node.driver() else { unreachable!("an image") };
            image.delete_snapshot(&io, None, Some(&name), node.points()).await.is_ok()
        });
        self.go_on_until(|_| slot.borrow().is_some());
        assert!(slot.take().unwrap() || self.faulty, "the snapshot was not deleted");
    }

    /// Sends requests until something has happened.
    fn go_on_until(&mut self, mut has_happened: impl FnMut(&Self) -> bool) {
        while !has_happened(self) {
            if self.under_way() < 6 && self.random.u8(0..8) == 0 {
                self.request();
            }
            assert!(self.machine.step() || has_happened(self), "a hang");
            // Before anybody hears that something has ended.
            has_happened(self);
            self.settle();
        }
    }
}
