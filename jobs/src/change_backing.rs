//! Command `change-backing-file`: the header of an image names another file below it. What is below it now stays.

use crate::backup::check::{check_free, find};
use crate::chain::{contains, images, node, refuse, root_node};
use crate::engine::EngineHandle;
use crate::registry::Registry;
use crate::reopen;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::graph::Graph;

/// Names `file` in the header of node `image`, of the chain of node `device`; none if it is empty.
///
/// # Errors
/// With QEMU's texts; then nothing has changed.
pub fn change(
    jobs: &EngineHandle,
    graph: &Arc<Graph>,
    device: String,
    image: String,
    file: String,
) -> Result<(), TransactionError> {
    let graph = graph.clone();
    jobs.ask_async(async move |registry: Registry| {
        let _turn = registry.edit().await;
        find(&graph, &device)?;
        let device = root_node(&graph, &device)?;
        let image = node(&graph, &image)?;
        if images(&image).len() < 2 {
            return refuse("not allowing backing file change on an image without a backing file");
        }
        check_free(&device)?;
        check_free(&image)?;
        if !contains(&device, &image) {
            return refuse(format!("'{}' and image file are not in the same chain", device.name()));
        }
        // The file is to be read as what is below now.
        let format = image.unfiltered().below().map(|base| base.format().to_owned());
        let named = (!file.is_empty()).then(|| (file.clone(), format));
        let written = reopen::write_header(registry.io(), &graph, &image, named).await;
        written.map_err(|error| TransactionError::Text(format!("Could not change backing file to '{file}': {error}")))
    })?
}
