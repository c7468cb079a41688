//! The interface to the kernel: links, addresses, neighbours, FDB, nexthop objects and routes, observed in full and changed op by op.

use flannel_core::dataplane::{Dataplane, Op};
use flannel_core::facts::HostFacts;
use flannel_core::link::LinkName;
use std::collections::BTreeSet;

pub(crate) mod conn;
mod error;
mod monitor;
mod netlink;
mod single;

pub use crate::effector::Effector;
pub use error::{KernelError, Refused};
pub use monitor::{Inbox, Monitor};
pub use netlink::{NetlinkKernel, OwnPort};

/// The state of the kernel at one time, unmanaged objects included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The host: interfaces, addresses, routes.
    pub facts: HostFacts,
    /// The kernel objects, with neighbours and FDB entries of the tunnel devices only.
    pub dataplane: Dataplane,
    /// The kernel supports nexthop objects (from Linux 5.3 on).
    pub has_nexthops: bool,
}

/// A kernel, real or fake. The scope of an observation names the devices whose neighbours and FDB entries are read; those
/// that do not exist have none. Operations run in as few system calls as possible.
pub trait Kernel:
    Effector<Scope = BTreeSet<LinkName>, State = Observation, Op = Op, Error = KernelError> + 'static
{
}

impl<T> Kernel for T where
    T: Effector<Scope = BTreeSet<LinkName>, State = Observation, Op = Op, Error = KernelError> + 'static
{
}
