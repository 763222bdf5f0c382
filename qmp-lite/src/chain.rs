//! Commands about chains of images: copying what is below into an image, or what is above into one, and what headers say.
//!
//! Knows the arguments and that a job without an id is called like its node's export.

use tidemark_jobs::commit::CommitOptions;
use tidemark_jobs::stream::StreamOptions;

use crate::command::declare_commands;
use crate::context::Context;
use crate::error::{ErrorClass, QmpError};
use crate::job::backup::BlockdevOnError;
use crate::schema::{Empty, qapi_struct};

declare_commands! {
    /// Copies what images below an image have into it, while guests go on, until it does not need them any more.
    "block-stream" => block_stream: (BlockStream) -> Empty;
    /// Copies what images above an image have into it, while guests go on, and then does without them. If the topmost
    /// image is among them, the job is ready when they are the same, and guests come to the image below when it is
    /// completed.
    "block-commit" => block_commit: (BlockCommit) -> Empty;
    /// Writes into the header of an image which file is below it. What is below it now stays.
    "change-backing-file" => change_backing_file: (ChangeBackingFile) -> Empty;
}

qapi_struct! {
    /// Arguments of `block-stream`.
    pub struct BlockStream "block-stream-arg" {
        /// The job's id: a letter, then letters, digits, `-`, `.` and `_`. The id of the export that exports the image if
        /// absent.
        "job-id" job_id: Option<String>,
        /// The image that gets what others have.
        "device" device: String,
        /// The file of the image to be over then; over none if neither it nor `base-node` nor `bottom` is there.
        "base" base: Option<String>,
        /// The node of that image.
        "base-node" base_node: Option<String>,
        /// What the header is to say is below then; the file of the base if absent.
        "backing-file" backing_file: Option<String>,
        /// Accepted for compatibility: a header says `raw` of whatever is no image. Off if absent.
        "backing-mask-protocol" backing_mask_protocol: Option<bool>,
        /// The last node to copy from.
        "bottom" bottom: Option<String>,
        /// The most bytes to copy per second; 0, without limit, if absent.
        "speed" speed: Option<i64>,
        /// What to do if something cannot be read or written; report if absent. With ignore it is left out, and the job
        /// fails at its end.
        "on-error" on_error: Option<BlockdevOnError>,
        /// A name for the filter that stands for the job above the image; made up if absent.
        "filter-node-name" filter_node_name: Option<String>,
        /// Whether the result takes effect without a `job-finalize`. On if absent.
        "auto-finalize" auto_finalize: Option<bool>,
        /// Whether the job is forgotten without a `job-dismiss`. On if absent.
        "auto-dismiss" auto_dismiss: Option<bool>,
    }
}

qapi_struct! {
    /// Arguments of `block-commit`.
    pub struct BlockCommit "block-commit-arg" {
        /// The job's id: a letter, then letters, digits, `-`, `.` and `_`. The id of the export that exports the device if
        /// absent.
        "job-id" job_id: Option<String>,
        /// The topmost node of the chain.
        "device" device: String,
        /// The node of the image that gets what others have; the lowest one if neither it nor `base` is there.
        "base-node" base_node: Option<String>,
        /// The file of that image. Deprecated.
        "base" base: Option<String>,
        /// The node of the uppermost image to copy from; the topmost one if neither it nor `top` is there.
        "top-node" top_node: Option<String>,
        /// The file of that image. Deprecated.
        "top" top: Option<String>,
        /// What the header above is to say is below then; the file of the base if absent.
        "backing-file" backing_file: Option<String>,
        /// Accepted for compatibility: a header says `raw` of whatever is no image. Off if absent.
        "backing-mask-protocol" backing_mask_protocol: Option<bool>,
        /// The most bytes to copy per second; 0, without limit, if absent.
        "speed" speed: Option<i64>,
        /// What to do if something cannot be read or written; report if absent.
        "on-error" on_error: Option<BlockdevOnError>,
        /// A name for the filter that stands for the job above the uppermost image; made up if absent.
        "filter-node-name" filter_node_name: Option<String>,
        /// Whether the result takes effect without a `job-finalize`. On if absent.
        "auto-finalize" auto_finalize: Option<bool>,
        /// Whether the job is forgotten without a `job-dismiss`. On if absent.
        "auto-dismiss" auto_dismiss: Option<bool>,
    }
}

qapi_struct! {
    /// Arguments of `change-backing-file`.
    pub struct ChangeBackingFile "change-backing-file-arg" {
        /// The topmost node of the chain.
        "device" device: String,
        /// The image whose header to write.
        "image-node-name" image_node_name: String,
        /// What it is to say is below: as it is to be found from the image. Empty for nothing.
        "backing-file" backing_file: String,
    }
}

fn block_stream(context: &Context, arguments: BlockStream) -> Result<Empty, QmpError> {
    let job_id = arguments.job_id.or_else(|| context.export_of(&arguments.device)).unwrap_or_default();
    let options = StreamOptions {
        job_id,
        device: arguments.device,
        base: arguments.base,
        base_node: arguments.base_node,
        bottom: arguments.bottom,
        backing_file: arguments.backing_file,
        speed: arguments.speed.unwrap_or(0),
        on_error: arguments.on_error.map(Into::into).unwrap_or_default(),
        filter_node_name: arguments.filter_node_name,
        auto_finalize: arguments.auto_finalize.unwrap_or(true),
        auto_dismiss: arguments.auto_dismiss.unwrap_or(true),
    };
    tidemark_jobs::stream::start(&context.jobs, &context.graph, options)?;
    Ok(Empty {})
}

fn block_commit(context: &Context, arguments: BlockCommit) -> Result<Empty, QmpError> {
    let device = arguments.device;
    if context.graph.find(&device).is_none() {
        // Clients look for this class to find out what the command can do.
        let missing = QmpError::generic(format!("Device '{device}' not found"));
        return Err(QmpError { class: ErrorClass::DeviceNotFound, ..missing });
    }
    let options = CommitOptions {
        job_id: arguments.job_id.or_else(|| context.export_of(&device)).unwrap_or_default(),
        device,
        base_node: arguments.base_node,
        base: arguments.base,
        top_node: arguments.top_node,
        top: arguments.top,
        backing_file: arguments.backing_file,
        speed: arguments.speed.unwrap_or(0),
        on_error: arguments.on_error.map(Into::into).unwrap_or_default(),
        filter_node_name: arguments.filter_node_name,
        auto_finalize: arguments.auto_finalize.unwrap_or(true),
        auto_dismiss: arguments.auto_dismiss.unwrap_or(true),
    };
    tidemark_jobs::commit::start(&context.jobs, &context.graph, options)?;
    Ok(Empty {})
}

fn change_backing_file(context: &Context, arguments: ChangeBackingFile) -> Result<Empty, QmpError> {
    let ChangeBackingFile { device, image_node_name, backing_file } = arguments;
    tidemark_jobs::change_backing::change(&context.jobs, &context.graph, device, image_node_name, backing_file)?;
    Ok(Empty {})
}
