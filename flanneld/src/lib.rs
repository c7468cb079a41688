//! The flannel daemon. `unsafe` is in [`sys`] alone.
//!
//! flannelctl uses these parts, so that both programs read and compute the same:
//!
//! | part | purpose |
//! |---|---|
//! | [`store`], [`flag`], [`cli`] | the store with its flags, and the options of a running daemon |
//! | [`kernel`], [`firewall`], [`host`], [`exec`] | observation of this host, and its cleanup |
//! | [`node`] | the desired state of this node, for doctor and connectivity test |
//! | [`state`] | the files of the daemon |
//! | [`http`], [`sys`] | requests to the status socket, and name resolution in static builds |
//! | [`program`] | the daemon itself, under the name flanneld |
//!
//! Everything else is public for [`program`] only.

pub mod agent;
mod announce;
mod board;
mod claim;
pub mod cli;
mod contention;
pub mod daemon;
pub mod effector;
mod error;
pub mod exec;
mod files;
pub mod firewall;
pub mod flag;
mod go_path;
mod healthz;
mod histogram;
pub mod host;
pub mod http;
pub mod kernel;
pub mod logging;
pub mod node;
mod notify;
pub mod program;
mod publish;
mod pulse;
mod reconcile;
mod start;
pub mod state;
mod status;
pub mod store;
pub mod sys;
#[cfg(test)]
mod testing;
