//! The command line on a directory of leases.
#![forbid(unsafe_code)]

mod config;
mod docker;
mod frame;
mod ipam;
mod lease;
mod status;
mod subnet;
mod support;
mod support_bundle;
mod terminal;
