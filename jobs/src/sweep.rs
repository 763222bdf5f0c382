//! One pass over a node from its beginning to its end, several pieces at a time: what streams and commits have in common.
//!
//! Knows neither of them: the job says what is to be done with a range and does it. A piece that fails is done again,
//! or left out if the job wants that; then the job goes on to its end, and fails there.

use crate::context::{JobContext, OnError};
use crate::copy::crew::{Crew, Failed, Member};
use crate::copy::survey::Survey;
use crate::error::JobFailure;
use crate::event::ErrorAction;
use crate::job::LocalFuture;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use tidemark_backend::error::IoError;
use tidemark_backend::reactor::Handle;

/// Bytes of a piece: QEMU's, so that as much of a speed limit is used at once. Some of them fit in a processor's cache.
const PIECE: u64 = 512 << 10;
/// Pieces at a time, at most.
const WORKERS_MAX: usize = 16;

/// What is to be done with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    /// Nothing.
    Nothing,
    /// It is zeroes.
    Zero,
    /// It is data.
    Copy,
}

/// What is done in a pass.
pub(crate) trait Sweep: 'static {
    /// What is to be done from `offset` on, for how many of `len` bytes.
    fn look<'a>(&'a self, io: &'a Handle, offset: u64, len: u64) -> LocalFuture<'a, Result<(u64, Todo), Failed>>;

    /// Does it.
    fn work<'a>(
        &'a self,
        io: &'a Handle,
        crew: &'a Crew,
        run: Range<u64>,
        todo: Todo,
    ) -> LocalFuture<'a, Result<(), Failed>>;
}

/// How to pass over a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// Its bytes.
    pub len: u64,
    /// What to do about errors.
    pub on_error: OnError,
    /// Whether a piece whose error is ignored is left out, rather than done again.
    pub leaves_out: bool,
}

/// Passes over a node.
///
/// # Errors
/// The job was cancelled; an error whose policy is to report it, or, at the end, the first that was ignored. Nothing of
/// this is under way then.
pub(crate) async fn sweep(ctx: &JobContext, what: &Rc<impl Sweep>, pass: Pass) -> Result<(), JobFailure> {
    ctx.progress(pass.len);
    let crew = Crew::new(WORKERS_MAX, PIECE);
    let left_out = RefCell::new(None);
    let survey = Survey::new(PIECE);
    let sweeper = Sweeper { ctx, what, crew: &crew, pass, failed: Rc::default(), left_out: &left_out, survey };
    let result = sweeper.run().await;
    crew.all_done().await;
    result.and(left_out.take().map_or(Ok(()), |error: IoError| Err(error.into())))
}

struct Sweeper<'a, S> {
    ctx: &'a JobContext,
    what: &'a Rc<S>,
    crew: &'a Rc<Crew>,
    pass: Pass,
    /// Pieces that have failed.
    failed: Rc<RefCell<Vec<Range<u64>>>>,
    left_out: &'a RefCell<Option<IoError>>,
    /// What is to be done.
    survey: Survey<Todo>,
}

impl<S: Sweep> Sweeper<'_, S> {
    async fn run(&self) -> Result<(), JobFailure> {
        let (mut rest, mut again) = (0..self.pass.len, Vec::new());
        loop {
            again.extend(self.handle_failures().await?);
            if self.ctx.wants_pause() {
                self.crew.all_done().await;
            }
            self.ctx.pause_point().await?;
            if self.crew.has_failed() {
                continue;
            }
            let range = again.last_mut().unwrap_or(&mut rest);
            match range.is_empty() {
                false => range.start = self.step(range.clone()).await?,
                true if again.pop().is_some() => {}
                true if self.crew.is_idle() => return Ok(()),
                true => self.crew.one_done().await,
            }
        }
    }

    /// Starts what is to be done at the beginning of a range; returns where to go on.
    async fn step(&self, range: Range<u64>) -> Result<u64, JobFailure> {
        self.crew.room().await;
        if self.crew.has_failed() {
            return Ok(range.start);
        }
        let piece_end = range.start.saturating_add(PIECE).min(range.end);
        let (len, todo) = match self.look(range.clone()).await {
            Ok(found) => found,
            Err(failed) => {
                self.crew.fail(failed);
                self.failed.borrow_mut().push(range.start..piece_end);
                return Ok(piece_end);
            }
        };
        let end = match todo {
            Todo::Nothing => {
                self.ctx.advance(len);
                return Ok(range.start + len);
            }
            Todo::Zero => range.start + len.min(self.crew.hole()),
            Todo::Copy => piece_end.min(range.start + len),
        };
        self.ctx.limit(if todo == Todo::Copy { end - range.start } else { 0 }).await?;
        self.start(range.start..end, todo);
        Ok(end)
    }

    /// What is to be done at the beginning of a range, and for how many bytes.
    async fn look(&self, range: Range<u64>) -> Result<(u64, Todo), Failed> {
        let (at, left) = (range.start, range.end - range.start);
        if let Some((until, todo)) = self.survey.at(at) {
            return Ok((left.min(until - at), todo));
        }
        let asked = self.survey.ahead(left);
        let (len, todo) = self.what.look(self.ctx.io(), at, asked).await?;
        self.survey.learn(at, asked, len.max(1), todo);
        Ok((len.clamp(1, left), todo))
    }

    fn start(&self, run: Range<u64>, todo: Todo) {
        let (ctx, what, crew, failed) = (self.ctx.clone(), self.what.clone(), self.crew.clone(), self.failed.clone());
        let member = self.crew.begin();
        self.ctx.io().spawn(async move {
            let _member: Member = member;
            let started = ctx.io().read_clock();
            let result = what.work(ctx.io(), &crew, run.clone(), todo).await;
            let (len, time) = (run.end - run.start, ctx.io().read_clock().saturating_sub(started));
            match todo {
                Todo::Copy => crew.took(len, time),
                _ => crew.zeroed(len, time),
            }
            match result {
                Ok(()) => ctx.advance(len),
                Err(error) => {
                    failed.borrow_mut().push(run);
                    crew.fail(error);
                }
            }
        });
    }

    /// Does what the policy says about pieces that have failed; returns those to be done again. Those that were under way
    /// together count as one error, the first.
    async fn handle_failures(&self) -> Result<Vec<Range<u64>>, JobFailure> {
        if !self.crew.has_failed() {
            return Ok(Vec::new());
        }
        self.crew.all_done().await;
        let (first, pieces) = (self.crew.take_failures().into_iter().next(), self.failed.take());
        let Some((operation, error)) = first else { return Ok(pieces) };
        match self.ctx.on_error(self.pass.on_error, operation, error) {
            ErrorAction::Report => Err(error.into()),
            ErrorAction::Ignore if self.pass.leaves_out => {
                self.left_out.borrow_mut().get_or_insert(error);
                pieces.iter().for_each(|piece| self.ctx.advance(piece.end - piece.start));
                Ok(Vec::new())
            }
            ErrorAction::Ignore | ErrorAction::Stop => Ok(pieces),
        }
    }
}
