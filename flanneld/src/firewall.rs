//! The interface to the firewall: flannel's rules, read and replaced as a whole.
//!
//! [`run`] keeps them in sync. Stale rules of the unused mode, from an earlier run or another program, are removed while the rules
//! of the current mode are in place, so that rules are always in effect.

use async_trait::async_trait;
use flannel_core::family::Family;
use flannel_core::ruleset::iptables::ReconcileError;
use flannel_core::ruleset::{Mode, Ruleset};

use crate::exec::ExecError;

pub mod bridge;
pub mod host_ports;
mod iptables;
mod legacy;
mod monitor;
mod netfilter;
mod nft;
mod task;
mod variant;

pub use iptables::{Iptables, Tools};
pub use netfilter::NetfilterError;
pub use nft::Nft;
pub use task::{Desired, FirewallStatus, run};

/// A firewall, or a test double. It manages flannel's rules in both families.
#[async_trait]
pub trait Firewall: Send + 'static {
    /// Returns whether flannel's rules are exactly `desired`.
    async fn verify(&mut self, desired: &Ruleset) -> Result<bool, FirewallError>;

    /// Replaces flannel's rules by `desired`. At every moment either the old or the new rules are in effect. Rules that are up to
    /// date are not written.
    async fn replace(&mut self, desired: &Ruleset) -> Result<(), FirewallError>;

    /// Returns a number that changes with every change that the kernel notifies about, or `None` if it does not notify about all
    /// changes of flannel's rules.
    async fn generation(&mut self) -> Option<u32>;
}

/// An error while reading or setting rules.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The kernel rejected the request, or did not respond.
    #[error(transparent)]
    Netfilter(#[from] NetfilterError),
    /// iptables is not installed.
    #[error(
        "could not set the firewall rules of {family}: {program} was not found in PATH. Install the package iptables, or set \
         EnableNFTables to true in the network config."
    )]
    ToolMissing {
        /// The program.
        program: String,
        /// The family.
        family: Family,
    },
    /// The tool to remove stale legacy rules is missing.
    #[error(
        "could not remove stale rules from the legacy tables of iptables: {program} was not found in PATH. Install the \
         package iptables."
    )]
    LegacyToolMissing {
        /// The program.
        program: String,
    },
    /// The legacy tables of iptables could not be read.
    #[error("could not read table {table} of the legacy iptables of {family}")]
    Legacy {
        /// The family.
        family: Family,
        /// The table.
        table: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A tool of iptables failed.
    #[error("could not {action} the firewall rules of {family}")]
    Tool {
        /// The action, as a verb.
        action: &'static str,
        /// The family.
        family: Family,
        /// The cause.
        #[source]
        source: ExecError,
    },
    /// The rules are in a state that iptables cannot repair.
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
    /// The rules read back differ from those set, although all were accepted.
    #[error(
        "the {mode} rules read back differ from those set: another program changes them, or the versions of kernel and \
         tools are incompatible"
    )]
    NotInForce {
        /// The mode.
        mode: Mode,
    },
}

/// Returns the firewall of `mode`, without opening or starting anything.
#[must_use]
pub fn of(mode: Mode) -> Box<dyn Firewall> {
    match mode {
        Mode::Nftables => Box::new(Nft::default()),
        Mode::Iptables => Box::new(Iptables::new(Tools::default())),
    }
}

#[cfg(test)]
pub(crate) mod tests;
