//! alloc: a lease and nothing in the kernel; somebody else moves packets.

use crate::dataplane::Dataplane;

/// Nothing.
pub(super) fn base() -> Dataplane {
    Dataplane::default()
}
