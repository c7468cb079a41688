//! Errors of the kernel, and which of them count as success.

use flannel_core::dataplane::Op;
use flannel_core::link::LinkName;
use flannel_core::message::{DecodeError, EncodeError, Refusal};
use nix::errno::Errno;
use std::fmt;
use std::io;

/// A failed request to the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused a change.
    #[error("the kernel refused `{op}`")]
    Refused {
        /// The change.
        op: String,
        /// The kernel's error.
        #[source]
        cause: Refused,
    },
    /// The interface of a change does not exist.
    #[error("`{op}` needs the interface {link}, which does not exist")]
    NoLink {
        /// The change.
        op: String,
        /// The interface.
        link: LinkName,
    },
    /// The interface exists and differs in a parameter that cannot be changed.
    #[error(
        "could not `{op}`: an interface with that name and a different {difference} exists, delete it first"
    )]
    OtherLink {
        /// The change.
        op: String,
        /// The parameter.
        difference: &'static str,
    },
    /// A change that cannot be encoded.
    #[error("could not encode `{op}`")]
    Inexpressible {
        /// The change.
        op: String,
        /// The reason.
        #[source]
        cause: EncodeError,
    },
    /// A change was not answered within the time limit, or the connection broke first.
    #[error("no answer to `{op}`, which may or may not have been applied")]
    Unanswered {
        /// The change.
        op: String,
    },
    /// The kernel refused a dump.
    #[error("the kernel refused to list {what}")]
    List {
        /// The kind of object.
        what: String,
        /// The kernel's error.
        #[source]
        cause: Refused,
    },
    /// The objects changed during every dump.
    #[error("{what} changed during each of {attempts} dumps")]
    Unsteady {
        /// The kind of object.
        what: String,
        /// Number of dumps.
        attempts: u32,
    },
    /// The kernel sent a malformed message.
    #[error("could not decode the kernel's answer about {what}")]
    Unreadable {
        /// The kind of object or change.
        what: String,
        /// The reason.
        #[source]
        cause: DecodeError,
    },
    /// The socket failed.
    #[error("could not {action} the netlink socket")]
    Socket {
        /// The failed action.
        action: &'static str,
        /// The reason.
        #[source]
        cause: io::Error,
    },
}

impl KernelError {
    /// Returns true if the connection is unusable: an answer may still arrive, or none will.
    pub(super) const fn breaks_connection(&self) -> bool {
        matches!(self, Self::Socket { .. } | Self::Unreadable { .. })
    }
}

/// An error from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The error number.
    pub errno: Errno,
    /// The extended ACK; may be empty.
    pub text: String,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.details().unwrap_or_default();
        Self { errno: Errno::from_raw(refusal.errno), text }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno)?;
        if !self.text.is_empty() {
            write!(f, " ({})", self.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// Returns true if an error means that the state is already the desired one: the object exists on set, or does not on
/// delete. This table is the only place that decides it (numbers observed on Linux 6.1 and 6.18).
///
/// The plugin has no such table: whether an existing object is the right one depends on the step of the ADD.
///
/// Creating a link or adding a nexthop object is not in the table: `EEXIST` may be about another one. Setting a route is not, either: with
/// `NLM_F_REPLACE` the kernel returns `EEXIST` only if the same route is behind another one.
pub(super) const fn is_settled(op: &Op, errno: Errno) -> bool {
    match op {
        Op::CreateLink(..)
        | Op::SetLink(..)
        | Op::SetNeighbour(..)
        | Op::AddNexthop(..)
        | Op::ReplaceNexthop(..)
        | Op::SetRoute(..) => false,
        Op::AddAddress(_) | Op::SetFdb(..) => matches!(errno, Errno::EEXIST),
        Op::DeleteLink(_) => matches!(errno, Errno::ENODEV),
        Op::DeleteAddress(_) => matches!(errno, Errno::EADDRNOTAVAIL | Errno::ENODEV),
        Op::DeleteNexthop(_) => matches!(errno, Errno::ENOENT),
        Op::DeleteNeighbour(_) | Op::DeleteFdb(..) => matches!(errno, Errno::ENOENT | Errno::ENODEV),
        Op::DeleteRoute(..) => matches!(errno, Errno::ESRCH | Errno::ENOENT | Errno::ENODEV),
    }
}

#[cfg(test)]
mod tests;
