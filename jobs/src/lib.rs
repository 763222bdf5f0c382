//! Jobs and transactions: what runs beside the guests on their nodes. Knows nodes; knows no exports and no JSON.
//!
//! All jobs live on one thread ([`Engine`]); others reach them by mail ([`EngineHandle`]). Modules from bottom to top:
//! `state`, `error`, `event`, `signal`, `rate`, `job`, `group`, `context`, `query`, `registry`, `lifecycle`, `command`,
//! `engine`, `point`, `points`, `checkpoint`, `copy`, `sweep`, `backup`, `fleece`, `transaction`, `changed`, `resize`,
//! `reopen`, `create`, `mirror`, `chain`, `stream`, `commit`, `change_backing`.
#![forbid(unsafe_code)]

pub mod action;
mod backup;
mod chain;
pub mod change_backing;
pub mod changed;
pub mod checkpoint;
mod command;
pub mod commit;
pub mod context;
mod copy;
pub mod create;
pub mod engine;
pub mod error;
pub mod event;
mod fleece;
mod group;
mod holdings;
pub mod internal;
pub mod job;
mod lead;
mod lifecycle;
pub mod mirror;
mod opened;
mod point;
mod points;
pub mod query;
mod rate;
pub mod registry;
pub mod reopen;
pub mod resize;
mod signal;
mod snapshot;
pub mod state;
pub mod stream;
mod sweep;
#[cfg(test)]
mod tests;
mod together;
pub mod transaction;

pub use command::{Command, Family};
pub use context::{JobContext, OnError};
pub use copy::Flow;
pub use engine::{Answer, Engine, EngineHandle};
pub use error::{ErrorClass, JobError, JobFailure};
pub use event::{ErrorAction, JobEvent, JobEventSink, JobFacts, Operation};
pub use group::Group;
pub use job::{IoStatus, Job, JobDriver, JobKind, JobOptions, LocalFuture};
pub use query::{BlockJobInfo, JobInfo};
pub use registry::Registry;
pub use state::{Status, Verb};
