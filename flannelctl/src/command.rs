//! The commands: each reads, calls core and hands the result over to output. No command uses another.

pub(crate) mod about;
pub(crate) mod config;
pub(crate) mod connectivity;
pub(crate) mod diff;
pub(crate) mod docker;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod installer;
pub(crate) mod ipam;
pub(crate) mod lease;
pub(crate) mod node;
pub(crate) mod peer;
pub(crate) mod route;
pub(crate) mod status;
pub(crate) mod subnet;
pub(crate) mod support;
