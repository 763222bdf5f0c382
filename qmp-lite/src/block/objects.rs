//! The objects that nodes' options name, looked up before nodes are opened.

use std::sync::Arc;

use tidemark_backend::node::NodeOptions;
use tidemark_backend::node::options::{Backing, ChildRef, DriverOptions};

use crate::error::QmpError;
use crate::object::Objects;

/// Puts objects in the place of their names, in a node's options and those of the nodes defined inside. A throttle group
/// that there is not is missed when the node is opened.
pub(super) fn find(options: &mut NodeOptions, objects: &Objects) -> Result<(), QmpError> {
    match &mut options.driver {
        DriverOptions::Nbd(nbd) => {
            if let Some(id) = &nbd.tls_creds {
                let client = objects.tls_client(id)?;
                Arc::make_mut(nbd).tls = Some(client);
            }
        }
        DriverOptions::Throttle(throttle) => throttle.group = objects.throttle_group(&throttle.group_name),
        _ => {}
    }
    children(&mut options.driver).into_iter().try_for_each(|child| match child {
        ChildRef::Inline(options) => find(options, objects),
        ChildRef::Name(_) => Ok(()),
    })
}

fn children(driver: &mut DriverOptions) -> Vec<&mut ChildRef> {
    match driver {
        DriverOptions::Raw(raw) => vec![&mut raw.file],
        DriverOptions::BlkDebug(debug) => vec![&mut debug.image],
        DriverOptions::Throttle(throttle) => vec![&mut throttle.file],
        DriverOptions::CopyOnRead(filter) => vec![&mut filter.file],
        DriverOptions::CopyBeforeWrite(copy) => vec![&mut copy.file, &mut copy.target],
        DriverOptions::SnapshotAccess(file) => vec![file],
        DriverOptions::Qcow2(qcow2) => {
            let backing = match &mut qcow2.backing {
                Backing::Node(node) => Some(node),
                Backing::FromHeader | Backing::None => None,
            };
            std::iter::once(&mut qcow2.file).chain(&mut qcow2.data_file).chain(backing).collect()
        }
        DriverOptions::File(_) | DriverOptions::Null(_) | DriverOptions::Nbd(_) => Vec::new(),
    }
}
