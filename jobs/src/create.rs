//! Job `create`: a file or an image is made on a thread of its own, since that may take as long as writing all of it.
//!
//! It cannot be stopped on its way, and waits to be dismissed however it ends.

use crate::context::JobContext;
use crate::engine::EngineHandle;
use crate::error::{JobError, JobFailure};
use crate::job::{JobDriver, JobKind, JobOptions, LocalFuture};
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use tidemark_backend::graph::Graph;
use tidemark_backend::graph::create::Creation;

/// Starts a job that makes something.
///
/// # Errors
/// The id is none, or in use.
pub fn create(jobs: &EngineHandle, graph: &Arc<Graph>, id: String, creation: Creation) -> Result<(), JobError> {
    let graph = graph.clone();
    jobs.ask(move |registry| {
        let options = JobOptions { auto_dismiss: false, ..JobOptions::new(id, JobKind::Create) };
        let driver = Rc::new(Create { graph, creation: RefCell::new(Some(creation)) });
        let job = registry.create(options, driver)?;
        registry.start(&job);
        Ok(())
    })?
}

struct Create {
    graph: Arc<Graph>,
    creation: RefCell<Option<Creation>>,
}

impl JobDriver for Create {
    fn run(self: Rc<Self>, ctx: JobContext) -> LocalFuture<'static, Result<(), JobFailure>> {
        Box::pin(async move {
            ctx.progress(1);
            let result = match self.creation.take() {
                Some(creation) => made(self.graph.clone(), creation).await,
                None => Ok(()),
            };
            ctx.advance(1);
            result
        })
    }
}

/// How it ended, once it has, and whom to wake.
#[derive(Default)]
struct Outcome {
    result: Option<Result<(), JobFailure>>,
    waiting: Option<Waker>,
}

/// Makes it on another thread and waits for that.
async fn made(graph: Arc<Graph>, creation: Creation) -> Result<(), JobFailure> {
    let outcome = Arc::new(Mutex::new(Outcome::default()));
    let there = outcome.clone();
    let work = move || {
        let result = graph.create(&creation).map_err(|error| JobFailure::Text(error.to_string()));
        let mut outcome = locked(&there);
        outcome.result = Some(result);
        outcome.waiting.take().into_iter().for_each(Waker::wake);
    };
    let thread = std::thread::Builder::new().name("create".to_owned()).spawn(work);
    thread.map_err(|error| JobFailure::Text(error.to_string()))?;
    poll_fn(|cx| {
        let mut outcome = locked(&outcome);
        match outcome.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                outcome.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

fn locked(outcome: &Mutex<Outcome>) -> MutexGuard<'_, Outcome> {
    outcome.lock().unwrap_or_else(PoisonError::into_inner)
}
