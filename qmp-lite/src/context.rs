//! What commands act on: nodes, exports, jobs, objects, events, and the daemon's end.
//!
//! Knows no command. Everything here may be used from any thread.

use std::sync::{Arc, Condvar, Mutex, Once, PoisonError};

use tidemark_backend::error::GraphError;
use tidemark_backend::event::{self as backend, EventSink};
use tidemark_backend::export::Exports;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::{Uring, Workers};
use tidemark_backend::node::qcow2::changes::{ChangesEvent, Listener};
use tidemark_backend::reactor::Reactor;
use tidemark_jobs::{Engine, EngineHandle, checkpoint};

use crate::event::EventBus;
use crate::object::Objects;
use crate::transaction::Fleeces;

/// Who asks for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line: whoever wrote it started the daemon and may refer to descriptors it inherited.
    CommandLine,
    /// Everybody else.
    Monitor,
}

/// Everything a command may need.
#[derive(Clone)]
pub struct Context {
    /// The nodes.
    pub graph: Arc<Graph>,
    /// The exports.
    pub exports: Arc<Exports>,
    /// The jobs; their thread starts with the first question to it.
    pub jobs: EngineHandle,
    /// Exports that were made with a point in time.
    pub fleeces: Arc<Fleeces>,
    /// The objects of `object-add`.
    pub objects: Arc<Objects>,
    /// Where events go.
    pub events: Arc<EventBus>,
    /// Whether the daemon is to end.
    pub quit: Arc<Quit>,
    /// Who asks.
    pub origin: Origin,
}

impl Context {
    /// No nodes, no exports, no objects, nobody listening.
    pub fn new() -> Self {
        let graph = Graph::new();
        let events = EventBus::new();
        let jobs = jobs(&graph, &events);
        let fleeces: Arc<Fleeces> = Arc::default();
        let exports = Exports::new(graph.clone(), sink(&events, &jobs, &fleeces));
        graph.on_changes(changes(&graph, &events, &jobs));
        Self {
            graph,
            exports,
            jobs,
            fleeces,
            objects: Arc::default(),
            events,
            quit: Arc::default(),
            origin: Origin::Monitor,
        }
    }

    /// The id of an export of this node.
    pub fn export_of(&self, node: &str) -> Option<String> {
        let mut exports = self.exports.list().into_iter();
        exports.find(|export| export.node.name() == node).map(|export| export.id)
    }

    /// Ends all jobs without a result, then all exports, then closes the nodes, parents before children.
    pub fn close(&self) {
        if let Err(error) = self.jobs.cancel_all() {
            tracing::error!("{error}");
        }
        self.exports.remove_all();
        // By name: a node that is still held here would not let go of those it uses.
        let nodes = self.graph.nodes().into_iter().rev().filter(|node| node.is_root());
        let names: Vec<_> = nodes.map(|node| node.name().to_owned()).collect();
        for name in names {
            if let Err(error) = self.graph.close(&name) {
                tracing::warn!("{error}");
            }
        }
    }
}

/// Tells `events` what happens to exports, and a point in time that its export has ended.
fn sink(events: &Arc<EventBus>, jobs: &EngineHandle, fleeces: &Arc<Fleeces>) -> EventSink {
    let (bus, jobs, fleeces) = (events.clone(), jobs.clone(), fleeces.clone());
    Arc::new(move |event| {
        if let backend::Event::ExportDeleted { id } = &event {
            fleeces.export_ended(&jobs, id);
        }
        bus.send(event.into());
    })
}

/// Jobs whose thread works on the files of `graph` and tells `events` of them.
fn jobs(graph: &Arc<Graph>, events: &Arc<EventBus>) -> EngineHandle {
    let (files, workers, bus) = (graph.files().clone(), Workers::new(), events.clone());
    let reactor = move || {
        let ring = Uring::new(files.clone(), workers.clone())?;
        Reactor::new(Box::new(ring)).map_err(|error| GraphError::Uring(error.to_string()))
    };
    Engine::spawn(reactor, Arc::new(move |event| bus.send(event.into())))
}

/// Has `events` told what happens to change journals; with the first of them checkpoints begin.
fn changes(graph: &Arc<Graph>, events: &Arc<EventBus>, jobs: &EngineHandle) -> Listener {
    let (graph, bus, jobs, begun) = (Arc::downgrade(graph), events.clone(), jobs.clone(), Once::new());
    Arc::new(move |node, event| {
        let node = node.to_owned();
        match event.clone() {
            ChangesEvent::Kept => begun.call_once(|| {
                let graph = graph.clone();
                let run = async move |registry| checkpoint::run(registry, graph, checkpoint::INTERVAL_NS).await;
                if let Err(error) = jobs.send_async(run) {
                    tracing::warn!(%error, "there are no checkpoints of change journals: more is recovered after a crash");
                }
            }),
            ChangesEvent::Recovered(bitmaps) => bus.send(backend::Event::BitmapsRecovered { node, bitmaps }.into()),
            ChangesEvent::GivenUp(error) => bus.send(backend::Event::ChangeJournalLost { node, error }.into()),
        }
    })
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether somebody asked the daemon to end.
#[derive(Debug, Default)]
pub struct Quit {
    requested: Mutex<bool>,
    changed: Condvar,
}

impl Quit {
    /// Asks for the end.
    pub fn request(&self) {
        *self.requested.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        *self.requested.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the end is asked for.
    pub fn wait(&self) {
        let mut requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        while !*requested {
            requested = self.changed.wait(requested).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
