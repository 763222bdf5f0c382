//! The thread that the connections to one server live on, and the way to it from any other.

use super::core::Core;
use super::dial::{Dial, KernelDial};
use super::job::{Done, Job, Letter};
use super::negotiate::Agreed;
use super::options::NbdClientOptions;
use crate::error::{GraphError, IoError};
use crate::io::{Buf, FileTable, Uring, Wait, Workers};
use crate::mailbox::Mailbox;
use crate::nbd_wire::transmission::Command;
use crate::reactor::{Reactor, Waker, promise};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

type Post = Mailbox<Letter, Waker>;

/// The way to the thread. Dropping it has the thread leave the server.
pub(super) struct Client {
    post: Arc<Post>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread says first.
type Started = Result<(Arc<Post>, Agreed), GraphError>;

impl Client {
    /// Connects; waits until that is done or has failed.
    ///
    /// # Errors
    /// With QEMU's texts.
    pub(super) fn start(
        options: &Arc<NbdClientOptions>,
        writes: bool,
        files: &Arc<FileTable>,
        workers: &Arc<Workers>,
    ) -> Result<(Self, Agreed), GraphError> {
        let (sender, receiver) = channel();
        let (options, files, workers) = (options.clone(), files.clone(), workers.clone());
        let thread = std::thread::Builder::new()
            .name("nbd-client".into())
            .spawn(move || serve(&sender, options, writes, files, workers))
            .map_err(|error| GraphError::Options(format!("Cannot start a thread: {error}")))?;
        match receiver.recv() {
            Ok(Ok((post, agreed))) => Ok((Self { post, thread: Mutex::new(Some(thread)) }, agreed)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(GraphError::Options("The thread of the NBD client ended by a bug".into())),
        }
    }

    /// Runs a command to its end, from any thread.
    pub(super) async fn run(
        &self,
        command: (Command, u16),
        (offset, len): (u64, u64),
        buf: Option<Buf>,
    ) -> Result<Done, IoError> {
        let (ticket, done) = promise();
        let (command, flags) = command;
        self.post.send(Letter::Do(Job { command, flags, offset, len, buf, ticket }));
        done.await.ok_or(IoError::Io)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.post.send(Letter::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of an NBD client ended by a bug");
        }
    }
}

fn serve(
    sender: &Sender<Started>,
    options: Arc<NbdClientOptions>,
    writes: bool,
    files: Arc<FileTable>,
    workers: Arc<Workers>,
) {
    let reactor = Uring::new(files.clone(), workers)
        .and_then(|ring| Reactor::new(Box::new(ring)).map_err(|error| GraphError::Uring(error.to_string())));
    let mut reactor = match reactor {
        Ok(reactor) => reactor,
        // Whoever started the thread waits for this.
        Err(error) => return drop(sender.send(Err(error))),
    };
    let dial: Box<dyn Dial> = Box::new(KernelDial::new(options.server.clone(), files));
    let core = Core::new(reactor.handle(), options, dial, writes);
    let post = Arc::new(Mailbox::new(reactor.bell()));
    let ended = Rc::new(Cell::new(false));
    let (opening, said, failed, mailbox) = (core.clone(), sender.clone(), ended.clone(), post.clone());
    reactor.handle().spawn(async move {
        let opened = opening.open().await;
        failed.set(opened.is_err());
        let _ = said.send(opened.map(|agreed| (mailbox, agreed)).map_err(GraphError::Options));
    });
    while !ended.get() {
        reactor.turn(Wait::Forever, || post.is_filled() || ended.get(), |_| ());
        for letter in post.take() {
            match letter {
                Letter::Do(job) => reactor.handle().spawn(core.clone().run(job)),
                Letter::Close => {
                    let (core, ended) = (core.clone(), ended.clone());
                    reactor.handle().spawn(async move {
                        core.leave().await;
                        ended.set(true);
                    });
                }
            }
        }
    }
    while core.is_busy() {
        reactor.turn(Wait::Forever, || false, |_| ());
    }
}
