//! The objects of the Kubernetes API that flannel reads and writes: nodes, their annotations, and lists and watches of
//! nodes.
//!
//! A node is the lease record of its host: `spec.podCIDRs` is the subnet, and annotations describe how the node is reached. Bodies
//! are protocol buffers. Only the few fields that flannel needs are decoded, in place: a node of a real cluster has 20 kB.
//! [`json`] reads the same from JSON.

pub mod json;

mod annotations;
mod list;
mod node;
mod watch;
mod wire;

pub use annotations::{Annotations, Key, ParsePrefixError, Prefix, Published};
pub use list::{ListEnd, NodeListReader};
pub use node::{Condition, Node, PodCidrs, decode_node};
pub use watch::{ApiStatus, FrameReader, WatchItem, decode_status};
pub use wire::WireError;

#[cfg(test)]
mod tests;
