//! The interface to the kernel: links, addresses, neighbours, FDB and routes, observed in full and changed op by op.

use flannel_core::dataplane::{Dataplane, Op};
use flannel_core::facts::HostFacts;
use flannel_core::link::LinkName;
use std::collections::BTreeSet;

pub(crate) mod conn;
mod error;
mod monitor;
mod netlink;
mod single;

pub use error::{KernelError, Refused};
pub use monitor::{Inbox, Monitor};
pub use netlink::NetlinkKernel;

/// The state of the kernel at one time, unmanaged objects included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The host: interfaces, addresses, routes.
    pub facts: HostFacts,
    /// The kernel objects, with neighbours and FDB entries of the tunnel devices only.
    pub dataplane: Dataplane,
}

/// A kernel, real or fake.
pub trait Kernel: Send + 'static {
    /// Reads the whole state, with neighbours and FDB entries of `tunnels`, as far as they exist.
    fn observe(
        &mut self,
        tunnels: &BTreeSet<LinkName>,
    ) -> impl Future<Output = Result<Observation, KernelError>> + Send;

    /// Applies the ops in order, in as few system calls as possible, and returns one result for each. A failed op does not
    /// stop those after it.
    fn apply(&mut self, ops: &[Op]) -> impl Future<Output = Vec<Result<(), KernelError>>> + Send;
}
