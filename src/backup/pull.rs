//! `tidemark backup --nbd URI --to DIR`: one more point in time of a disk that an NBD server shows.
//!
//! The server keeps the point in time and its bitmap, whoever made them: libvirt in pull mode, a script, another tool. So
//! what is known here is less than of a daemon: since when the bitmap records is what the user says, and what is checked is
//! that the point meant is the newest that the directory has of the disk. The directory goes through the same states as in
//! [`super::run`]: files are garbage of the manifest until the point is in it.

use super::apply::{Apply, Copies};
use super::directory::{Directory, Purpose};
use super::layer::{self, Below, Layer, check_chain};
use super::manifest::{ALGORITHM, BLOCK, Checksums, Entry, Point};
use super::offline::Work;
use super::{BackupOptions, files, prune, run, seal, uri};
use crate::inspect::printable;
use anyhow::{Context as _, Result, bail, ensure};
use qmp_lite::context::Context;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemark_backend::node::nbd::NbdClientOptions;
use tidemark_backend::node::options::DriverOptions;
use tidemark_backend::node::{Driver, Node, NodeOptions};
use tidemark_backend::tls;

/// Bytes that a bitmap is asked about at a time.
const LOOK: u64 = 1 << 30;
/// Connections, at most, if the server can have several.
const CONNECTIONS: u32 = 4;
/// Of the flags of a dirty bitmap's extents: it is dirty (QEMU, docs/interop/nbd.txt).
const DIRTY: u64 = 1;

/// Makes one more point in time.
///
/// # Errors
/// There is no such server, export, bitmap or directory. The directory has the points that it had.
pub fn pull(options: &BackupOptions) -> Result<()> {
    let address = options.nbd.as_deref().context("--nbd URI says where the disk is")?;
    let to = options.to.as_deref().context("--to DIR says where the backup goes")?;
    let export = uri::parse(address)?;
    let disk = match options.node.as_slice() {
        [] if export.name.is_empty() => "disk".to_owned(),
        [] => export.name.clone(),
        [name] => name.clone(),
        _ => bail!("--nbd reads one disk, and --node names several"),
    };
    let mut directory = Directory::open(to, Purpose::Create)?;
    let context = Context::new();
    prune::finish(&context, &mut directory)?;
    directory.remove_garbage()?;
    let tls = credentials(address, &export, options.tls_creds.as_deref())?;
    let open = |dirty_bitmap| connect(&context, &export, &tls, dirty_bitmap).with_context(|| format!("'{address}'"));
    let since = match &options.bitmap {
        None => Err("no --bitmap says what has changed".to_owned()),
        Some(name) => {
            // Done with before the disk is opened: some servers serve one client at a time.
            let bitmap = open(Some(format!("qemu:dirty-bitmap:{name}")))?;
            since(&context, &directory, &disk, bitmap, name, options.since)?
        }
    };
    let source = open(None)?;
    let of_bitmap = since.as_ref().map_or(source.length(), |since| since.size);
    ensure!(source.length() == of_bitmap, "'{address}' has {} bytes, and its bitmap {of_bitmap}", source.length());
    let mut pull = Pull { context, directory, disk, source, since, address: address.to_owned() };
    let made = pull.make();
    if made.is_err() {
        // The error that matters is the first one; the next run removes what is left.
        let _ = pull.directory.remove_garbage();
    }
    let point = made.with_context(|| format!("'{}' has the points that it had", to.display()))?;
    run::tell(&pull.directory, &point)
}

/// What the server is shown and what it has to show, if it is spoken to through TLS.
fn credentials(address: &str, export: &uri::Export, dir: Option<&Path>) -> Result<Option<Arc<tls::Client>>> {
    match (export.tls, dir) {
        (false, None) => Ok(None),
        (false, Some(_)) => bail!("'{address}' is read without TLS: --tls-creds goes with nbds:// and nbds+unix://"),
        (true, None) => bail!("'{address}' is read through TLS: --tls-creds DIR says where ca-cert.pem is"),
        (true, Some(dir)) => {
            let x509 = tls::X509 { verify_peer: true, sanity_check: true };
            Ok(Some(Arc::new(tls::Client::open(dir, x509)?)))
        }
    }
}

/// A node for an export.
fn connect(
    context: &Context,
    export: &uri::Export,
    tls: &Option<Arc<tls::Client>>,
    dirty_bitmap: Option<String>,
) -> Result<Arc<Node>> {
    let client = NbdClientOptions {
        server: export.server.clone(),
        export: export.name.clone(),
        tls_creds: None,
        tls: tls.clone(),
        tls_hostname: None,
        dirty_bitmap,
        reconnect_delay: Duration::ZERO,
        open_timeout: Duration::ZERO,
        connections: CONNECTIONS,
    };
    let options = NodeOptions {
        node_name: Some(format!("source{}", fastrand::u64(..))),
        read_only: true.into(),
        ..NodeOptions::new(DriverOptions::Nbd(Arc::new(client)))
    };
    Ok(context.graph.open(&options)?)
}

/// What the backup is incremental by, or why it is full. The bitmap is closed.
fn since(
    context: &Context,
    directory: &Directory,
    disk: &str,
    bitmap: Arc<Node>,
    name: &str,
    point: Option<u64>,
) -> Result<Result<Since, String>> {
    let size = bitmap.length();
    let since = match parent(context, directory, disk, size, name, point)? {
        Ok(parent) => Ok(Since { parent, size, marked: marked(context, &bitmap)? }),
        Err(because) => Err(because),
    };
    let node = bitmap.name().to_owned();
    drop(bitmap);
    context.graph.close(&node)?;
    Ok(since)
}

/// The image that the backup goes above, or why it is full.
fn parent(
    context: &Context,
    directory: &Directory,
    disk: &str,
    size: u64,
    bitmap: &str,
    since: Option<u64>,
) -> Result<Result<String, String>> {
    let since = since.context("--since POINT says since when the bitmap records")?;
    let points = &directory.manifest.points;
    let newest = points.iter().rev().find_map(|point| Some((point.number, point.disk(disk)?)));
    let disk = printable(disk);
    let (number, last) = newest.with_context(|| {
        format!("there is no point of disk '{disk}' that '{bitmap}' could record since; leave --bitmap out")
    })?;
    ensure!(
        number == since,
        "the newest point of disk '{disk}' is {number}, and '{bitmap}' records since {since}: what is between them would be \
         missing. Name the bitmap that records since {number}, or leave --bitmap out"
    );
    if last.size != size {
        return Ok(Err(format!("the disk has {size} bytes, and had {} at the point before", last.size)));
    }
    let chain = directory.manifest.chain(last);
    Ok(match check_chain(context, directory, &chain) {
        Ok(()) => Ok(last.file.clone()),
        Err(error) => Err(format!("the chain in the directory is broken: {error:#}")),
    })
}

struct Pull {
    context: Context,
    directory: Directory,
    disk: String,
    source: Arc<Node>,
    /// What it is incremental by, or why it is full.
    since: Result<Since, String>,
    address: String,
}

/// What there is of an incremental backup before the disk is read.
struct Since {
    /// The image that it goes above.
    parent: String,
    /// Bytes of the disk that the bitmap is of.
    size: u64,
    /// The blocks that the bitmap marks something of, in order. A run and what is between it and the next one are two blocks
    /// at least, so there are no more than 8 million in a TiB.
    marked: Vec<Range<u64>>,
}

impl Pull {
    fn make(&mut self) -> Result<Point> {
        let (number, time) = (self.directory.manifest.next, run::now()?);
        let stem = files::stem(&self.disk, 0, number);
        let (file, sums) = (format!("{stem}.qcow2"), format!("{stem}.sums"));
        self.directory.manifest.next += 1;
        self.directory.manifest.discard([file.clone(), sums.clone()]);
        self.directory.store()?;
        self.copy(&file)?;
        let sha256 = seal::seal(&self.context, &self.directory, &file, &sums, None)?;
        self.directory.sync()?;
        let entry = Entry {
            disk: self.disk.clone(),
            parent: self.since.as_ref().ok().map(|since| since.parent.clone()),
            size: self.source.length(),
            checksums: Checksums { file: sums, algorithm: ALGORITHM.to_owned(), block: BLOCK, sha256 },
            bitmap: None,
            change_id: None,
            full_because: self.since.as_ref().err().cloned(),
            merging: None,
            file,
        };
        let point = Point { number, time, disks: vec![entry] };
        self.directory.manifest.adopt(&point.disks.iter().flat_map(Entry::files).collect::<Vec<_>>());
        self.directory.manifest.points.push(point.clone());
        self.directory.store()?;
        Ok(point)
    }

    /// Makes the image and reads the disk, or what the bitmap marks, into it.
    fn copy(&self, file: &str) -> Result<()> {
        let path = self.directory.file(file);
        let since = self.since.as_ref().ok();
        layer::create(&path, self.source.length(), since.map(|since| since.parent.as_str()))?;
        let target = Layer::change(&self.context, &path)?;
        let done = Arc::new(AtomicU64::new(0));
        let apply = Apply {
            source: self.source.clone(),
            source_path: PathBuf::from(&self.address),
            below: Below::Chain,
            target: target.node.clone(),
            target_path: path,
            is_empty: since.is_none(),
            done: done.clone(),
        };
        let marked = since.map(|since| since.marked.clone());
        let work = Work { what: printable(&self.disk), total: self.source.length(), done, interrupt: None };
        work.run(&self.context, async move |io| match marked {
            None => apply.run(io).await,
            Some(marked) => {
                let mut copies = Copies::new(apply);
                let copied = copies.ranges(io, marked).await;
                copies.end(io, copied).await
            }
        })?;
        target.close(&self.context)
    }
}

/// Reads a bitmap of the server.
fn marked(context: &Context, bitmap: &Arc<Node>) -> Result<Vec<Range<u64>>> {
    let done = Arc::new(AtomicU64::new(0));
    let work = Work { what: "the bitmap".to_owned(), total: bitmap.length(), done: done.clone(), interrupt: None };
    let bitmap = bitmap.clone();
    work.run(context, async move |_| marked_blocks(&bitmap, &done).await)
}

/// The blocks that a bitmap marks something of.
async fn marked_blocks(bitmap: &Node, done: &AtomicU64) -> Result<Vec<Range<u64>>> {
    let Driver::Nbd(client) = bitmap.driver() else { bail!("a bitmap of no server") };
    let (mut at, end, mut marked) = (0, bitmap.length(), Vec::<Range<u64>>::new());
    while at < end {
        let extents = client.extents(at, LOOK.min(end - at), false).await.context("the bitmap cannot be read")?;
        let extents = extents.filter(|extents| !extents.is_empty()).context("the server does not have this bitmap")?;
        for extent in extents {
            if extent.flags & DIRTY != 0 {
                let run = at - at % BLOCK..(at + extent.len).next_multiple_of(BLOCK).min(end);
                match marked.last_mut().filter(|last| last.end >= run.start) {
                    Some(last) => last.end = last.end.max(run.end),
                    None => marked.push(run),
                }
            }
            at += extent.len;
        }
        done.store(at, Ordering::Relaxed);
    }
    Ok(marked)
}
