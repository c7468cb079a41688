//! Why the kernel did not do what it was asked, and which refusals are no failure.

use flannel_core::dataplane::Op;
use flannel_core::link::LinkName;
use flannel_core::message::{DecodeError, EncodeError, Refusal};
use nix::errno::Errno;
use std::fmt;
use std::io;

/// A request that the kernel refused or that did not get through.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused a change.
    #[error("the kernel refused `{op}`")]
    Refused {
        /// The change.
        op: String,
        /// What the kernel says.
        #[source]
        cause: Refused,
    },
    /// A change is about an interface that does not exist.
    #[error("`{op}` needs the interface {link}, which does not exist")]
    NoLink {
        /// The change.
        op: String,
        /// The interface.
        link: LinkName,
    },
    /// An interface was to be created and another one has its name.
    #[error("`{op}` found an interface with that name and another {difference}, which has to go first")]
    OtherLink {
        /// The change.
        op: String,
        /// In what it differs.
        difference: &'static str,
    },
    /// A change that no message can express.
    #[error("`{op}` cannot be asked of the kernel")]
    Inexpressible {
        /// The change.
        op: String,
        /// What is missing or wrong.
        #[source]
        cause: EncodeError,
    },
    /// No answer came to a change within the time limit, or the connection broke before it.
    #[error("no answer to `{op}`, it may or may not have been carried out")]
    Unanswered {
        /// The change.
        op: String,
    },
    /// The kernel refused a listing.
    #[error("the kernel refused to list {what}")]
    List {
        /// What was to be listed.
        what: String,
        /// The kernel's error.
        #[source]
        cause: Refused,
    },
    /// A listing never was of one moment.
    #[error("{what} changed during each of {attempts} listings")]
    Unsteady {
        /// What was to be listed.
        what: String,
        /// Number of listings.
        attempts: u32,
    },
    /// The kernel sent what cannot be read.
    #[error("could not read what the kernel says about {what}")]
    Unreadable {
        /// The kind of object or change.
        what: String,
        /// What is wrong.
        #[source]
        cause: DecodeError,
    },
    /// The socket failed.
    #[error("could not {action} the netlink socket")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// What went wrong.
        #[source]
        cause: io::Error,
    },
}

impl KernelError {
    /// Returns true if the connection is unusable: an answer may still arrive, or none will.
    pub(super) const fn breaks_connection(&self) -> bool {
        matches!(self, Self::Socket { .. } | Self::Unreadable { .. })
    }

    /// Whether the same request may succeed later without anybody changing what is asked.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { cause, .. } | Self::List { cause, .. } => cause.is_transient(),
            Self::NoLink { .. } | Self::Unanswered { .. } | Self::Unsteady { .. } => true,
            Self::Socket { cause, .. } => cause.raw_os_error().is_none_or(|errno| {
                Refused { errno: Errno::from_raw(errno), text: String::new() }.is_transient()
            }),
            Self::OtherLink { .. } | Self::Inexpressible { .. } | Self::Unreadable { .. } => false,
        }
    }
}

/// The number and the words of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The number.
    pub errno: Errno,
    /// What the kernel says beyond the number (extended ACK); may be empty.
    pub text: String,
}

impl Refused {
    fn is_transient(&self) -> bool {
        // The last row passes when a link comes or comes up.
        matches!(
            self.errno,
            Errno::EINTR | Errno::EAGAIN | Errno::EBUSY | Errno::ENOBUFS | Errno::ENOMEM | Errno::ETIMEDOUT
        ) || matches!(self.errno, Errno::ENODEV | Errno::ENETDOWN | Errno::ENETUNREACH | Errno::EHOSTUNREACH)
    }
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

/// Whether a refusal means that all is already as `op` wants it: there on set, gone on delete. This table is
/// the only place that decides it (numbers seen on Linux 6.1 and 6.18).
///
/// Creating a link is not in it: `EEXIST` may be about another link. Setting a route neither: with
/// `NLM_F_REPLACE` the kernel says `EEXIST` only if the route stands behind another one.
pub(super) const fn is_settled(op: &Op, errno: Errno) -> bool {
    match op {
        Op::CreateLink(..) | Op::SetLink(..) | Op::SetNeighbour(..) | Op::SetRoute(..) => false,
        Op::AddAddress(_) | Op::SetFdb(..) => matches!(errno, Errno::EEXIST),
        Op::DeleteLink(_) => matches!(errno, Errno::ENODEV),
        Op::DeleteAddress(_) => matches!(errno, Errno::EADDRNOTAVAIL | Errno::ENODEV),
        Op::DeleteNeighbour(_) | Op::DeleteFdb(..) => matches!(errno, Errno::ENOENT | Errno::ENODEV),
        Op::DeleteRoute(..) => matches!(errno, Errno::ESRCH | Errno::ENOENT | Errno::ENODEV),
    }
}

#[cfg(test)]
mod tests;
