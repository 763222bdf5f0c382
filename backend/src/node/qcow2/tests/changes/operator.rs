//! What an operator does to an image while a guest uses it: checkpoints, changes of bitmaps, backups, other lengths. One
//! at a time, but for a backup's end, which comes when it comes.

use super::truth::{Action, Truth};
use crate::bitmaps::{Outcome, Resize, Stage};
use crate::epoch::Grace;
use crate::graph::Graph;
use crate::io::sim::World;
use crate::node::Node;
use crate::node::points::{grace, hold as try_hold};
use crate::node::qcow2::tests::bitmaps::opened::image;
use crate::reactor::Handle;
use std::cell::RefCell;
use std::rc::Rc;
use std::slice;
use std::sync::Arc;

/// Nanoseconds between two looks.
const LOOK_NS: u64 = 10_000;

/// What an image is doing, by events of a recording.
#[derive(Clone, Default)]
pub struct Phases(Rc<RefCell<Vec<(usize, &'static str)>>>);

impl Phases {
    pub fn say(&self, event: usize, what: &'static str) {
        self.0.borrow_mut().push((event, what));
    }

    pub fn at(&self, event: usize) -> &'static str {
        let said = self.0.borrow();
        let until = said.partition_point(|(since, _)| *since <= event);
        said[..until].last().map_or("opening", |(_, what)| *what)
    }
}

/// Whoever does it to a node.
#[derive(Clone)]
pub struct Operator {
    pub node: Arc<Node>,
    pub world: World,
    pub truth: Rc<RefCell<Truth>>,
    pub phases: Phases,
}

impl Operator {
    pub fn event(&self) -> usize {
        self.world.recorded()
    }

    pub fn say(&self, what: &'static str) {
        self.phases.say(self.event(), what);
    }

    /// A checkpoint, whose bitmaps are stored or not.
    pub async fn checkpoint(self, io: Handle, stores: bool) {
        let image = image(&self.node);
        let Some(journal) = image.changes().journal() else { return };
        self.say("checkpoint: turning");
        if let Some(turning) = image.turn_changes(&io, &journal).await {
            self.say("checkpoint: holding");
            let mut edit = || {
                turning.take_effect();
                self.node.keep_changes();
                self.truth.borrow_mut().turned(self.event());
            };
            hold(&io, &self.node, &mut edit).await;
        }
        if stores {
            self.say("checkpoint: storing");
            let turn = self.truth.borrow().turn();
            image.store_changes(&io, self.node.points()).await;
            if image.changes().journal().is_some() {
                self.truth.borrow_mut().stored(turn, self.event());
            }
        }
        self.say("load");
    }

    /// A transaction of actions on bitmaps.
    pub async fn transact(self, io: Handle, actions: Vec<(String, Action)>) {
        self.say("transaction");
        let (image, begun) = (image(&self.node), self.event());
        let mut stage = Stage::new();
        for (name, action) in &actions {
            self.stage(&mut stage, name, action);
        }
        stage.prepare().unwrap();
        if !stage.keeping().is_empty() {
            image.ensure_changes(&io).await.unwrap();
        }
        let leaving = stage.leaving();
        for (_, name) in &leaving {
            image.remove_bitmap(&io, name).await.unwrap();
        }
        let (mut stage, mut committed, mut versions) = (Some(stage), None, Vec::new());
        let mut edit = || {
            committed = stage.take().map(Stage::commit);
            self.node.keep_changes();
            let mut truth = self.truth.borrow_mut();
            versions = actions.iter().map(|(name, action)| truth.act(name, action, begun, self.event())).collect();
        };
        let grace = hold(&io, &self.node, &mut edit).await;
        over(&io, &grace).await;
        committed.unwrap().settle();
        image.save_changes(&io, self.node.points()).await;
        for (_, name) in &leaving {
            image.remove_bitmap(&io, name).await.unwrap();
        }
        if !leaving.is_empty() {
            hold(&io, &self.node, &mut || self.node.end_changes()).await;
        }
        for ((name, _), version) in actions.iter().zip(versions) {
            self.truth.borrow_mut().ack(name, version, self.event());
        }
        self.say("load");
    }

    fn stage(&self, stage: &mut Stage<Node>, name: &str, action: &Action) {
        let node = &self.node;
        let staged = match action {
            Action::Add { granularity, recording } => stage.add(node, name, Some(*granularity), true, !recording),
            Action::Remove => stage.remove(node, name),
            Action::Clear => stage.clear(node, name),
            Action::Enable => stage.enable(node, name),
            Action::Disable => stage.disable(node, name),
            Action::Merge { source } => stage.merge(node, name, &[(node.clone(), source.clone())]),
            Action::Freeze => stage.freeze(node, name, true).map(drop),
            Action::Release { .. } => unreachable!("no action of a transaction"),
        };
        staged.unwrap();
    }

    /// The end of a backup that has used a bitmap.
    pub async fn release(self, io: Handle, name: String, replace: bool) {
        let outcome = if replace { Outcome::Replace(None) } else { Outcome::Keep };
        let (mut released, mut version, begun) = (None, 0, self.event());
        let mut edit = || {
            released = Some(self.node.points().tracking().release(&name, outcome.clone()));
            let action = Action::Release { replace };
            version = self.truth.borrow_mut().act(&name, &action, begun, self.event());
        };
        let grace = hold(&io, &self.node, &mut edit).await;
        over(&io, &grace).await;
        released.unwrap().settle();
        image(&self.node).save_changes(&io, self.node.points()).await;
        self.truth.borrow_mut().ack(&name, version, self.event());
    }

    /// The disk gets longer.
    pub async fn grow(self, io: Handle, graph: Arc<Graph>, size: u64) {
        self.say("resize");
        self.truth.borrow_mut().growths.push((self.event()..usize::MAX, self.node.length()));
        let (image, tracking) = (image(&self.node), self.node.points().tracking());
        let journal = image.changes().journal();
        let mut prepared = Some(Resize::prepare(tracking, self.node.length(), size).unwrap());
        let turning = match &journal {
            Some(journal) => image.resize_changes(&io, journal, size).await,
            None => None,
        };
        let (unsettled, mut left) = (tracking.count_unsettled(), Vec::new());
        let mut edit = || {
            left.extend(prepared.take().unwrap().commit(tracking));
            turning.iter().for_each(|turning| turning.take_effect());
            self.node.keep_changes();
        };
        let grace = hold(&io, &self.node, &mut edit).await;
        over(&io, &grace).await;
        left.iter().for_each(|(new, old)| new.merge(old));
        drop((unsettled, turning));
        graph.resize(&io, &self.node, size).await.unwrap();
        image.save_changes(&io, self.node.points()).await;
        self.truth.borrow_mut().growths.last_mut().unwrap().0.end = self.event();
        self.say("load");
    }
}

async fn hold(io: &Handle, node: &Arc<Node>, edit: &mut dyn FnMut()) -> Grace {
    loop {
        over(io, &grace(slice::from_ref(node))).await;
        if let Ok(grace) = try_hold(slice::from_ref(node), edit) {
            return grace;
        }
    }
}

async fn over(io: &Handle, grace: &Grace) {
    while !grace.is_over() {
        io.sleep_until(io.read_clock() + LOOK_NS).await;
    }
}
