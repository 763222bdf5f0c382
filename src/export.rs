//! `tidemark export`: one disk image, or what it was at an internal snapshot, over NBD until its clients have left.
//!
//! Knows paths and what people say about them; the server is the back end's. The address to connect to is the one line on
//! standard output, printed when clients can connect.

mod uri;

use crate::image::{Cache, Changes, Format, Image};
use crate::{lifetime, logging};
use anyhow::{Context as _, bail};
use qmp_lite::context::Context;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_backend::export::nbd::{NbdAddress, NbdBitmap, NbdOptions, NbdServerOptions};
use tidemark_backend::tls::{Server, X509};
use uri::{Place, uri};

/// What node and export are called inside.
const ID: &str = "disk";
/// Clients at a time. Tools that copy fast connect several times.
const MAX_CONNECTIONS: u32 = 16;
/// How long a client may take to choose an export.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Options of `tidemark export`.
#[derive(clap::Args, Debug)]
pub struct ExportOptions {
    /// Disk image or block device.
    pub disk: PathBuf,
    /// Format of the image. Without it the image is raw and may not look like another format.
    #[arg(short, long, value_enum)]
    pub format: Option<Format>,
    /// The disk as it was at this internal snapshot of a qcow2 image, by its id or its name, read-only.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["writable", "bitmap"])]
    pub snapshot: Option<String>,
    /// UNIX socket to create; the disk's file name with `.nbd` appended, in the current directory, if neither this nor
    /// `--tcp` is given.
    #[arg(long, value_name = "PATH", conflicts_with = "tcp")]
    pub socket: Option<PathBuf>,
    /// TCP port to listen on, of all addresses of this machine or of one; port 0 is one that is free.
    #[arg(long, value_name = "[HOST:]PORT")]
    pub tcp: Option<String>,
    /// Name by which clients ask for the disk.
    #[arg(long, default_value = "")]
    pub name: String,
    /// What clients that list the exports are told of it.
    #[arg(long)]
    pub description: Option<String>,
    /// Let clients write. Without it they can only read.
    #[arg(long, conflicts_with = "read_only")]
    pub writable: bool,
    /// Let clients only read, which is what happens anyway unless `--writable` is given.
    #[arg(long)]
    pub read_only: bool,
    /// Bitmap of the image that clients may ask for as `qemu:dirty-bitmap:BITMAP`; may be given several times.
    #[arg(long)]
    pub bitmap: Vec<String>,
    /// Directory with `ca-cert.pem`, `server-cert.pem` and `server-key.pem`: clients have to speak TLS, and to have a
    /// certificate of that authority.
    #[arg(long, value_name = "DIRECTORY")]
    pub tls_creds: Option<PathBuf>,
    /// Go on after the last client has left, until a signal comes.
    #[arg(long)]
    pub persistent: bool,
    /// Let headers of qcow2 images name files below this directory too, and not only below the image's own; may be
    /// given several times.
    #[arg(long, value_name = "DIRECTORY")]
    pub backing_dir: Vec<PathBuf>,
}

/// Exports until the last client has left, or a signal comes.
///
/// # Errors
/// Anything that keeps the disk from being exported.
pub fn run(options: &ExportOptions) -> anyhow::Result<()> {
    logging::start(None);
    let context = Context::new();
    lifetime::obey_signals(context.quit.clone())?;
    options.backing_dir.iter().for_each(|dir| context.graph.allow_backing_in(dir.clone()));
    let exported = options.export(&context).and_then(|uri| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{uri}").and_then(|()| out.flush()).context("cannot write to standard output")
    });
    if exported.is_ok() {
        context.quit.wait();
    }
    context.close();
    exported
}

impl ExportOptions {
    /// Starts the server; where to connect.
    fn export(&self, context: &Context) -> anyhow::Result<String> {
        let image = self.image()?;
        let node = image.open(&context.graph, ID)?;
        let (address, mut place) = self.address()?;
        let tls = self.tls_creds.as_deref().map(|dir| Server::open(dir, X509::default()).map(Arc::new)).transpose()?;
        let secure = tls.is_some();
        let max_connections = MAX_CONNECTIONS;
        let server = NbdServerOptions { address, tls, max_connections, handshake_max: Some(HANDSHAKE_MAX) };
        // Before the server: who connects at once finds it.
        context.exports.start_nbd_server(server)?;
        context.exports.add_nbd(NbdOptions {
            id: ID.to_owned(),
            node: node.name().to_owned(),
            name: self.name.clone(),
            description: self.description.clone(),
            writable: self.writable,
            writethrough: false,
            bitmaps: self.bitmap.iter().map(|name| NbdBitmap { node: None, name: name.clone() }).collect(),
            allocation_depth: true,
        })?;
        if let (Place::Tcp { port, .. }, Some(address)) = (&mut place, context.exports.nbd_addresses().first()) {
            *port = address.port().to_string();
        }
        if !self.persistent {
            end_with_clients(context)?;
        }
        Ok(uri(&place, secure, &self.name))
    }

    fn image(&self) -> anyhow::Result<Image> {
        let format = match (self.format, &self.snapshot) {
            (Some(Format::Raw), Some(_)) => bail!("--snapshot is for qcow2 images, and --format says raw"),
            (None, Some(_)) => Some(Format::Qcow2),
            (format, _) => format,
        };
        Ok(Image {
            path: self.disk.clone(),
            format,
            read_only: !self.writable,
            cache: Cache::Auto,
            meta: None,
            changes: Changes::default(),
            snapshot: self.snapshot.clone(),
        })
    }

    fn address(&self) -> anyhow::Result<(NbdAddress, Place)> {
        if let Some(tcp) = &self.tcp {
            let (host, port) = tcp.rsplit_once(':').unwrap_or(("", tcp));
            let (host, port) = (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.to_owned());
            return Ok((NbdAddress::Tcp { host: host.clone(), port: port.clone() }, Place::Tcp { host, port }));
        }
        let path = match &self.socket {
            Some(path) => path.clone(),
            None => {
                let name = self.disk.file_name().with_context(|| format!("'{}' is no file", self.disk.display()))?;
                let mut name: OsString = name.to_owned();
                name.push(".nbd");
                name.into()
            }
        };
        let path = std::path::absolute(path).context("there is no current directory")?;
        Ok((NbdAddress::Unix(path.clone()), Place::Unix(path)))
    }
}

/// Asks for the end when there has been a client and there is none any more.
fn end_with_clients(context: &Context) -> anyhow::Result<()> {
    let (exports, quit) = (context.exports.clone(), context.quit.clone());
    let wait = move || {
        exports.wait_used(ID);
        quit.request();
    };
    std::thread::Builder::new().name("finish".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}
