//! Another image below, by its name: the open image stays above the one that it was opened with.

use super::ChangeError;
use crate::node::qcow2::header::Backing;
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;

impl Image {
    /// Has the header name this image below, or none. Stable when this returns.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn name_backing(&self, io: &Handle, backing: Option<Backing>) -> Result<(), ChangeError> {
        self.change_header(io, |header| header.backing = backing).await
    }
}
