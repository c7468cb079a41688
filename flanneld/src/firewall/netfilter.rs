//! Requests to nf_tables over netlink, and their errors.

use flannel_core::exchange::{Rejected, Transaction};
use flannel_core::message::Refusal;
use flannel_core::message::nftables::{Command, Message, Query};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::kernel::KernelError;
use crate::kernel::conn::Connection;

/// Receive buffer for the answers to a transaction in which every command is refused, many times over.
const CAPACITY: usize = 1 << 20;

/// An open connection. After an error other than [`NetfilterError::Refused`] it must be replaced, because an answer
/// may still arrive.
pub(super) struct Netfilter(Connection);

/// A failed request to nf_tables.
#[derive(Debug, thiserror::Error)]
pub enum NetfilterError {
    /// There is no netlink for netfilter, or no usable answer.
    #[error("could not talk to nf_tables")]
    Kernel(#[from] KernelError),
    /// The kernel refused the request.
    #[error("the kernel refused `{request}`: {}{}", describe(*errno, text), advice(*errno))]
    Refused {
        /// The request.
        request: String,
        /// The place in the transaction of the command that failed.
        command: Option<usize>,
        /// The error number.
        errno: Errno,
        /// The kernel's extended ACK; may be empty.
        text: String,
    },
}

fn describe(errno: Errno, text: &str) -> String {
    if text.is_empty() { errno.desc().to_owned() } else { format!("{} ({text})", errno.desc()) }
}

const fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => "; give flanneld the capability CAP_NET_ADMIN",
        Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EINVAL | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
            "; the kernel may lack nf_tables, nft_chain_nat or nft_masq: run `modprobe -a nf_tables nft_chain_nat \
             nft_masq`, or set EnableNFTables to false in the network config"
        }
        _ => "",
    }
}

impl NetfilterError {
    fn refused(request: String, command: Option<usize>, refusal: &Refusal) -> Self {
        let text = refusal.details().unwrap_or_default();
        Self::Refused { request, command, errno: Errno::from_raw(refusal.errno), text }
    }

    /// Returns true if the kernel has no nf_tables at all, so that there can be no rules in it.
    pub(super) fn means_no_nftables(&self) -> bool {
        match self {
            Self::Kernel(KernelError::Socket { cause, .. }) => {
                let errno = cause.raw_os_error().map(Errno::from_raw);
                matches!(errno, Some(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT))
            }
            // nfnetlink_rcv_msg answers EINVAL for a subsystem that does not exist.
            Self::Refused { command: None, errno, .. } => {
                matches!(errno, Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)
            }
            _ => false,
        }
    }
}

impl Netfilter {
    pub(super) fn open() -> Result<Self, NetfilterError> {
        Ok(Self(Connection::open_protocol(NETLINK_NETFILTER, &[], CAPACITY)?))
    }

    /// Returns the answer to a query: all of a dump, or at most one message. An object that does not exist is no error.
    pub(super) async fn query(&mut self, query: &Query) -> Result<Vec<Message>, NetfilterError> {
        match self.0.fetch(&query.get()).await? {
            Ok(messages) => Ok(messages),
            Err(refusal) if refusal.means_absent() => Ok(Vec::new()),
            Err(refusal) => Err(NetfilterError::refused(query.to_string(), None, &refusal)),
        }
    }

    /// Applies all commands or none.
    pub(super) async fn commit(&mut self, commands: &[Command]) -> Result<(), NetfilterError> {
        let result = self.0.run(&mut Transaction::new(commands)).await?;
        result.map_err(|Rejected { command, request, refusal }| {
            NetfilterError::refused(request, command, &refusal)
        })
    }
}
