//! Delegates done in this process, with the state on disk and in the kernel that the Go plugins have: what one
//! has added, the other checks and deletes.

pub(crate) mod bridge;
pub(crate) mod host_local;
pub(crate) mod loopback;
