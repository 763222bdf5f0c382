//! What states a job has, how it may go from one to the next, and which commands it takes in which: two const tables.
//!
//! Knows no jobs. The names are QEMU's (`JobStatus`, `JobVerb`).

use std::fmt;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It exists and does nothing.
    Created,
    /// Its body runs.
    Running,
    /// Its body waits for a resume.
    Paused,
    /// It can be completed at any time and keeps up until then.
    Ready,
    /// Paused while ready.
    Standby,
    /// Its work is done; others of its group are still at theirs.
    Waiting,
    /// The work of its group is done; the results have not taken effect.
    Pending,
    /// It failed or was cancelled and is being cleaned up.
    Aborting,
    /// All is done; only its result is left.
    Concluded,
    /// It is gone.
    Null,
}

/// Commands that a job takes in some states only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// End without a result.
    Cancel,
    /// Wait from the next pause point on.
    Pause,
    /// Go on.
    Resume,
    /// Change the speed limit.
    SetSpeed,
    /// End a ready job.
    Complete,
    /// Let the results take effect.
    Finalize,
    /// Forget a concluded job.
    Dismiss,
    /// Change options.
    Change,
}

impl Status {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Ready,
        Self::Standby,
        Self::Waiting,
        Self::Pending,
        Self::Aborting,
        Self::Concluded,
        Self::Null,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ready => "ready",
            Self::Standby => "standby",
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Aborting => "aborting",
            Self::Concluded => "concluded",
            Self::Null => "null",
        }
    }

    /// Whether a job may go from here to `next`.
    pub fn may_become(self, next: Self) -> bool {
        TRANSITIONS[self as usize][next as usize] == 1
    }

    /// Whether a job takes `verb` here.
    pub fn accepts(self, verb: Verb) -> bool {
        VERBS[verb as usize][self as usize] == 1
    }

    /// Whether the body has ended.
    pub fn is_completed(self) -> bool {
        matches!(self, Self::Waiting | Self::Pending | Self::Aborting | Self::Concluded | Self::Null)
    }

    /// Whether the job can be completed.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Standby)
    }
}

impl Verb {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Cancel,
        Self::Pause,
        Self::Resume,
        Self::SetSpeed,
        Self::Complete,
        Self::Finalize,
        Self::Dismiss,
        Self::Change,
    ];

    /// The name in error texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::SetSpeed => "set-speed",
            Self::Complete => "complete",
            Self::Finalize => "finalize",
            Self::Dismiss => "dismiss",
            Self::Change => "change",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Row: from; column: to; both in the order of [`Status::ALL`].
#[rustfmt::skip]
const TRANSITIONS: [[u8; 10]; 10] = [
    //               Cr Ru Pa Re St Wa Pe Ab Co Nu
    /* created   */ [0, 1, 0, 0, 0, 0, 0, 1, 0, 1],
    /* running   */ [0, 0, 1, 1, 0, 1, 0, 1, 0, 0],
    /* paused    */ [0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    /* ready     */ [0, 0, 0, 0, 1, 1, 0, 1, 0, 0],
    /* standby   */ [0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
    /* waiting   */ [0, 0, 0, 0, 0, 0, 1, 1, 0, 0],
    /* pending   */ [0, 0, 0, 0, 0, 0, 0, 1, 1, 0],
    /* aborting  */ [0, 0, 0, 0, 0, 0, 0, 1, 1, 0],
    /* concluded */ [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    /* null      */ [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
];

/// Row: verb, in the order of [`Verb::ALL`]; column: status.
#[rustfmt::skip]
const VERBS: [[u8; 10]; 8] = [
    //               Cr Ru Pa Re St Wa Pe Ab Co Nu
    /* cancel    */ [1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    /* pause     */ [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
    /* resume    */ [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
    /* set-speed */ [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
    /* complete  */ [0, 0, 0, 1, 1, 0, 0, 0, 0, 0],
    /* finalize  */ [0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
    /* dismiss   */ [0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
    /* change    */ [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
];
