//! The seam to the kernel: links, addresses, neighbours, FDB and routes, read in full and changed op by op.

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

/// Everything that one look at the kernel found, foreign objects included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The host: interfaces, addresses, routes.
    pub facts: HostFacts,
    /// The same as kernel objects. Neighbours and FDB entries are those of the tunnel devices only.
    pub dataplane: Dataplane,
}

/// A kernel, real or fake.
pub trait Kernel: Send + 'static {
    /// Reads the whole state. `tunnels` names the devices whose neighbours and FDB entries are wanted;
    /// those that do not exist have none.
    fn observe(
        &mut self,
        tunnels: &BTreeSet<LinkName>,
    ) -> impl Future<Output = Result<Observation, KernelError>> + Send;

    /// Runs the ops in order, in as few system calls as possible. The result has one entry per op;
    /// a failed op does not stop those after it.
    fn apply(&mut self, ops: &[Op]) -> impl Future<Output = Vec<Result<(), KernelError>>> + Send;
}
