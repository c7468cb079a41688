//! Pure logic that flanneld, the CNI plugin and flannelctl share.
//!
//! Invariants: nothing here reads a clock, the environment, a file or a socket, and nothing is
//! random. Time (`now`) and seeds are arguments; results depend on arguments alone.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod advertisement;
pub mod allocate;
pub mod backend;
pub mod backoff;
pub mod claim;
pub mod cluster;
pub mod cni;
pub mod config;
pub mod dataplane;
pub mod desired;
pub mod error;
pub mod exchange;
pub mod external;
pub mod facts;
pub mod family;
pub mod gateway;
pub mod hint;
pub mod host_local;
pub mod json;
pub mod kubernetes;
pub mod lease;
pub mod link;
pub mod message;
pub mod obstacle;
pub mod owned;
pub mod path;
pub mod plan;
pub mod ruleset;
pub mod seed;
#[cfg(feature = "select")]
pub mod select;
pub mod status;
pub mod store;
pub mod subnet_env;
