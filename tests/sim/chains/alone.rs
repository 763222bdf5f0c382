//! Images by themselves: what a program finds that opens them on a machine where nobody else has them.

use super::errands::Errands;
use super::images::{Format, Image, Opened};
use crate::process::file_of;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::sim::World;
use tidemark_backend::node::Node;
use tidemark_backend::node::qcow2::open::read_header;
use tidemark_backend::node::qcow2::refcount::check::{CheckReport, Parts, check};
use tidemark_backend::node::qcow2::store::Store;

/// What is there of an image.
#[derive(Clone)]
pub struct Found {
    /// Its node's name.
    pub name: String,
    /// What its bytes mean.
    pub format: Format,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// The disk of these images, the bottom first, none of which may be corrupt; and how many clusters leak.
pub fn read(images: &[Found]) -> Result<(Vec<u8>, u64), String> {
    let (world, graph) = (World::new(1), Graph::new());
    let opened = Opened { unmap: false, detect_zeroes: false, read_only: true };
    let mut top: Option<Arc<Node>> = None;
    let (mut leaks, mut kept) = (0, Vec::new());
    for Found { name, format, content } in images {
        let mut image = Image::new(name.clone(), *format, content.clone());
        let below = top.as_ref().map(|node| node.name());
        let node = image.open(&world, &graph, below, opened).map_err(|error| format!("{name}: {error}"))?;
        if *format != Format::Raw {
            leaks += sound(&world, &node.child().unwrap()).map_err(|why| format!("{name}: {why}"))?;
        }
        kept.push(image);
        top = Some(node);
    }
    let top = top.ok_or("no images")?;
    let content = Errands(&world).content(&top).map_err(|error| format!("{}: {error}", top.name()))?;
    Ok((content, leaks))
}

/// Looks for corruptions; how many clusters leak.
fn sound(world: &World, file: &Arc<Node>) -> Result<u64, String> {
    debug_assert!(world.content(file_of(file)).len() > 512, "an image has a header");
    let file = file.clone();
    let report: CheckReport = Errands(world).ask(move |io| async move {
        let header = read_header(&io, &file).await.map_err(|error| error.to_string())?;
        check(&io, Store::new(file), Parts::from(&header)).await.map_err(|error| error.to_string())
    })?;
    match (report.corruptions, report.check_errors) {
        (0, 0) => Ok(report.leaks),
        _ => Err(format!("corrupt: {:?}", report.errors)),
    }
}
