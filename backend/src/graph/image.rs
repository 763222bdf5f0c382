//! Opening an image with the nodes that it is made of, and closing it before they go.
//!
//! What the operator says of its files goes before what the image says of them; see [`super::chain`] for the latter.
//! An image's files are its own from before its header is read until it is closed.

use super::chain::Chain;
use super::errand::run;
use super::{Graph, Opening, Runner};
use crate::error::GraphError;
use crate::node::options::Discard;
use crate::node::options::{ChildRef, DriverOptions, FileOptions, Locking, RawOptions};
use crate::node::qcow2::bitmaps::{LoadError, StoreError};
use crate::node::qcow2::header::{self, Header, bits};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::open::{Files, OpenError, Options, header_at, read_header};
use crate::node::qcow2::options::{Backing, Qcow2Options};
use crate::node::{Driver, Hold, Node, NodeOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

impl Graph {
    /// Lets headers of images name files below `dir`, whose directory is another.
    pub fn allow_backing_in(&self, dir: PathBuf) {
        self.backing_dirs.lock().unwrap_or_else(PoisonError::into_inner).push(dir);
    }

    /// Opens the image of node `name` with its files.
    pub(super) fn open_image(
        &self,
        name: &str,
        node: &NodeOptions,
        options: &Qcow2Options,
        opening: &mut Opening<'_>,
    ) -> Result<Image, GraphError> {
        let file = self.child(&options.file, node, opening)?;
        if options.snapshot.is_some() && !node.read_only.is_on() {
            return Err(GraphError::Options("A snapshot can only be read".into()));
        }
        let read_only = node.read_only.is_on() || (node.auto_read_only.is_on() && file.is_read_only());
        if file.is_read_only() && !read_only {
            return Err(GraphError::NotWritable);
        }
        let mut holds = vec![Hold::of_format(&file, name, "file", !read_only)?];
        let header = header(&file, options.snapshot.clone(), opening.runner)?;
        let changes = self.changes(&file, options, !read_only && header.has_change_journal_file())?;
        let changes = Some(changes).filter(|_| !options.bitmaps_only);
        let settings = options.for_image(&header, read_only, node.discard == Discard::Unmap)?;
        let settings = Options { changes, ..settings };
        let data = self.data_file(node, options, (&file, &header), opening)?;
        if let Some(data) = &data {
            holds.push(Hold::of_format(data, name, "data-file", !read_only)?);
        }
        let backing = self.backing(node, &options.backing, (&file, &header), opening);
        let backing = backing.map_err(|error| GraphError::Backing(Box::new(error)))?;
        if let Some(backing) = &backing {
            holds.push(Hold::of_reader(backing)?);
        }
        let files = Files { file: file.clone(), data, backing };
        let bitmaps_only = options.bitmaps_only;
        let open = move |io| async move {
            match bitmaps_only {
                true => Image::open_as_is(&io, &header, files, &settings).await,
                false => Image::open(&io, &header, files, &settings).await,
            }
        };
        let mut image = run(opening.runner, open)?.map_err(|error| refusal(&file, error))?;
        if options.guards_inactive_l2 {
            let guard = move |io| async move { image.guarded(&io).await };
            image = run(opening.runner, guard)?.map_err(|error| refusal(&file, error))?;
        }
        image.keep(holds);
        image.tell_corruption(name, self.corruption.clone());
        image.tell_changes(name, self.changes.clone());
        Ok(image)
    }

    fn data_file(
        &self,
        node: &NodeOptions,
        options: &Qcow2Options,
        (file, header): (&Arc<Node>, &Header),
        opening: &mut Opening<'_>,
    ) -> Result<Option<Arc<Node>>, GraphError> {
        let apart = header.incompatible & bits::INCOMPATIBLE_DATA_FILE != 0;
        match (&options.data_file, &header.data_file) {
            (Some(data), _) => match self.child(data, node, opening)? {
                data if apart => Ok(Some(data)),
                _ => {
                    let text = "'data-file' can only be set for images with an external data file";
                    Err(GraphError::Options(text.into()))
                }
            },
            (None, _) if !apart => Ok(None),
            (None, None) => Err(GraphError::Options("'data-file' is required for this image".into())),
            (None, Some(name)) => {
                let image = path(file)?;
                let found = self.chain(&image, opening)?.find(&image, name)?;
                let data = self.child(&inline(plain_file(found.path.clone())), node, opening)?;
                found.check(&data)?;
                Ok(Some(data))
            }
        }
    }

    fn backing(
        &self,
        node: &NodeOptions,
        backing: &Backing,
        (file, header): (&Arc<Node>, &Header),
        opening: &mut Opening<'_>,
    ) -> Result<Option<Arc<Node>>, GraphError> {
        match (backing, &header.backing) {
            (Backing::None, _) | (Backing::FromHeader, None) => Ok(None),
            (Backing::Node(ChildRef::Name(name)), _) => {
                self.child(&ChildRef::Name(name.clone()), node, opening).map(Some)
            }
            (Backing::Node(ChildRef::Inline(options)), _) => {
                let options = NodeOptions { read_only: true.into(), ..(**options).clone() };
                self.child(&inline(options), node, opening).map(Some)
            }
            (Backing::FromHeader, Some(named)) => {
                let image = path(file)?;
                let chain = self.chain(&image, opening)?;
                let found = chain.find(&image, &named.file)?;
                let options = described(&image, &found.path, named)?;
                let above = opening.chain.replace(chain.below(&found)?);
                let built = self.child(&inline(NodeOptions { read_only: true.into(), ..options }), node, opening);
                opening.chain = above;
                let built = built?;
                found.check(&built)?;
                Ok(Some(built))
            }
        }
    }

    /// What has led to `image`, or a new beginning.
    fn chain(&self, image: &Path, opening: &Opening<'_>) -> Result<Chain, GraphError> {
        match &opening.chain {
            Some(chain) => Ok(chain.clone()),
            None => Chain::begin(image, &self.backing_dirs.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// An image's header, as it was at an internal snapshot if one is asked for.
fn header(file: &Arc<Node>, snapshot: Option<String>, runner: &dyn Runner) -> Result<Header, GraphError> {
    let of_file = file.clone();
    let read = move |io| async move {
        let header = read_header(&io, &of_file).await?;
        match snapshot {
            Some(snapshot) => header_at(&io, &of_file, &header, &snapshot).await,
            None => Ok(header),
        }
    };
    run(runner, read)?.map_err(|error| refusal(file, error))
}

/// What the header of `image` says of the file that it names. A format that it does not say is not guessed.
fn described(image: &Path, found: &Path, named: &header::Backing) -> Result<NodeOptions, GraphError> {
    let file = inline(plain_file(found.to_owned()));
    match named.format.as_deref() {
        Some("raw") => {
            Ok(NodeOptions::new(DriverOptions::Raw(RawOptions { file, offset: 0, size: None, guard_format: false })))
        }
        Some("qcow2") => Ok(NodeOptions::new(DriverOptions::Qcow2(Box::new(Qcow2Options::new(file))))),
        Some(other) => Err(GraphError::Options(format!("Unknown driver '{other}'"))),
        None => {
            let (image, found) = (image.display(), found.display());
            Err(GraphError::Options(format!(
                "The header of '{image}' does not say which format '{found}' has: name a node for it, or say it with \
                 `tidemark rebase -u -b '{}' -F FORMAT '{image}'`",
                named.file
            )))
        }
    }
}

fn plain_file(path: PathBuf) -> NodeOptions {
    NodeOptions::new(DriverOptions::File(FileOptions { filename: path, locking: Locking::Auto, device: false }))
}

fn inline(options: NodeOptions) -> ChildRef {
    ChildRef::Inline(Box::new(options))
}

/// The file that an image is in.
fn path(node: &Arc<Node>) -> Result<PathBuf, GraphError> {
    file_name(node).map(PathBuf::from).ok_or_else(|| {
        let text = format!("Node '{}' is no file, so that names in its header lead nowhere: name nodes", node.name());
        GraphError::Options(text)
    })
}

pub(super) fn file_name(node: &Arc<Node>) -> Option<String> {
    match node.driver() {
        Driver::File(file) => Some(file.path().to_owned()),
        _ => file_name(&node.child()?),
    }
}

/// The same; of a node without a file the node's name.
pub(super) fn place_name(node: &Arc<Node>) -> String {
    file_name(node).unwrap_or_else(|| node.name().to_owned())
}

/// Why an image was not opened, with its name where the reason does not stand for itself.
pub(super) fn refusal(file: &Arc<Node>, error: OpenError) -> GraphError {
    let name = place_name(file);
    GraphError::Options(match error {
        OpenError::Header(error) => error.to_string(),
        OpenError::Repair(_) => {
            format!("{error}: repair '{name}' with `tidemark check --repair all`, or open it read-only")
        }
        OpenError::Bitmaps(LoadError::Directory(error)) => error.to_string(),
        error => format!("Could not open '{name}': {error}"),
    })
}

/// Writes what an image has in memory only, before its files go. What fails is said to whoever reads the log.
pub(super) fn close(node: &Arc<Node>, runner: &dyn Runner) {
    let Driver::Qcow2(image) = node.driver() else { return };
    let file = &*place_name(&image.file());
    let closing = node.clone();
    let closed = run(runner, move |io| async move {
        let Driver::Qcow2(image) = closing.driver() else { return (Ok(()), Ok(())) };
        let stored = image.store_bitmaps(&io, closing.points()).await;
        (stored, image.close(&io, closing.points()).await)
    });
    let name = node.name();
    let failed =
        |error: &dyn std::fmt::Display| tracing::error!(node = name, file, "could not close the image: {error}");
    match closed {
        Ok((stored, closed)) => {
            if let Err(error) = stored {
                tell_unstored(node, file, &error);
            }
            closed.unwrap_or_else(|error| failed(&error));
        }
        Err(error) => failed(&error),
    }
}

/// The bitmaps of an image that is being closed cannot be stored.
fn tell_unstored(node: &Node, file: &str, error: &StoreError) {
    let name = node.name();
    let recovers = matches!(node.driver(), Driver::Qcow2(image) if image.changes().journal().is_some());
    if recovers {
        tracing::error!(
            file,
            "Persistent bitmaps of node '{name}' could not be stored: {error}; their change journal stays, and whoever \
             opens the image next recovers them: the daemon, or `tidemark bitmap recover`"
        );
    } else {
        tracing::error!(
            file,
            "Lost persistent bitmaps during inactivation of node '{name}': {error}; those that the image has can only \
             be removed with block-dirty-bitmap-remove, and backups have to begin with a full one"
        );
    }
}
