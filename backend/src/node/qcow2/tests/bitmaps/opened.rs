//! An image opened by us on the simulated kernel, as a guest and an operator use it.

use super::made::Made;
use crate::bitmaps::{BitmapError, BitmapInfo, Stage};
use crate::io::{Buf, Memory};
use crate::node::qcow2::bitmaps::StoreError;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::open::{OpenError, Options};
use crate::node::qcow2::tests::machine::{Machine, Slot};
use crate::node::{Driver, Kind, Node, Outcome, Request};
use std::ops::Range;
use std::sync::Arc;

pub struct Opened {
    pub machine: Machine,
}

pub fn options(read_only: bool) -> Options {
    Options { read_only, l2_cache_bytes: 0, refcount_cache_bytes: 0, pass_discard: true, journal: None, changes: None }
}

/// What an image's node is.
pub fn image(node: &Node) -> &Image {
    let Driver::Qcow2(image) = node.driver() else { panic!("no image") };
    image
}

impl Opened {
    pub fn new(made: &Made, read_only: bool) -> Self {
        Self::try_new(made, read_only).unwrap()
    }

    pub fn try_new(made: &Made, read_only: bool) -> Result<Self, OpenError> {
        let mut machine = Machine::new(1, &[made.bytes()], 1);
        machine.open(options(read_only))?;
        Ok(Self { machine })
    }

    pub fn node(&self) -> Arc<Node> {
        self.machine.node.clone().unwrap()
    }

    /// What is known of the bitmaps, oldest first.
    pub fn list(&self) -> Vec<BitmapInfo> {
        let mut list = self.node().points().tracking().list();
        list.reverse();
        list
    }

    pub fn marked(&self, name: &str) -> Vec<Range<u64>> {
        let bits = self.node().points().tracking().content(name).unwrap();
        let next = |run: &Range<u64>| bits.next_marked(run.end);
        std::iter::successors(bits.next_marked(0), next).collect()
    }

    /// Starts a write of a guest.
    pub fn begin(&self, offset: u64, len: u64, byte: u8) -> Slot<Outcome> {
        let mut buf = Buf::new(usize::try_from(len).unwrap());
        buf.as_mut_slice().fill(byte);
        self.machine.begin(0, Request { kind: Kind::Write, fua: false, offset, len, memory: Memory::from(buf) })
    }

    pub fn write(&mut self, offset: u64, len: u64) {
        let slot = self.begin(offset, len, 0x5a);
        while slot.borrow().is_none() {
            assert!(self.machine.step() || slot.borrow().is_some(), "everybody sleeps");
        }
        slot.take().unwrap().1.unwrap();
    }

    /// Changes bitmaps as a transaction does.
    pub fn edit(&mut self, edit: impl FnOnce(&mut Stage<Node>, &Arc<Node>) -> Result<(), BitmapError>) {
        self.try_edit(edit).unwrap();
    }

    pub fn try_edit(
        &mut self,
        edit: impl FnOnce(&mut Stage<Node>, &Arc<Node>) -> Result<(), BitmapError>,
    ) -> Result<(), BitmapError> {
        let (node, mut stage) = (self.node(), Stage::new());
        edit(&mut stage, &node)?;
        stage.prepare()?;
        for (node, name) in stage.leaving() {
            let removed = self.machine.run(move |io| async move { image(&node).remove_bitmap(&io, &name).await });
            removed.map_err(|error| BitmapError::NotRemoved(error.to_string()))?;
        }
        let mut stage = Some(stage);
        let mut committed = None;
        let mut commit = || committed = stage.take().map(Stage::commit);
        let grace = crate::node::points::hold(&[node], &mut commit).unwrap();
        assert!(grace.is_over(), "nobody is writing");
        committed.unwrap().settle();
        Ok(())
    }

    /// Adds a bitmap that the image keeps.
    pub fn add(&mut self, name: &str, granularity: u64, disabled: bool) {
        self.edit(|stage, node| stage.add(node, name, Some(granularity), true, disabled));
    }

    pub fn store(&mut self) -> Result<(), StoreError> {
        let node = self.node();
        self.machine.run(move |io| async move { image(&node).store_bitmaps(&io, node.points()).await })
    }

    /// Stores the bitmaps and closes the image; the file then.
    pub fn close(mut self) -> Made {
        self.store().unwrap();
        self.machine.close().unwrap();
        Made::of(&self.machine.contents()[0])
    }

    /// The file as it is now.
    pub fn file(&self) -> Made {
        Made::of(&self.machine.contents()[0])
    }
}
