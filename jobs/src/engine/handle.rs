//! The way to the job thread from any other.

use super::{Engine, Letter, Mail};
use crate::command::{Command, Family};
use crate::error::JobError;
use crate::event::JobEventSink;
use crate::query::{BlockJobInfo, JobInfo};
use crate::registry::Registry;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tidemark_backend::io::let_others_go_first;
use tidemark_backend::reactor::Reactor;

/// Makes the reactor, on the thread that will own it.
type MakeReactor = Box<dyn Fn() -> Result<Reactor, JobError> + Send + Sync>;

/// A thread that runs.
struct Running {
    mail: Arc<Mail>,
    /// `None` if somebody steps the engine.
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    running: Mutex<Option<Running>>,
    reactor: MakeReactor,
    events: JobEventSink,
}

/// Asks the job thread, and starts it with the first question. The last clone ends it.
#[derive(Clone)]
pub struct EngineHandle(Arc<Shared>);

/// What comes back from the job thread.
pub struct Answer<T>(Receiver<T>);

impl<T> Answer<T> {
    /// Waits for it. Never on the job thread.
    ///
    /// # Errors
    /// The thread has ended without an answer.
    pub fn wait(self) -> Result<T, JobError> {
        self.0.recv().map_err(|_| JobError::Thread("it has ended".to_owned()))
    }

    /// What has come, if it has.
    pub fn poll(&self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

impl Engine {
    /// A handle to a job thread ("jobs") that starts, with a reactor of this make, when it is first needed.
    pub fn spawn<E: Into<JobError>>(
        reactor: impl Fn() -> Result<Reactor, E> + Send + Sync + 'static,
        events: JobEventSink,
    ) -> EngineHandle {
        let reactor = Box::new(move || reactor().map_err(Into::into));
        EngineHandle(Arc::new(Shared { running: Mutex::new(None), reactor, events }))
    }

    /// A handle to this engine, which somebody steps.
    pub fn handle(&self) -> EngineHandle {
        let running = Some(Running { mail: self.mail.clone(), thread: None });
        let reactor: MakeReactor = Box::new(|| Err(JobError::Thread("it is stepped".to_owned())));
        EngineHandle(Arc::new(Shared { running: Mutex::new(running), reactor, events: Arc::new(|_| ()) }))
    }
}

impl EngineHandle {
    /// Runs `edit` on the job thread. It must not block.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn send<T: Send + 'static>(
        &self,
        edit: impl FnOnce(&Registry) -> T + Send + 'static,
    ) -> Result<Answer<T>, JobError> {
        self.post(|reply| {
            Box::new(move |registry| {
                // Whoever asked may have gone.
                let _ = reply.send(edit(registry));
            })
        })
    }

    /// Runs `edit` as a task of the job thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn send_async<T: Send + 'static>(
        &self,
        edit: impl AsyncFnOnce(Registry) -> T + Send + 'static,
    ) -> Result<Answer<T>, JobError> {
        self.post(|reply| {
            Box::new(move |registry| {
                let registry = registry.clone();
                registry.io().clone().spawn(async move {
                    // Whoever asked may have gone.
                    let _ = reply.send(edit(registry).await);
                });
            })
        })
    }

    /// Runs `edit` on the job thread and waits for its answer. Never from the job thread.
    ///
    /// # Errors
    /// The thread cannot be started, or has ended.
    pub fn ask<T: Send + 'static>(&self, edit: impl FnOnce(&Registry) -> T + Send + 'static) -> Result<T, JobError> {
        self.send(edit)?.wait()
    }

    /// Runs `edit` as a task of the job thread and waits for its answer. Never from the job thread.
    ///
    /// # Errors
    /// The thread cannot be started, or has ended.
    pub fn ask_async<T: Send + 'static>(
        &self,
        edit: impl AsyncFnOnce(Registry) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        self.send_async(edit)?.wait()
    }

    /// Carries a command out, see [`Registry::command`].
    ///
    /// # Errors
    /// With QEMU's texts.
    pub fn command(&self, family: Family, id: &str, command: Command) -> Result<(), JobError> {
        let id = id.to_owned();
        self.ask_async(async move |registry| registry.command(family, &id, command).await)?
    }

    /// Answers `query-jobs`.
    ///
    /// # Errors
    /// The thread cannot be started, or has ended.
    pub fn query_jobs(&self) -> Result<Vec<JobInfo>, JobError> {
        self.ask(Registry::query_jobs)
    }

    /// Answers `query-block-jobs`.
    ///
    /// # Errors
    /// The thread cannot be started, or has ended.
    pub fn query_block_jobs(&self) -> Result<Vec<BlockJobInfo>, JobError> {
        self.ask(Registry::query_block_jobs)
    }

    /// Cancels all jobs for good and waits until none is left. Does not start a thread for it.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn cancel_all(&self) -> Result<(), JobError> {
        if self.0.running.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Ok(());
        }
        self.ask_async(async |registry| registry.cancel_all().await)
    }

    fn post<T>(
        &self,
        letter: impl FnOnce(Sender<T>) -> Box<dyn FnOnce(&Registry) + Send>,
    ) -> Result<Answer<T>, JobError> {
        let (reply, answer) = channel();
        self.mail()?.send(Letter::Do(letter(reply)));
        Ok(Answer(answer))
    }

    fn mail(&self) -> Result<Arc<Mail>, JobError> {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running {
            return Ok(running.mail.clone());
        }
        let started = self.start()?;
        Ok(running.insert(started).mail.clone())
    }

    /// Starts the thread; returns once it takes letters. The thread keeps nothing that would keep it alive.
    fn start(&self) -> Result<Running, JobError> {
        let (ready, started) = channel();
        let shared = Arc::downgrade(&self.0);
        let run = move || {
            let Some(strong) = shared.upgrade() else { return };
            let_others_go_first();
            let engine = (strong.reactor)().map(|reactor| Engine::new(reactor, strong.events.clone()));
            drop(strong);
            match engine {
                Ok(mut engine) => {
                    if ready.send(Ok(engine.mail.clone())).is_ok() {
                        while engine.step() {}
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let failed = |error: std::io::Error| JobError::Thread(error.to_string());
        let thread = std::thread::Builder::new().name("jobs".to_owned()).spawn(run).map_err(failed)?;
        let mail = started.recv().map_err(|_| failed(std::io::ErrorKind::BrokenPipe.into()))??;
        Ok(Running { mail, thread: Some(thread) })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { mail, thread: Some(thread) }) = running else { return };
        mail.send(Letter::End);
        // The last handle may end on the job thread itself, which cannot wait for itself.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the job thread ended by a bug");
        }
    }
}
