//! The names of conditions that are not about one lease, and the texts of those that are.

use flannel_core::backend::PeerError;

use crate::error::chain;

/// Conditions that are not about one lease.
pub(crate) mod id {
    pub(crate) const AGENT: &str = "agent";
    pub(crate) const ATTRS: &str = "public address";
    pub(crate) const BRIDGE: &str = "bridge";
    pub(crate) const CONFIG: &str = "config";
    pub(crate) const CONFLICT: &str = "rival";
    pub(crate) const INTERFACE: &str = "interface";
    pub(crate) const KERNEL: &str = "kernel";
    pub(crate) const NODE: &str = "node";
    /// An object of another program is in the way.
    pub(crate) const OBSTACLE: &str = "obstacle";
    /// Addresses that the store prescribes for this node.
    pub(crate) const PRESCRIBED: &str = "prescribed address";
    pub(crate) const STORE: &str = "store";
    pub(crate) const SUBNET_ENV: &str = "subnet.env";
    pub(crate) const ALL: [&str; 12] = [
        AGENT, ATTRS, BRIDGE, CONFIG, CONFLICT, INTERFACE, KERNEL, NODE, OBSTACLE, PRESCRIBED, STORE,
        SUBNET_ENV,
    ];
}

/// The condition of an unreadable record begins like this.
pub(super) const BAD_RECORD: &str = "the record cannot be used";

/// The faults of a peer, with the name of its node, if it has any: another backend is as configured there.
pub(super) fn peer_condition(errors: &[PeerError], node: Option<&str>) -> Option<String> {
    let faults: Vec<String> = errors.iter().filter(|error| !error.is_expected()).map(|e| chain(e)).collect();
    let node = node.map(|name| format!("node {name}: ")).unwrap_or_default();
    (!faults.is_empty()).then(|| node + &faults.join("; "))
}
