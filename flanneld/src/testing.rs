//! Doubles of the outside world: small models that can fail.

pub(crate) mod contract;
pub(crate) mod firewall;
pub(crate) mod kernel;
pub(crate) mod status;
pub(crate) mod store;
