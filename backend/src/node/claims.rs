//! Who may use a node beside whom: a format relies on its files as it wrote them, so that nobody else may write there.
//!
//! The rules and the texts are those of QEMU's permissions. Knows users by what they do; files' locks, which keep other
//! processes out, are taken by [`Node::lock`].

use super::{Driver, Node};
use crate::error::GraphError;
use crate::io::lock::Access;
use std::sync::{Arc, MutexGuard, PoisonError};

/// A user of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum User {
    /// An export, a job or a filter.
    Root(Access),
    /// A format with its metadata or its clusters there.
    Format {
        /// The name of its node.
        parent: String,
        /// What it calls this one.
        role: &'static str,
        /// What it does.
        access: Access,
    },
}

/// The way on which a user comes to a node from one above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    /// The name of the node above.
    pub(super) parent: String,
    /// What it calls the one below.
    pub(super) role: &'static str,
}

/// A user, and how it comes.
type Coming = (User, Option<Edge>);

/// The users of a node that matter to others.
#[derive(Debug, Default)]
pub(super) struct Claims {
    roots: Vec<Coming>,
    formats: Vec<Coming>,
}

impl User {
    pub(super) fn access(&self) -> Access {
        match self {
            Self::Root(access) | Self::Format { access, .. } => *access,
        }
    }

    /// Of a format: which one, and what it calls the node.
    fn place(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::Root(_) => None,
            Self::Format { parent, role, .. } => Some((parent, role)),
        }
    }

    fn text(&self, edge: Option<&Edge>, node: &str) -> String {
        let (parent, role) = match (edge, self) {
            (Some(Edge { parent, role }), _) => (parent, role),
            (None, Self::Format { parent, role, .. }) => (parent, role),
            (None, Self::Root(_)) => return format!("an unnamed block device (uses node '{node}' as 'root' child)"),
        };
        format!("node '{parent}' (uses node '{node}' as '{role}' child)")
    }
}

impl Claims {
    /// Lets a user in.
    ///
    /// # Errors
    /// A permission conflict.
    pub(super) fn enter(&mut self, node: &str, user: &User, edge: Option<&Edge>) -> Result<(), GraphError> {
        let (writes, coming) = (user.access().writes(), (user.clone(), edge.cloned()));
        match user {
            User::Root(_) => {
                if let Some(format) = self.formats.first().filter(|_| writes) {
                    return Err(conflict(node, "write", &coming, format));
                }
                self.roots.push(coming);
            }
            User::Format { .. } => {
                if let Some(writer) = self.roots.iter().find(|(root, _)| root.access().writes()) {
                    return Err(conflict(node, "write", writer, &coming));
                }
                let clashes = |format: &User| (writes || format.access().writes()) && format.place() != user.place();
                if let Some(other) = self.formats.iter().find(|(format, _)| clashes(format)) {
                    let (writer, reader) = if other.0.access().writes() { (other, &coming) } else { (&coming, other) };
                    return Err(conflict(node, "write, resize", writer, reader));
                }
                self.formats.push(coming);
            }
        }
        Ok(())
    }

    /// Lets a user in instead of another.
    ///
    /// # Errors
    /// A permission conflict; the other one stays.
    pub(super) fn exchange(
        &mut self,
        node: &str,
        (last, user): (&User, &User),
        edge: Option<&Edge>,
    ) -> Result<(), GraphError> {
        self.leave(last, edge);
        let entered = self.enter(node, user, edge);
        if entered.is_err() {
            // It was in before.
            self.enter(node, last, edge)?;
        }
        entered
    }

    pub(super) fn leave(&mut self, user: &User, edge: Option<&Edge>) {
        let users = match user {
            User::Root(_) => &mut self.roots,
            User::Format { .. } => &mut self.formats,
        };
        let same = |exactly: bool| move |(other, way): &Coming| other == user && (way.as_ref() == edge || !exactly);
        // Two that differ only in their way are as good as each other.
        let position = users.iter().position(same(true)).or_else(|| users.iter().position(same(false)));
        position.into_iter().for_each(|position| drop(users.swap_remove(position)));
    }
}

fn conflict(node: &str, what: &str, (required, by): &Coming, (unshared, with): &Coming) -> GraphError {
    GraphError::Options(format!(
        "Permission conflict on node '{node}': permissions '{what}' are both required by {} and unshared by {}.",
        required.text(by.as_ref(), node),
        unshared.text(with.as_ref(), node)
    ))
}

/// Somebody who would write, and comes from nowhere in particular.
fn writer() -> Coming {
    (User::Root(Access::Write), None)
}

/// A node in use by a format above it, with the locks that this takes, as long as this lives.
#[derive(Debug)]
pub struct Hold {
    node: Arc<Node>,
    user: User,
}

impl Hold {
    /// Takes `node`, which the format of node `parent` calls `role`; it writes there or relies on what is there.
    ///
    /// # Errors
    /// Somebody else writes there, in this process or in another; a filter there would have to copy first.
    pub fn of_format(node: &Arc<Node>, parent: &str, role: &'static str, writes: bool) -> Result<Self, GraphError> {
        check_direct(node, parent, writes)?;
        let access = if writes { Access::Image } else { Access::Format };
        Self::take(node, User::Format { parent: parent.to_owned(), role, access })
    }

    /// Takes `node` for reading.
    ///
    /// # Errors
    /// Another process does not let others read there.
    pub fn of_reader(node: &Arc<Node>) -> Result<Self, GraphError> {
        Self::take(node, User::Root(Access::Read))
    }

    /// Of a format: it writes there from now on, or only relies on what is there.
    ///
    /// # Errors
    /// As [`Hold::of_format`]; nothing has changed.
    pub(crate) fn change(&mut self, writes: bool) -> Result<(), GraphError> {
        let User::Format { parent, role, .. } = &self.user else { return Ok(()) };
        let access = if writes { Access::Image } else { Access::Format };
        check_direct(&self.node, parent, writes)?;
        let user = User::Format { parent: parent.clone(), role, access };
        self.node.exchange(&self.user, &user)?;
        self.user = user;
        Ok(())
    }

    /// Whether it is a format's.
    pub(crate) fn is_of_format(&self) -> bool {
        matches!(self.user, User::Format { .. })
    }

    /// The node.
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    fn take(node: &Arc<Node>, user: User) -> Result<Self, GraphError> {
        node.lock(&user)?;
        Ok(Self { node: node.clone(), user })
    }
}

/// An image's own writes, to where it puts clusters and tables, wait for no copies and make their file longer.
fn check_direct(node: &Arc<Node>, image: &str, writes: bool) -> Result<(), GraphError> {
    let copies = |node: &Arc<Node>| matches!(node.driver(), Driver::CopyBeforeWrite(filter) if filter.is_own());
    let mut below = std::iter::successors(Some(node.clone()), |node| node.child());
    match below.find(copies).filter(|_| writes) {
        Some(filter) => Err(GraphError::Options(format!(
            "Node '{}' keeps what is below it, through which image '{image}' cannot write: put it above the image",
            filter.name()
        ))),
        None => Ok(()),
    }
}

/// All who use a node come through to another one below it: both are theirs as long as this lives, then one.
#[derive(Debug)]
pub(crate) struct Lead {
    users: Vec<User>,
    /// The one they leave.
    left: Arc<Node>,
    /// How they come to either.
    edge: Edge,
}

impl Lead {
    /// Lets the users of `parent` in at `to`.
    ///
    /// # Errors
    /// Somebody there does not let them in.
    pub(crate) fn begin(parent: &Node, to: &Arc<Node>) -> Result<Self, GraphError> {
        let users: Vec<User> = {
            let claims = parent.claims();
            claims.roots.iter().chain(&claims.formats).map(|(user, _)| user.clone()).collect()
        };
        let mut lead = Self { users: Vec::new(), left: to.clone(), edge: parent.edge() };
        for user in users {
            to.lock_through(&user, Some(&lead.edge))?;
            lead.users.push(user);
        }
        Ok(lead)
    }

    /// They have left `from` for good.
    pub(crate) fn commit(&mut self, from: &Arc<Node>) {
        self.left = from.clone();
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.users.iter().for_each(|user| self.left.unlock_through(user, Some(&self.edge)));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.node.unlock(&self.user);
    }
}

impl Node {
    pub(super) fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to make something else of the node's content while a format relies on it.
    ///
    /// # Errors
    /// A permission conflict.
    pub(crate) fn check_replaceable(&self) -> Result<(), GraphError> {
        match self.claims().formats.first() {
            Some(format) => Err(conflict(&self.name, "write, resize", &writer(), format)),
            None => Ok(()),
        }
    }

    /// Whether somebody writes to it but the formats of nodes that `leaving` knows.
    pub(crate) fn has_writers(&self, leaving: impl Fn(&str) -> bool) -> bool {
        let claims = self.claims();
        let format = |user: &User| match user {
            User::Format { parent, access, .. } => access.writes() && !leaving(parent),
            User::Root(_) => false,
        };
        claims.roots.iter().any(|(root, _)| root.access().writes())
            || claims.formats.iter().any(|(user, _)| format(user))
    }

    /// Refuses to give the node another length while a format relies on it.
    ///
    /// # Errors
    /// A permission conflict.
    pub fn check_resizable(&self) -> Result<(), GraphError> {
        match self.claims().formats.first() {
            Some(format) => Err(conflict(&self.name, "resize", &writer(), format)),
            None => Ok(()),
        }
    }
}
