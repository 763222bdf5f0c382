//! Log lines on standard error. Knows levels; what is logged is decided where it happens.

use clap::ValueEnum;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// The variable with a filter for the log (`warn`, `tidemark_backend=debug`), for whoever cannot change the command
/// line.
const VARIABLE: &str = "TIDEMARK_LOG";

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// What ended something.
    Error,
    /// And what should be looked at.
    Warn,
    /// And who connects and what they agree on.
    Info,
    /// And what the program does about it.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    fn filter(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Starts the log at `level`, or at what `TIDEMARK_LOG` says where the command line says nothing.
pub fn start(level: Option<Level>) {
    let filter = match (level, std::env::var(VARIABLE)) {
        (Some(level), _) => EnvFilter::new(level.filter()),
        (None, Ok(text)) => EnvFilter::new(text),
        (None, Err(_)) => EnvFilter::new(Level::Info.filter()),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
