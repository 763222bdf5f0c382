//! `tidemark backup`: chains of full and incremental backups of a daemon's disks in a directory, made while guests run,
//! and what is done with such a directory afterwards.
//!
//! Knows QMP servers and qcow2 files, not how the data plane keeps points in time. What the directory has is what its
//! manifest says ([`manifest`]); how nothing is lost whoever is killed stands in [`run`], and of merges in [`prune`].

mod apply;
mod buffers;
mod digest;
mod directory;
mod files;
mod layer;
mod list;
mod manifest;
pub mod offline;
mod plan;
mod prune;
mod pull;
mod restore;
mod run;
mod seal;
mod server;
mod sums;
mod uri;
mod verify;
mod walk;
pub mod window;

use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `tidemark backup`.
#[derive(clap::Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    override_usage = "tidemark backup <SOCKET> --to <DIR> [--node <NODE>]... [--full]\n       \
                      tidemark backup --nbd <URI> --to <DIR> [--tls-creds <DIR>] [--bitmap <BITMAP> --since <POINT>]\n       \
                      tidemark backup list <DIR>\n       \
                      tidemark backup verify <DIR>\n       \
                      tidemark backup prune <DIR> --keep <N>\n       \
                      tidemark backup restore <DIR> [--point <P>] --to <FILE>",
    after_help = "SOCKET is a control socket (QMP) of tidemark or of qemu-storage-daemon. The first backup of a disk is \
                  full, the next ones have what has changed since; if that cannot be known, the backup is full and says \
                  why. Several disks are backed up at one point in time. A backup that was interrupted, by whatever, is \
                  made good by the next one: run it again. Any image of the directory can be read by qemu-img, too.\n\n\
                  Example:\n  tidemark backup /run/vm.qmp --to /backup/vm        # every night\n  \
                  tidemark backup list /backup/vm\n  tidemark backup verify /backup/vm\n  \
                  tidemark backup prune /backup/vm --keep 30\n  \
                  tidemark backup restore /backup/vm --point 7 --to disk.raw"
)]
pub struct BackupOptions {
    /// What is done with a directory.
    #[command(subcommand)]
    task: Option<Task>,
    /// Control socket of the daemon that has the disks.
    #[arg(required_unless_present = "nbd")]
    socket: Option<PathBuf>,
    /// Directory of the backups; it is made if it is not there. The daemon has to see it under the same name.
    #[arg(long, value_name = "DIR", required = true)]
    to: Option<PathBuf>,
    /// Back up this disk, the name of a node or the id of an export; may be given several times. All exported disks if
    /// absent.
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// Make a full backup, whatever is there.
    #[arg(long)]
    full: bool,
    /// Read one disk from any NBD server instead: nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; through TLS
    /// it is nbds:// or nbds+unix://. What it shows has to stand still, as with libvirt's pull mode. --node says what the
    /// disk is called in DIR, its export if absent.
    #[arg(long, value_name = "URI", conflicts_with = "socket")]
    nbd: Option<String>,
    /// Credentials for a server with TLS: ca-cert.pem, and if it asks for them client-cert.pem and client-key.pem, in this
    /// directory.
    #[arg(long, value_name = "DIR", requires = "nbd")]
    tls_creds: Option<PathBuf>,
    /// Read what this bitmap of the server marks, and not all.
    #[arg(long, value_name = "BITMAP", requires_all = ["nbd", "since"], conflicts_with = "full")]
    bitmap: Option<String>,
    /// The point in DIR since which that bitmap has recorded, which has to be the disk's newest: only you know.
    #[arg(long, value_name = "POINT", requires = "bitmap")]
    since: Option<u64>,
}

/// What is done with a directory of backups.
#[derive(clap::Subcommand, Debug)]
enum Task {
    /// List the points in time.
    List(list::ListOptions),
    /// Read all data and compare it with the checksums; status 1 if something is wrong.
    Verify(verify::VerifyOptions),
    /// Remove the oldest points; the others stay restorable.
    Prune(prune::PruneOptions),
    /// Write a disk as it was to a file, a block device or a disk of a daemon.
    Restore(restore::RestoreOptions),
}

/// Runs the command.
///
/// # Errors
/// It could not be done; the directory is what it was, or what the next run completes.
pub fn run(options: &BackupOptions) -> anyhow::Result<ExitCode> {
    crate::logging::start(Some(crate::logging::Level::Warn));
    match &options.task {
        None if options.nbd.is_some() => pull::pull(options).map(|()| ExitCode::SUCCESS),
        None => {
            let socket = options.socket.as_deref().context("SOCKET says which daemon has the disks")?;
            Ok(match run::run(socket, options)? {
                run::End::Complete => ExitCode::SUCCESS,
                run::End::Cancelled { signal } => std::process::exit(128 + signal),
            })
        }
        Some(Task::List(options)) => list::run(options).map(|()| ExitCode::SUCCESS),
        Some(Task::Verify(options)) => verify::run(options),
        Some(Task::Prune(options)) => prune::run(options).map(|()| ExitCode::SUCCESS),
        Some(Task::Restore(options)) => restore::run(options).map(|()| ExitCode::SUCCESS),
    }
}

/// The directory that a path is in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
