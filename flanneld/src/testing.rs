//! Doubles of the outside world: small models that can fail.

pub(crate) mod agent;
pub(crate) mod board;
pub(crate) mod contract;
pub(crate) mod firewall;
pub(crate) mod kernel;
pub(crate) mod store;
