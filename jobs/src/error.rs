//! Why a command about jobs is refused, with QEMU's texts, and why a job failed.
//!
//! Knows no wire format: [`JobError::class`] names the class, whoever writes JSON spells it.

use crate::state::{Status, Verb};
use tidemark_backend::error::{GraphError, IoError};

/// A refused command.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// No job of that name, for the `job-*` commands.
    #[error("Job not found")]
    NotFound,
    /// No block job of that name, for the `block-job-*` commands.
    #[error("Block job '{0}' not found")]
    NotActive(String),
    /// An id that is no identifier: a letter first, then letters, digits, `-`, `.` and `_`.
    #[error("Invalid job ID '{0}'")]
    InvalidId(String),
    /// An id in use.
    #[error("Job ID '{0}' already in use")]
    IdTaken(String),
    /// The job's status does not allow it.
    #[error("Job '{id}' in state '{status}' cannot accept command verb '{verb}'")]
    Refused {
        /// The job.
        id: String,
        /// Its status.
        status: Status,
        /// What was asked of it.
        verb: Verb,
    },
    /// A pause of a job that a user paused before.
    #[error("Job is already paused")]
    AlreadyPaused,
    /// A resume of a job that no user paused.
    #[error("Can't resume a job that was not paused")]
    NotPaused,
    /// A `block-job-cancel` without force of a paused job.
    #[error("The block job for device '{0}' is currently paused")]
    Paused(String),
    /// A completion of a job that is being cancelled already, or has been told before.
    #[error("The active block job '{0}' cannot be completed")]
    CannotComplete(String),
    /// A speed below zero.
    #[error("Parameter 'speed' expects a non-negative value")]
    NegativeSpeed,
    /// A `block-job-change` of a job whose options do not change.
    #[error("Job type does not support change")]
    Unchangeable,
    /// A `block-job-change` to what it cannot become.
    #[error("Change to copy mode '{0}' is not implemented")]
    NoSuchChange(&'static str),
    /// The job thread has ended or could not be started.
    #[error("the job thread does not run: {0}")]
    Thread(String),
}

/// QEMU's error classes, as far as jobs use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// `GenericError`.
    Generic,
    /// `DeviceNotActive`.
    DeviceNotActive,
}

impl JobError {
    /// The class on the wire.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotActive(_) => ErrorClass::DeviceNotActive,
            _ => ErrorClass::Generic,
        }
    }
}

impl From<GraphError> for JobError {
    fn from(error: GraphError) -> Self {
        Self::Thread(error.to_string())
    }
}

/// Why a job has no result; the text goes into its events and queries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobFailure {
    /// An I/O failed, or [`IoError::Canceled`].
    #[error(transparent)]
    Io(#[from] IoError),
    /// What a guest overwrote could not be kept, and the guest was not to fail for that.
    #[error("The point in time is lost, as a guest's write could not wait for a copy of what it overwrote: {0}")]
    PointLost(IoError),
    /// Anything else, in a user's words.
    #[error("{0}")]
    Text(String),
}

impl JobFailure {
    /// What a cancelled job fails with.
    pub const CANCELED: Self = Self::Io(IoError::Canceled);
}
