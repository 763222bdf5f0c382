//! What users of a graph require of its nodes, and what each does not share with others there: QEMU's permissions.
//!
//! A user has a stake in one node, and by that in those below: what it requires and what it does not share go down
//! along the links as they are then. An image reads what is below it and stands nobody's writing there if nobody may
//! write to itself; what else it needs of its files is [`super::claims`]'s. Knows no jobs and no exports.
//!
//! Invariant: a stake is compared with all others and listed under one lock. Of two that conflict the later one is thus
//! refused, whichever threads they come on, and nothing need be looked at twice.

use super::{Driver, Node};
use crate::error::GraphError;
use crate::io::lock::Access;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What a filter calls the node that it copies to.
const TARGET: &str = "target";

/// Some of what can be done with a node's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// To read what is right at every moment.
    pub const READ: Self = Self(1);
    /// To change it.
    pub const WRITE: Self = Self(2);
    /// Both.
    pub const ALL: Self = Self(3);

    fn of(access: Access) -> Self {
        match access {
            Access::Read | Access::Format => Self::READ,
            Access::Write | Access::Image => Self::ALL,
            Access::Target | Access::Alone => Self::WRITE,
            Access::Hidden | Access::Resize => Self::NONE,
        }
    }

    fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// As QEMU names them.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NONE => "",
            Self::READ => "consistent read",
            Self::WRITE => "write",
            Self(_) => "consistent read, write",
        })
    }
}

/// Who uses a node, and what it calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    /// A node above.
    Node(String, &'static str),
    /// A job.
    Job(String, &'static str),
    /// An export, or what a job writes through.
    Unnamed,
}

impl By {
    fn text(&self, node: &str) -> String {
        let (user, role) = match self {
            Self::Node(name, role) => (format!("node '{name}'"), *role),
            Self::Job(job, role) => (job.clone(), *role),
            Self::Unnamed => ("an unnamed block device".to_owned(), "root"),
        };
        format!("{user} (uses node '{node}' as '{role}' child)")
    }
}

/// What somebody requires of a node and does not share with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stake {
    by: By,
    required: Permissions,
    unshared: Permissions,
    /// What is below the node is this user's affair: others who come through the node require nothing there.
    decouples: bool,
}

impl Stake {
    /// That of an export, or of what a job reads and writes through; it shares all.
    pub fn of_access(access: Access) -> Self {
        Self { by: By::Unnamed, required: Permissions::of(access), unshared: Permissions::NONE, decouples: false }
    }

    /// That of a node in the filter whose point in time it reads.
    pub fn of_reader(name: &str) -> Self {
        let by = By::Node(name.to_owned(), "file");
        Self { by, required: Permissions::NONE, ..Self::of_access(Access::Read) }
    }

    /// That of a filter in the node that it copies to.
    pub fn of_filter(name: &str) -> Self {
        Self { by: By::Node(name.to_owned(), TARGET), ..Self::of_access(Access::Target) }
    }

    /// That of a job in a node that it does nothing with by itself: `job` is how QEMU speaks of it (`commit job 'j'`).
    pub fn of_job(job: &str, role: &'static str) -> Self {
        let by = By::Job(job.to_owned(), role);
        Self { by, required: Permissions::NONE, unshared: Permissions::NONE, decouples: false }
    }

    /// It does not share these.
    pub fn unshared(self, unshared: Permissions) -> Self {
        Self { unshared, ..self }
    }

    /// From what is below the node, its other users get nothing but through this one, which sees that it is right.
    pub fn decoupling(self) -> Self {
        Self { decouples: true, ..self }
    }
}

/// A stake with its node; in the node's list until this is dropped.
#[derive(Debug)]
pub struct Staked {
    node: Arc<Node>,
    stake: Stake,
}

impl Drop for Staked {
    fn drop(&mut self) {
        self.node.unstake(&self.stake);
    }
}

/// The stakes in the nodes of one graph.
#[derive(Debug, Default)]
pub(crate) struct Stakes(Mutex<Vec<(Weak<Node>, Stake)>>);

impl Stakes {
    fn list(&self) -> MutexGuard<'_, Vec<(Weak<Node>, Stake)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, node: &Arc<Node>, stake: Stake) -> Result<(), GraphError> {
        let new = (node.clone(), stake);
        // A node that goes with these leaves the list: not under the lock.
        let (listed, mine, theirs): (Vec<_>, Vec<_>, Vec<_>);
        let mut list = self.list();
        listed = living(&list);
        let decouples =
            |at: &Arc<Node>| listed.iter().chain([&new]).any(|(node, stake)| stake.decouples && Arc::ptr_eq(node, at));
        mine = arrivals(&new, decouples);
        // Of several the newest is named, as by QEMU.
        theirs = listed.iter().rev().flat_map(|other| arrivals(other, decouples)).collect();
        match mine.iter().find_map(|one| theirs.iter().find_map(|other| one.conflict(other))) {
            Some(error) => Err(error),
            None => {
                list.push((Arc::downgrade(node), new.1));
                Ok(())
            }
        }
    }

    /// Compares with all others those who would come to `below` through `above`, if that came to lead there.
    fn check_link(&self, above: &Arc<Node>, below: &Arc<Node>) -> Result<(), GraphError> {
        let listed = living(&self.list());
        let decouples = |at: &Arc<Node>| listed.iter().any(|(node, stake)| stake.decouples && Arc::ptr_eq(node, at));
        // Where they come by the link that there is now does not count.
        let ends = |at: &Arc<Node>| decouples(at) || Arc::ptr_eq(at, above);
        let all: Vec<_> = listed.iter().rev().flat_map(|other| arrivals(other, ends)).collect();
        let coming = all.iter().filter(|arrival| Arc::ptr_eq(&arrival.node, above) && !decouples(above));
        let led = coming.filter_map(|arrival| arrival.at(below)).flat_map(|first| on_from(first, decouples));
        led.into_iter().find_map(|one| all.iter().find_map(|other| one.conflict(other))).map_or(Ok(()), Err)
    }

    fn leave(&self, node: &Node, stake: &Stake) {
        let mut list = self.list();
        // Two that are equal are as good as each other.
        let at = list.iter().position(|(other, its)| std::ptr::eq(other.as_ptr(), node) && its == stake);
        at.into_iter().for_each(|at| drop(list.remove(at)));
    }
}

fn living(list: &[(Weak<Node>, Stake)]) -> Vec<(Arc<Node>, Stake)> {
    list.iter().filter_map(|(node, stake)| Some((node.upgrade()?, stake.clone()))).collect()
}

/// What somebody requires and does not share where he comes to a node.
struct Arrival {
    node: Arc<Node>,
    by: By,
    required: Permissions,
    unshared: Permissions,
    /// Whether whoever comes to the node may write all the same, for their writes wait for the one who does not share it.
    /// Only who copies to the node may not: he would wait for another copy, and that perhaps for his.
    stands_aside: bool,
}

/// A user's own node, and all below at which he requires something or does not share it.
fn arrivals((node, stake): &(Arc<Node>, Stake), decouples: impl Fn(&Arc<Node>) -> bool) -> Vec<Arrival> {
    let Stake { by, required, unshared, .. } = stake.clone();
    on_from(Arrival { node: node.clone(), by, required, unshared, stands_aside: false }, decouples)
}

/// Somebody who comes to a node, and where he comes by that.
fn on_from(first: Arrival, decouples: impl Fn(&Arc<Node>) -> bool) -> Vec<Arrival> {
    let mut all = vec![first];
    let mut at = 0;
    while let Some(arrival) = all.get(at) {
        if !decouples(&arrival.node)
            && let Some(below) = arrival.below()
        {
            all.push(below);
        }
        at += 1;
    }
    all
}

impl Arrival {
    /// Where it comes from there.
    fn below(&self) -> Option<Self> {
        match self.node.driver() {
            Driver::Qcow2(image) => self.at(&image.backing()?),
            _ => self.at(&self.node.child()?),
        }
    }

    /// What it is at a node that its own leads to.
    fn at(&self, below: &Arc<Node>) -> Option<Self> {
        let Self { node: above, required, unshared, .. } = self;
        let (required, unshared, role) = match above.driver() {
            // Writes around it are not copied.
            Driver::CopyBeforeWrite(_) => (*required, unshared.or(Permissions::WRITE), above.edge().role),
            Driver::Qcow2(_) => (required.both(Permissions::READ), unshared.both(Permissions::WRITE), "backing"),
            // It reads what the filter keeps.
            Driver::SnapshotAccess(_) => return None,
            _ => (*required, *unshared, above.edge().role),
        };
        // What stands for a job's point in time is not on the way of those who come to its source.
        let stands_aside = matches!(above.driver(), Driver::CopyBeforeWrite(filter) if !filter.is_own());
        let by = By::Node(above.name().to_owned(), role);
        Some(Self { node: below.clone(), by, required, unshared, stands_aside })
    }

    /// Whether it writes here all the time, and not for somebody above.
    fn copies(&self) -> bool {
        matches!(self.by, By::Node(_, TARGET))
    }

    /// What the two do not stand of each other, if they come to one node and not by the same link.
    fn conflict(&self, other: &Self) -> Option<GraphError> {
        let same_link = matches!(self.by, By::Node(..)) && self.by == other.by;
        if !Arc::ptr_eq(&self.node, &other.node) || same_link {
            return None;
        }
        let between = |one: &Self, other: &Self| match one.required.both(other.unshared) {
            Permissions::NONE => None,
            Permissions::WRITE if other.stands_aside && !one.copies() => None,
            what => Some(refused(self.node.name(), what, &one.by, &other.by)),
        };
        between(other, self).or_else(|| between(self, other))
    }
}

fn refused(node: &str, what: Permissions, required: &By, unshared: &By) -> GraphError {
    let (required, unshared) = (required.text(node), unshared.text(node));
    GraphError::Options(format!(
        "Permission conflict on node '{node}': permissions '{what}' are both required by {required} and unshared by \
         {unshared}."
    ))
}

impl Node {
    /// One of the nodes that `stakes` are in.
    pub(crate) fn among(mut self, stakes: &Arc<Stakes>) -> Self {
        self.stakes = stakes.clone();
        self
    }

    /// Lets a user have a stake in the node, as long as the result lives.
    ///
    /// # Errors
    /// A permission conflict.
    pub fn stake(self: &Arc<Self>, stake: Stake) -> Result<Staked, GraphError> {
        self.add_stake(stake.clone()).map(|()| Staked { node: self.clone(), stake })
    }

    /// Refuses to lead those who come to this node to `below`, as its file or below an image.
    ///
    /// # Errors
    /// A permission conflict.
    pub(crate) fn check_over(self: &Arc<Self>, below: &Arc<Self>) -> Result<(), GraphError> {
        self.stakes.check_link(self, below)
    }

    /// As [`Node::stake`], until [`Node::unstake`].
    pub(super) fn add_stake(self: &Arc<Self>, stake: Stake) -> Result<(), GraphError> {
        self.stakes.enter(self, stake)
    }

    pub(super) fn unstake(&self, stake: &Stake) {
        self.stakes.leave(self, stake);
    }
}
