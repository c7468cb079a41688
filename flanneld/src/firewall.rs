//! The seam to the firewall: our rules, read in full and replaced as a whole.
//!
//! [`run`] keeps them right. The mode not in use has nothing of ours: what an earlier run left there, or another program
//! makes, is removed while the rules of the mode in use are in place, so that there is no moment without them.

use flannel_core::family::Family;
use flannel_core::ruleset::iptables::ReconcileError;
use flannel_core::ruleset::{Mode, Ruleset};

use crate::exec::ExecError;

pub mod bridge;
mod iptables;
mod legacy;
mod monitor;
mod netfilter;
mod nft;
mod task;

pub use iptables::{Iptables, Tools};
pub use netfilter::NetfilterError;
pub use nft::Nft;
pub use task::{Desired, FirewallStatus, run};

/// A firewall, real or fake. It owns our rules in both families.
pub trait Firewall: Send + 'static {
    /// Whether our rules are exactly `desired`.
    fn verify(&mut self, desired: &Ruleset) -> impl Future<Output = Result<bool, FirewallError>> + Send;

    /// Makes our rules `desired`, without a moment in which neither the old nor the new ones are in force.
    /// What is right already is left as it is.
    fn replace(&mut self, desired: &Ruleset) -> impl Future<Output = Result<(), FirewallError>> + Send;

    /// A number that changes with every change of which the kernel notifies us; `None` if it does not
    /// notify of all that concerns our rules.
    fn generation(&mut self) -> impl Future<Output = Option<u32>> + Send;
}

/// Why the rules could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The kernel refused, or did not answer.
    #[error(transparent)]
    Netfilter(#[from] NetfilterError),
    /// iptables is not installed.
    #[error(
        "{program} was not found in PATH, but the firewall rules of {family} need it: install the package \
         iptables, or set EnableNFTables to true in the network config"
    )]
    ToolMissing {
        /// The program.
        program: String,
        /// The family.
        family: Family,
    },
    /// Legacy rules are left, and nothing that could remove them.
    #[error(
        "rules of an earlier flannel are in the legacy tables of iptables, and {program}, which could remove them, was \
         not found in PATH: install the package iptables"
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
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A tool of iptables failed.
    #[error("could not {action} the firewall rules of {family}")]
    Tool {
        /// What was attempted.
        action: &'static str,
        /// The family.
        family: Family,
        /// How it failed.
        #[source]
        source: ExecError,
    },
    /// The rules are in a state that iptables cannot put right.
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
    /// Everything was accepted, and yet the rules read back are not those that were set.
    #[error(
        "the {mode} rules read back differ from those just set: another program changes them, or the versions \
         of kernel and tools do not fit together"
    )]
    NotInForce {
        /// The mode.
        mode: Mode,
    },
}

/// The firewall of a mode.
#[derive(Debug)]
pub enum AnyFirewall {
    /// By netlink.
    Nft(Nft),
    /// By the tools of iptables.
    Iptables(Iptables),
}

impl AnyFirewall {
    /// The firewall of `mode`. Nothing is opened or started yet.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        match mode {
            Mode::Nftables => Self::Nft(Nft::default()),
            Mode::Iptables => Self::Iptables(Iptables::new(Tools::default())),
        }
    }
}

impl Firewall for AnyFirewall {
    async fn verify(&mut self, desired: &Ruleset) -> Result<bool, FirewallError> {
        match self {
            Self::Nft(firewall) => firewall.verify(desired).await,
            Self::Iptables(firewall) => firewall.verify(desired).await,
        }
    }

    async fn replace(&mut self, desired: &Ruleset) -> Result<(), FirewallError> {
        match self {
            Self::Nft(firewall) => firewall.replace(desired).await,
            Self::Iptables(firewall) => firewall.replace(desired).await,
        }
    }

    async fn generation(&mut self) -> Option<u32> {
        match self {
            Self::Nft(firewall) => firewall.generation().await,
            Self::Iptables(firewall) => firewall.generation().await,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
