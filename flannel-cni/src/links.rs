//! Operations on links that several plugins need.

use flannel_core::dataplane::LinkKind;
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::link::{self, LinkRecord, LinkSettings};
use nix::errno::Errno;

use crate::kernel::{Kernel, KernelError};

/// Whether a link is of the kind with this name in the kernel.
pub(crate) fn is_kind(record: &LinkRecord, kind: &str) -> bool {
    matches!(&record.link.kind, LinkKind::Other(other) if other == kind)
}

impl Kernel {
    /// Sets a link up or down.
    pub(crate) fn set_up(&mut self, index: IfIndex, up: bool) -> Result<(), KernelError> {
        self.change_one(&link::set(index, &LinkSettings { up: Some(up), ..LinkSettings::default() }))
    }

    /// Deletes a link; one that no longer exists is no error.
    pub(crate) fn delete(&mut self, index: IfIndex) -> Result<(), KernelError> {
        match self.change_one(&link::delete(index)) {
            Err(error) if error.is(Errno::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Deletes a link by its name, if it exists.
    pub(crate) fn delete_by_name(&mut self, name: &LinkName) -> Result<(), KernelError> {
        self.link(name)?.map_or(Ok(()), |found| self.delete(found.index))
    }
}
