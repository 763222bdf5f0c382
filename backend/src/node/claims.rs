//! Who may use a node beside whom: a format relies on its files as it wrote them, so that nobody else may write there.
//!
//! The rules and the texts are those of QEMU's permissions. Knows users by what they do; files' locks, which keep other
//! processes out, are taken by [`Node::lock`].

use super::Node;
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

/// The users of a node that matter to others.
#[derive(Debug, Default)]
pub(super) struct Claims {
    writers: usize,
    formats: Vec<User>,
}

impl User {
    pub(super) fn access(&self) -> Access {
        match self {
            Self::Root(access) | Self::Format { access, .. } => *access,
        }
    }

    fn text(&self, node: &str) -> String {
        match self {
            Self::Root(_) => format!("an unnamed block device (uses node '{node}' as 'root' child)"),
            Self::Format { parent, role, .. } => format!("node '{parent}' (uses node '{node}' as '{role}' child)"),
        }
    }
}

impl Claims {
    /// Lets a user in.
    ///
    /// # Errors
    /// A permission conflict.
    pub(super) fn enter(&mut self, node: &str, user: &User) -> Result<(), GraphError> {
        let writes = user.access().writes();
        match user {
            User::Root(_) => {
                if let Some(format) = self.formats.first().filter(|_| writes) {
                    return Err(conflict(node, "write", user, format));
                }
                self.writers += usize::from(writes);
            }
            User::Format { .. } => {
                if self.writers > 0 {
                    return Err(conflict(node, "write", &User::Root(Access::Write), user));
                }
                let other = self.formats.iter().find(|format| writes || format.access().writes());
                if let Some(other) = other {
                    let (writer, reader) = if other.access().writes() { (other, user) } else { (user, other) };
                    return Err(conflict(node, "write, resize", writer, reader));
                }
                self.formats.push(user.clone());
            }
        }
        Ok(())
    }

    pub(super) fn leave(&mut self, user: &User) {
        match user {
            User::Root(access) => self.writers -= usize::from(access.writes()),
            User::Format { .. } => {
                let position = self.formats.iter().position(|format| format == user);
                position.into_iter().for_each(|position| drop(self.formats.swap_remove(position)));
            }
        }
    }
}

fn conflict(node: &str, what: &str, required: &User, unshared: &User) -> GraphError {
    GraphError::Options(format!(
        "Permission conflict on node '{node}': permissions '{what}' are both required by {} and unshared by {}.",
        required.text(node),
        unshared.text(node)
    ))
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
    /// Somebody else writes there, in this process or in another.
    pub fn of_format(node: &Arc<Node>, parent: &str, role: &'static str, writes: bool) -> Result<Self, GraphError> {
        let access = if writes { Access::Write } else { Access::Format };
        Self::take(node, User::Format { parent: parent.to_owned(), role, access })
    }

    /// Takes `node` for reading.
    ///
    /// # Errors
    /// Another process does not let others read there.
    pub fn of_reader(node: &Arc<Node>) -> Result<Self, GraphError> {
        Self::take(node, User::Root(Access::Read))
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
            Some(format) => Err(conflict(&self.name, "write, resize", &User::Root(Access::Write), format)),
            None => Ok(()),
        }
    }

    /// Whether somebody writes to it.
    pub(crate) fn has_writers(&self) -> bool {
        let claims = self.claims();
        claims.writers > 0 || claims.formats.iter().any(|format| format.access().writes())
    }

    /// Refuses to give the node another length while a format relies on it.
    ///
    /// # Errors
    /// A permission conflict.
    pub fn check_resizable(&self) -> Result<(), GraphError> {
        match self.claims().formats.first() {
            Some(format) => Err(conflict(&self.name, "resize", &User::Root(Access::Write), format)),
            None => Ok(()),
        }
    }
}
