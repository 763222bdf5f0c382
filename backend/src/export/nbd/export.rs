//! One export: a node under a name, with the bitmaps that its clients may ask for.

use super::clients::Clients;
use super::handshake::Offer;
use super::options::{NbdBitmap, NbdOptions};
use super::pool::THREADS_MAX;
use super::server::ServerShared;
use crate::bitmaps::Held;
use crate::export::stats::{Stats, Totals};
use crate::export::{ExportError, ExportInfo};
use crate::graph::Graph;
use crate::nbd_wire::handshake::export_flags;
use crate::node::{Door, Driver, Node};
use std::sync::Arc;

/// The longest string that the protocol knows, in bytes (proto.md, "Strings").
const STRING_MAX: usize = 4096;

/// A bitmap under its name.
pub struct ExportedBitmap {
    /// Its name.
    pub name: String,
    /// The bitmap, which nobody else uses as long as the export is there.
    pub held: Held,
}

/// A node under a name.
pub struct NbdExport {
    /// The export's id.
    pub id: String,
    /// What clients call it.
    pub name: String,
    /// What they are told of it.
    pub description: Option<String>,
    /// The way to its node.
    pub door: Arc<Door>,
    /// Whether clients may write.
    pub writable: bool,
    /// Whether every write is stable before it is answered.
    pub writethrough: bool,
    /// Whether clients may ask for `qemu:allocation-depth`.
    pub allocation_depth: bool,
    /// Its bitmaps, in the order given.
    pub bitmaps: Vec<ExportedBitmap>,
    /// Who is connected to it.
    pub clients: Arc<Clients>,
    /// Counters by thread.
    pub stats: [Stats; THREADS_MAX],
    server: Arc<ServerShared>,
}

impl NbdExport {
    /// Takes the node and its bitmaps into use and shows them to clients. One at a time.
    ///
    /// # Errors
    /// With QEMU's texts; see [`ExportError`].
    pub(in crate::export) fn new(
        options: NbdOptions,
        node: Arc<Node>,
        server: Arc<ServerShared>,
        graph: &Graph,
    ) -> Result<Arc<Self>, ExportError> {
        Self::check(&options, &server)?;
        let door = Door::open(&node, options.writable)?;
        let bitmaps = hold_bitmaps(&options, &node, graph)?;
        let NbdOptions { id, name, description, writable, writethrough, allocation_depth, .. } = options;
        let export = Arc::new(Self {
            id,
            name,
            description,
            door,
            writable,
            writethrough,
            allocation_depth,
            bitmaps,
            clients: Arc::default(),
            stats: Default::default(),
            server: server.clone(),
        });
        server.add(&export);
        Ok(export)
    }

    /// Says what is wrong with an export's names.
    ///
    /// # Errors
    /// One is too long, or known to clients already.
    pub(in crate::export) fn check(options: &NbdOptions, server: &ServerShared) -> Result<(), ExportError> {
        check_lengths(options)?;
        match server.find(options.name.as_bytes()) {
            Some(_) => Err(ExportError::NameTaken(options.name.clone())),
            None => Ok(()),
        }
    }

    /// Shows it to nobody any more, disconnects its clients and waits for their I/O; false if that was done before.
    pub(in crate::export) fn stop(self: &Arc<Self>) -> bool {
        let first = self.clients.close();
        if first {
            self.server.remove(self);
            self.clients.wait_empty();
            self.door.close();
        }
        first
    }

    /// What a management client asks.
    pub(in crate::export) fn info(&self) -> ExportInfo {
        ExportInfo {
            id: self.id.clone(),
            kind: "nbd",
            node: self.door.node(),
            writable: self.writable,
            shutting_down: self.clients.is_closed(),
            stats: Totals::of(&self.stats),
        }
    }

    /// What clients are told of it now.
    pub(super) fn offer(&self, server: &ServerShared) -> Offer {
        use export_flags::{
            CAN_MULTI_CONN, HAS_FLAGS, READ_ONLY, SEND_CACHE, SEND_FAST_ZERO, SEND_FLUSH, SEND_FUA, SEND_TRIM,
            SEND_WRITE_ZEROES,
        };
        let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_CACHE;
        flags |= if self.writable { SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO } else { READ_ONLY };
        // All connections are to one node: a flush is of everything that has been written through any of them.
        flags |= if server.allows_several() { CAN_MULTI_CONN } else { 0 };
        let node = self.door.node();
        Offer {
            name: self.name.clone(),
            description: self.description.clone(),
            size: node.length() & !511,
            flags,
            alignment: node.request_alignment(),
            allocation_depth: self.allocation_depth,
            bitmaps: self.bitmaps.iter().map(|bitmap| bitmap.name.clone()).collect(),
        }
    }
}

fn check_lengths(options: &NbdOptions) -> Result<(), ExportError> {
    if options.name.len() > STRING_MAX {
        return Err(ExportError::NameTooLong(options.name.clone()));
    }
    match &options.description {
        Some(text) if text.len() > STRING_MAX => Err(ExportError::DescriptionTooLong(text.clone())),
        _ => Ok(()),
    }
}

fn hold_bitmaps(options: &NbdOptions, node: &Arc<Node>, graph: &Graph) -> Result<Vec<ExportedBitmap>, ExportError> {
    let held = options.bitmaps.iter().map(|bitmap| {
        let held = hold_bitmap(bitmap, options, node, graph)?;
        Ok(ExportedBitmap { name: bitmap.name.clone(), held })
    });
    held.collect()
}

fn hold_bitmap(bitmap: &NbdBitmap, options: &NbdOptions, node: &Arc<Node>, graph: &Graph) -> Result<Held, ExportError> {
    if let Some(named) = &bitmap.node {
        let owner = graph.find(named).ok_or_else(|| ExportError::BitmapNodeNotFound(named.clone()))?;
        return Ok(owner.points().tracking().hold(&bitmap.name)?);
    }
    let mut shown = shown(node);
    let owner = shown.find(|node| node.points().tracking().has(&bitmap.name));
    let owner = owner.ok_or_else(|| ExportError::BitmapNotFound(bitmap.name.clone()))?;
    let held = owner.points().tracking().hold(&bitmap.name)?;
    match !options.writable && !owner.is_read_only() && held.is_enabled() {
        true => Err(ExportError::BitmapEnabled(bitmap.name.clone())),
        false => Ok(held),
    }
}

/// A node and those whose content it shows where it has none of its own: filters' and images' below.
fn shown(node: &Arc<Node>) -> impl Iterator<Item = Arc<Node>> + use<> {
    std::iter::successors(Some(node.clone()), |node| match node.driver() {
        Driver::Qcow2(image) => image.backing(),
        _ if node.is_filter() => node.child(),
        _ => None,
    })
}
