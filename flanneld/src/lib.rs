//! The flannel daemon. [`store`] and [`kernel`] are public for flannelctl, the rest for `main.rs` only.
#![forbid(unsafe_code)]

pub mod claim;
pub mod cli;
pub mod error;
pub mod exec;
#[cfg(test)]
mod fake;
pub mod firewall;
pub mod healthz;
pub mod host;
pub mod kernel;
pub mod logging;
pub mod notify;
pub mod replace_file;
pub mod state;
pub mod store;
