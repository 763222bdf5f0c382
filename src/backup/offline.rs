//! Long work on images that no daemon has: run on the job thread, watched from here.

use crate::ctl::backup::interrupt::Interrupt;
use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use qmp_lite::context::Context;
use std::fs::Metadata;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemark_backend::reactor::Handle;

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(20);

/// What there is to do, for people.
pub struct Work<'a> {
    /// Its name.
    pub what: String,
    /// Bytes that are gone over.
    pub total: u64,
    /// Bytes that were gone over.
    pub done: Arc<AtomicU64>,
    /// A signal that ends it.
    pub interrupt: Option<&'a Interrupt>,
}

impl Work<'_> {
    /// Runs it to its end, with a bar where somebody can see it move.
    ///
    /// # Errors
    /// Those of `task`; a signal came.
    pub fn run<T: Send + 'static>(
        self,
        context: &Context,
        task: impl AsyncFnOnce(&Handle) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let style = ProgressStyle::with_template("{msg}: {bar:30} {percent:>3} %, {eta} left")?;
        let bar = io::stderr().is_terminal().then(|| ProgressBar::new(self.total).with_style(style));
        let bar = bar.map(|bar| bar.with_message(self.what));
        let answer = context.jobs.send_async(async move |registry| task(registry.io()).await)?;
        let result = loop {
            if let Some(result) = answer.poll() {
                break result;
            }
            if let Some(signal) = self.interrupt.and_then(Interrupt::signal) {
                bail!("signal {signal}");
            }
            if let Some(bar) = &bar {
                bar.set_position(self.done.load(Ordering::Relaxed));
            }
            std::thread::sleep(TICK);
        };
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        result
    }
}

/// Bytes of storage that a file takes.
pub fn allocated(meta: &Metadata) -> u64 {
    meta.blocks().saturating_mul(512)
}
