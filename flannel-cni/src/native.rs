//! Delegates done in this process, with the same state on disk and in the kernel as the Go plugins: what one
//! has added, the other checks and deletes.

pub(crate) mod bandwidth;
pub(crate) mod bridge;
pub(crate) mod host_local;
pub(crate) mod ipam;
pub(crate) mod loopback;
pub(crate) mod masquerade;
pub(crate) mod names;
pub(crate) mod portmap;
