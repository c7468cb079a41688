//! The flannel daemon. [`store`] and [`kernel`] are public for flannelctl, the rest for `main.rs` only.
//! `unsafe` is in [`sys`] alone.

pub mod claim;
pub mod cli;
pub mod daemon;
mod error;
pub mod exec;
pub mod firewall;
pub mod flag;
pub mod healthz;
pub mod host;
pub mod http;
pub mod kernel;
pub mod logging;
pub mod node;
pub mod notify;
mod publish;
mod pulse;
mod reconcile;
pub mod replace_file;
pub mod state;
mod status;
pub mod store;
pub mod sys;
#[cfg(test)]
mod testing;
