//! The commands of both families, `job-*` and `block-job-*`, checked as QEMU checks them.

use crate::error::JobError;
use crate::job::Job;
use crate::mirror::CopyMode;
use crate::registry::Registry;
use crate::state::Verb;
use std::rc::Rc;

/// Which commands: they differ in whom they find and how they say that they did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `job-*`: all jobs.
    Job,
    /// `block-job-*`: block jobs.
    BlockJob,
}

/// What is asked of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `job-pause`, `block-job-pause`
    Pause,
    /// `job-resume`, `block-job-resume`
    Resume,
    /// `job-cancel` (always with force), `block-job-cancel`
    Cancel {
        /// Also when paused, and without a result when ready.
        force: bool,
    },
    /// `job-complete`, `block-job-complete`
    Complete,
    /// `job-finalize`, `block-job-finalize`
    Finalize,
    /// `job-dismiss`, `block-job-dismiss`
    Dismiss,
    /// `block-job-set-speed`, in bytes per second; 0 for no limit
    SetSpeed(i64),
    /// `block-job-change`, of a mirror's `copy-mode`
    Change(CopyMode),
}

impl Registry {
    /// Carries a command out. Returns when its effect shows: at once, but for those that let results take effect.
    ///
    /// # Errors
    /// With QEMU's texts; nothing has happened then.
    pub async fn command(&self, family: Family, id: &str, command: Command) -> Result<(), JobError> {
        let job = self.settled(family, id).await?;
        match command {
            Command::Pause => job.pause_for_user(),
            Command::Resume => job.command_resume(),
            Command::Cancel { force } => {
                let force = force || family == Family::Job;
                if job.user_paused.get() && !force {
                    return Err(JobError::Paused(job.id.clone()));
                }
                job.check(Verb::Cancel)?;
                self.cancel(&job, force).await;
                Ok(())
            }
            Command::Complete => job.complete(),
            Command::Finalize => {
                job.check(Verb::Finalize)?;
                self.finalize(&job.group).await;
                Ok(())
            }
            Command::Dismiss => {
                job.check(Verb::Dismiss)?;
                self.forget(&job);
                Ok(())
            }
            Command::SetSpeed(speed) => job.set_speed(speed),
            Command::Change(mode) => {
                job.check(Verb::Change)?;
                job.driver.change(&job, mode)
            }
        }
    }

    /// A job that is not being made and whose results are not taking effect right now: to whoever asks, either happens
    /// in one moment.
    async fn settled(&self, family: Family, id: &str) -> Result<Rc<Job>, JobError> {
        loop {
            let job = self.lookup(family, id)?;
            if job.is_settled() {
                return Ok(job);
            }
            job.settle().await;
        }
    }

    fn lookup(&self, family: Family, id: &str) -> Result<Rc<Job>, JobError> {
        let found = self.find(id).filter(|job| family == Family::Job || job.kind.is_block_job());
        found.ok_or_else(|| match family {
            Family::Job => JobError::NotFound,
            Family::BlockJob => JobError::NotActive(id.to_owned()),
        })
    }
}

impl Job {
    fn check(&self, verb: Verb) -> Result<(), JobError> {
        let status = self.status();
        if status.accepts(verb) { Ok(()) } else { Err(JobError::Refused { id: self.id.clone(), status, verb }) }
    }

    fn pause_for_user(&self) -> Result<(), JobError> {
        self.check(Verb::Pause)?;
        if self.user_paused.replace(true) {
            return Err(JobError::AlreadyPaused);
        }
        self.pause();
        Ok(())
    }

    fn command_resume(&self) -> Result<(), JobError> {
        if !self.user_paused.get() {
            return Err(JobError::NotPaused);
        }
        self.check(Verb::Resume)?;
        self.resume_for_user();
        Ok(())
    }

    fn complete(&self) -> Result<(), JobError> {
        self.check(Verb::Complete)?;
        if self.cancelled.get() {
            return Err(JobError::CannotComplete(self.id.clone()));
        }
        self.completing.set(true);
        self.changed.notify();
        Ok(())
    }

    fn set_speed(&self, speed: i64) -> Result<(), JobError> {
        self.check(Verb::SetSpeed)?;
        let speed = u64::try_from(speed).map_err(|_| JobError::NegativeSpeed)?;
        let mut rate = self.rate.get();
        rate.set_speed(speed);
        self.rate.set(rate);
        self.changed.notify();
        Ok(())
    }
}
