//! Doubles of the outside world: small models that can fail.

pub(crate) mod store;
