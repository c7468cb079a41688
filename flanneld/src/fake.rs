//! Doubles of the outside world: small models that can fail.

pub(crate) mod kernel;
pub(crate) mod store;
