//! What the commands do: read, call core, hand over to output.

pub(crate) mod config;
pub(crate) mod lease;
