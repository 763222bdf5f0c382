//! The action `x-fleece`: a point in time of a node for readers, with an NBD export of it if one is asked for.
//!
//! Jobs know no exports. So what can be wrong with the export is looked for before the transaction, it is made right
//! after it, and the job is cancelled if that fails. The export's end is the job's, and the job's end is the export's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tidemark_backend::export::nbd::{NbdBitmap, NbdOptions};
use tidemark_backend::export::{ExportError, Exports, RemoveMode};
use tidemark_backend::node::copy_before_write::CbwOptions;
use tidemark_jobs::action::{BitmapMode, FleeceOptions, Leave};
use tidemark_jobs::{EngineHandle, Status};

use crate::block::copy_before_write::OnCbwError;
use crate::context::Context;
use crate::error::QmpError;
use crate::job::backup::BitmapSyncMode;
use crate::schema::{Size, qapi_enum, qapi_struct};

const NS_PER_SECOND: u64 = 1_000_000_000;
/// `cbw-timeout` if nothing is said: a guest waits less long for storage that hangs than its driver does.
const TIMEOUT_SECONDS: u32 = 10;

qapi_struct! {
    /// A point in time of a node, to be read while guests go on writing. A job of type x-fleece keeps it: it is ready at
    /// once, `job-complete` says that what was there has been fetched, and `job-cancel` that it has not. A client of the
    /// export that trims an area has what it needs of it: nothing of it is preserved, or can be read, any longer. If the
    /// export ends before the job does, nothing counts as fetched.
    pub struct XFleece "XFleece" {
        /// The node.
        "node" node: String,
        /// The node to keep on what guests overwrite; as long as the other one or longer.
        "target" target: String,
        /// A name for the new node that reads the point in time. It goes when the job ends.
        "snapshot-node-name" snapshot_node_name: String,
        /// The job's id; the name of the new node if absent.
        "job-id" job_id: Option<String>,
        /// A name for the filter that the job puts above the node; made up if absent.
        "filter-node-name" filter_node_name: Option<String>,
        /// A bitmap of the node. The new node has one of the same name that marks what this one marks now, and this one
        /// begins anew.
        "bitmap" bitmap: Option<String>,
        /// What becomes of that bitmap when the job ends: with on-success, it marks again what it has marked, unless the
        /// job was completed; with never, it does so in any case; always takes what clients have trimmed for fetched if
        /// the job is not completed. on-success if absent.
        "bitmap-mode" bitmap_mode: Option<BitmapSyncMode>,
        /// What of the point in time is kept; full if absent.
        "sync" sync: Option<XFleeceSync>,
        /// What becomes of a guest's write if what it overwrites cannot be kept in time; break-snapshot if absent.
        "on-cbw-error" on_cbw_error: Option<OnCbwError>,
        /// Seconds after which that is so; 0 is never. 10 if absent.
        "cbw-timeout" cbw_timeout: Option<u32>,
        /// The least bytes to copy for a write, a power of two; 0, what suits, if absent.
        "min-cluster-size" min_cluster_size: Option<Size>,
        /// An export of the new node by the NBD server, with its bitmap. None if absent.
        "export" export: Option<XFleeceExport>,
    }
}

qapi_struct! {
    /// An export of a point in time.
    pub struct XFleeceExport "XFleeceExport" {
        /// Its id.
        "id" id: String,
        /// The name by which clients ask for it; the name of the new node if absent.
        "name" name: Option<String>,
        /// What clients that list the exports are told of it.
        "description" description: Option<String>,
        /// Whether clients may trim; they cannot write in any case. On if absent.
        "writable" writable: Option<bool>,
        /// Whether the export ends, and the job with it, when its last client has left: not for tools that connect several
        /// times, one after the other. Off if absent.
        "until-unused" until_unused: Option<bool>,
    }
}

qapi_enum! {
    /// What is kept of a point in time.
    pub enum XFleeceSync "XFleeceSync" {
        /// Everything.
        Full = "full",
        /// What the bitmap marks. The rest cannot be read, and guests that write there wait for nothing.
        Bitmap = "bitmap",
    }
}

/// The exports that were made with a point in time: what is exported, by the id of the export, with its job's id.
#[derive(Debug, Default)]
pub struct Fleeces(Mutex<BTreeMap<String, String>>);

impl Fleeces {
    /// An export has ended: so does the job that it was made with, if that goes on.
    pub(crate) fn export_ended(&self, jobs: &EngineHandle, export: &str) {
        let Some(job) = self.lock().remove(export) else { return };
        let cancel = async move |registry: tidemark_jobs::Registry| {
            if let Some(job) = registry.find(&job).filter(|job| is_at_work(job.status())) {
                registry.cancel(&job, true).await;
            }
        };
        if let Err(error) = jobs.send_async(cancel) {
            tracing::error!("the point in time of export '{export}' does not end with it: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_at_work(status: Status) -> bool {
    matches!(status, Status::Running | Status::Paused | Status::Ready | Status::Standby)
}

/// An export to be made when the transaction is done.
pub(super) struct Pending {
    job: String,
    options: NbdOptions,
    until_unused: bool,
}

impl XFleece {
    fn job(&self) -> &str {
        self.job_id.as_deref().unwrap_or(&self.snapshot_node_name)
    }

    /// What the transaction is to do.
    pub(super) fn options(&self, context: &Context) -> FleeceOptions {
        let Size(min_chunk) = self.min_cluster_size.unwrap_or(Size(0));
        let on_error = self.on_cbw_error.unwrap_or(OnCbwError::BreakSnapshot).into();
        let timeout_ns = u64::from(self.cbw_timeout.unwrap_or(TIMEOUT_SECONDS)) * NS_PER_SECOND;
        FleeceOptions {
            job_id: self.job().to_owned(),
            node: self.node.clone(),
            target: self.target.clone(),
            snapshot_node_name: self.snapshot_node_name.clone(),
            filter_node_name: self.filter_node_name.clone(),
            bitmap: self.bitmap.clone(),
            bitmap_mode: self.bitmap_mode.map(BitmapMode::from),
            selects: self.sync == Some(XFleeceSync::Bitmap),
            copying: CbwOptions { on_error, timeout_ns, min_chunk },
            leave: leave(context, &self.snapshot_node_name),
        }
    }

    /// The export to be made of it. What would keep it from being made is said now, as far as it can be known.
    pub(super) fn pending(&self, context: &Context, others: &[Pending]) -> Result<Option<Pending>, QmpError> {
        let Some(export) = &self.export else { return Ok(None) };
        let node = &self.snapshot_node_name;
        let options = NbdOptions {
            id: export.id.clone(),
            node: node.clone(),
            name: export.name.clone().unwrap_or_else(|| node.clone()),
            description: export.description.clone(),
            writable: export.writable.unwrap_or(true),
            writethrough: false,
            bitmaps: self
                .bitmap
                .iter()
                .map(|name| NbdBitmap { node: Some(node.clone()), name: name.clone() })
                .collect(),
            allocation_depth: false,
        };
        context.exports.check_nbd(&options)?;
        if others.iter().any(|other| other.options.id == options.id) {
            return Err(ExportError::IdTaken(options.id).into());
        }
        if others.iter().any(|other| other.options.name == options.name) {
            return Err(ExportError::NameTaken(options.name).into());
        }
        let until_unused = export.until_unused == Some(true);
        Ok(Some(Pending { job: self.job().to_owned(), options, until_unused }))
    }
}

/// Makes the exports. If one cannot be made, all the points in time of `pending` end, as if they had not been.
pub(super) fn export(context: &Context, pending: Vec<Pending>) -> Result<(), QmpError> {
    let jobs: Vec<String> = pending.iter().map(|pending| pending.job.clone()).collect();
    pending.into_iter().try_for_each(|pending| add(context, pending)).inspect_err(|_| {
        for job in jobs {
            // One that has failed by itself meanwhile has given back what it had.
            let _ =
                context.jobs.command(tidemark_jobs::Family::Job, &job, tidemark_jobs::Command::Cancel { force: true });
        }
    })
}

fn add(context: &Context, Pending { job, options, until_unused }: Pending) -> Result<(), QmpError> {
    let id = options.id.clone();
    // Before it is there, so that it cannot end unseen.
    context.fleeces.lock().insert(id.clone(), job);
    context.exports.add_nbd(options).inspect_err(|_| drop(context.fleeces.lock().remove(&id)))?;
    if until_unused {
        end_when_unused(context, id)?;
    }
    Ok(())
}

/// Has an export end when it has had clients and they have left.
fn end_when_unused(context: &Context, id: String) -> Result<(), QmpError> {
    let exports = context.exports.clone();
    let wait = move || {
        exports.wait_used(&id);
        // Somebody may have ended it meanwhile.
        let _ = exports.remove(&id, RemoveMode::Hard);
    };
    let thread = std::thread::Builder::new().name("x-fleece-unused".into()).spawn(wait);
    thread.map(drop).map_err(|error| QmpError::generic(format!("Nobody can wait for the clients: {error}")))
}

/// Has the exports of a node end, whoever made them.
fn leave(context: &Context, node: &str) -> Leave {
    let (exports, fleeces) = (Arc::downgrade(&context.exports), context.fleeces.clone());
    let node = node.to_owned();
    Leave::new(move || {
        let Some(exports) = Weak::upgrade(&exports) else { return };
        let ids: Vec<String> = exported(&exports, &node);
        // They end with their job, not the other way round.
        ids.iter().for_each(|id| drop(fleeces.lock().remove(id)));
        let end = move || ids.iter().for_each(|id| drop(exports.remove(id, RemoveMode::Hard)));
        if let Err(error) = std::thread::Builder::new().name("x-fleece".into()).spawn(end) {
            tracing::error!("the exports of '{node}' do not end by themselves: {error}");
        }
    })
}

fn exported(exports: &Exports, node: &str) -> Vec<String> {
    exports.list().into_iter().filter(|export| export.node.name() == node).map(|export| export.id).collect()
}
