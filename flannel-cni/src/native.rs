//! Delegates done in this process, with the state on disk and in the kernel that the Go plugins have: what one
//! has added, the other checks and deletes.

pub(crate) mod bandwidth;
pub(crate) mod bridge;
pub(crate) mod host_local;
pub(crate) mod loopback;
pub(crate) mod masquerade;
pub(crate) mod names;
pub(crate) mod portmap;

use flannel_core::dataplane::LinkKind;
use flannel_core::message::link::LinkRecord;

/// A link is of a kind, by the kernel's name for it.
fn is_kind(record: &LinkRecord, kind: &str) -> bool {
    matches!(&record.link.kind, LinkKind::Other(other) if other == kind)
}
