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
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tidemark_backend::node::nbd::NbdClientOptions;
use tidemark_backend::node::options::DriverOptions;
use tidemark_backend::node::{Driver, Node, NodeOptions};
use tidemark_backend::reactor::Handle;
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
    let source = open(None)?;
    let bitmap = options.bitmap.as_ref().map(|name| open(Some(format!("qemu:dirty-bitmap:{name}")))).transpose()?;
    let parent = parent(&context, &directory, &disk, source.length(), options)?;
    let mut pull = Pull { context, directory, disk, source, bitmap, parent, address: address.to_owned() };
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
        read_only: true,
        ..NodeOptions::new(DriverOptions::Nbd(Arc::new(client)))
    };
    Ok(context.graph.open(&options)?)
}

/// The image that the backup goes above, or why it is full.
fn parent(
    context: &Context,
    directory: &Directory,
    disk: &str,
    size: u64,
    options: &BackupOptions,
) -> Result<Result<String, String>> {
    let (Some(bitmap), Some(since)) = (&options.bitmap, options.since) else {
        return Ok(Err("no --bitmap says what has changed".to_owned()));
    };
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
    bitmap: Option<Arc<Node>>,
    parent: Result<String, String>,
    address: String,
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
            parent: self.parent.clone().ok(),
            size: self.source.length(),
            checksums: Checksums { file: sums, algorithm: ALGORITHM.to_owned(), block: BLOCK, sha256 },
            bitmap: None,
            change_id: None,
            full_because: self.parent.clone().err(),
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
        layer::create(&path, self.source.length(), self.parent.as_deref().ok())?;
        let target = Layer::change(&self.context, &path)?;
        let done = Arc::new(AtomicU64::new(0));
        let apply = Apply {
            source: self.source.clone(),
            source_path: PathBuf::from(&self.address),
            below: Below::Chain,
            target: target.node.clone(),
            target_path: path,
            is_empty: self.parent.is_err(),
            done: done.clone(),
        };
        let bitmap = self.bitmap.clone().filter(|_| self.parent.is_ok());
        let work = Work { what: printable(&self.disk), total: self.source.length(), done, interrupt: None };
        work.run(&self.context, async move |io| match bitmap {
            None => apply.run(io).await,
            Some(bitmap) => {
                let end = apply.source.length();
                let mut copies = Copies::new(apply);
                let copied = marked(io, &mut copies, &bitmap, end).await;
                copies.end(io, copied).await
            }
        })?;
        target.close(&self.context)
    }
}

/// Begins to copy the blocks of which a bitmap marks something.
async fn marked(io: &Handle, copies: &mut Copies, bitmap: &Node, end: u64) -> Result<()> {
    let Driver::Nbd(client) = bitmap.driver() else { bail!("a bitmap of no server") };
    let (mut at, mut copied) = (0, 0);
    while at < end {
        let extents = client.extents(at, LOOK.min(end - at), false).await.context("the bitmap cannot be read")?;
        let extents = extents.filter(|extents| !extents.is_empty()).context("the server does not have this bitmap")?;
        for extent in extents {
            if extent.flags & DIRTY != 0 {
                let until = (at + extent.len).next_multiple_of(BLOCK).min(end);
                copies.range(io, copied.max(at - at % BLOCK), until).await?;
                copied = copied.max(until);
            }
            at += extent.len;
        }
    }
    Ok(())
}
