//! Filters that pass on what comes: `copy-on-read`, which makes what is read through it the image's own, and what stands
//! for a job among the nodes.
//!
//! A read through `copy-on-read` first copies what shows from below, of all clusters that it touches, and then reads: it
//! fails if that cannot be written. What the image has of its own is read as if there were no filter.

use super::link::Link;
use super::{Driver, Kind, Map, Node, Outcome, Request};
use crate::error::{GraphError, IoError};
use crate::reactor::Handle;
use std::sync::Arc;

/// A filter that passes everything on.
pub struct Passing {
    child: Link,
    role: Role,
}

/// What it is there for.
enum Role {
    /// `copy-on-read`; the lowest image that is copied from, if there is one.
    CopyOnRead(Option<Arc<Node>>),
    /// It stands for a job, under this name of a driver.
    Job(&'static str),
}

impl Passing {
    /// A `copy-on-read` filter over `child`.
    ///
    /// # Errors
    /// With QEMU's texts, where it has such: the child takes no writes; `bottom` is a filter or not in its chain.
    pub fn copy_on_read(child: &Arc<Node>, bottom: Option<Arc<Node>>) -> Result<Self, GraphError> {
        let refuse = |text: String| Err(GraphError::Options(text));
        if child.is_read_only() {
            return Err(GraphError::NotWritable);
        }
        if let Some(bottom) = &bottom {
            let name = bottom.name();
            if bottom.is_filter() {
                return refuse(format!("Bottom node '{name}' is a filter"));
            }
            if !child.chain().any(|node| Arc::ptr_eq(&node, bottom)) {
                return refuse(format!("Bottom node '{name}' is not in the chain of node '{}'", child.name()));
            }
        }
        Ok(Self { child: Link::new(child.clone()), role: Role::CopyOnRead(bottom) })
    }

    /// What stands for a job over `child`, as QEMU's driver `name` does.
    pub fn of_job(child: &Arc<Node>, name: &'static str) -> Self {
        Self { child: Link::new(child.clone()), role: Role::Job(name) }
    }

    /// The driver's QEMU name.
    pub fn name(&self) -> &'static str {
        match &self.role {
            Role::CopyOnRead(_) => "copy-on-read",
            Role::Job(name) => name,
        }
    }

    /// The lowest image that is copied from, of a `copy-on-read` filter that has one.
    pub fn bottom(&self) -> Option<&Arc<Node>> {
        match &self.role {
            Role::CopyOnRead(bottom) => bottom.as_ref(),
            Role::Job(_) => None,
        }
    }

    /// The node below.
    pub fn child(&self) -> Arc<Node> {
        self.child.get()
    }

    /// Over another node; inside [`crate::node::points::hold`].
    pub(crate) fn lead(&self, child: &Arc<Node>) {
        self.child.change(child.clone());
    }

    #[inline(never)]
    pub(super) fn map(&self, request: &Request, offset: u64) -> Map {
        let copies = request.kind == Kind::Read && matches!(&self.role, Role::CopyOnRead(_));
        self.child.with(|child| match child.driver() {
            _ if !copies => child.map_at(request, offset),
            Driver::Qcow2(image) => image.map_own(request, offset),
            _ => Map::Task,
        })
    }

    pub(super) async fn handle(&self, io: &Handle, request: Request) -> Outcome {
        let child = self.child();
        if let (Kind::Read, Role::CopyOnRead(bottom)) = (request.kind, &self.role) {
            let copied = match bottom {
                Some(bottom) => copy_above(io, &child, &request, bottom).await,
                None => child.populate(io, request.offset, request.len, &mut None).await,
            };
            if let Err(error) = copied {
                return (request.memory, Err(error));
            }
        }
        child.handle(io, request).await
    }
}

/// Copies what images down to `bottom` have of a read.
async fn copy_above(io: &Handle, child: &Arc<Node>, read: &Request, bottom: &Arc<Node>) -> Result<(), IoError> {
    let (mut at, end) = (read.offset, read.offset.saturating_add(read.len));
    while at < end {
        let status = child.status_above(io, at, end - at, bottom).await?;
        if status.depth > 1 {
            child.populate(io, at, status.len, &mut None).await?;
        }
        at += status.len.max(1);
    }
    Ok(())
}
