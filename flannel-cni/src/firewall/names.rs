//! Names and comments of rules. They never change: plugins find their rules by them, ours and Go's.

use flannel_core::host_local::Attachment;

use crate::native::names::{hash, of_container};

/// Whose rules they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    pub(crate) network: &'a str,
    pub(crate) container_id: &'a str,
    pub(crate) ifname: &'a str,
}

/// nft takes no longer comments.
const COMMENT_LEN: usize = 128;
/// Longer comments of iptables are cut to 253 characters and three dots.
const IPTABLES_COMMENT_LEN: usize = 255;

impl<'a> Owner<'a> {
    pub(crate) const fn new(network: &'a str, attachment: &'a Attachment) -> Self {
        Self { network, container_id: attachment.container_id.as_str(), ifname: attachment.ifname.as_str() }
    }

    /// The chain of masquerading, in iptables.
    pub(crate) fn masquerade_chain(&self) -> String {
        of_container("CNI-", self.network, self.container_id, 24)
    }

    /// The chain of port mappings, in iptables.
    pub(crate) fn mapping_chain(&self) -> String {
        of_container("CNI-DN-", self.network, self.container_id, 21)
    }

    /// The chain that Go's portmap once had for source addresses.
    pub(crate) fn historic_mapping_chain(&self) -> String {
        of_container("CNI-SN-", self.network, self.container_id, 21)
    }

    /// What rules of masquerading have as their comment, in iptables.
    pub(crate) fn comment(&self) -> String {
        format!("name: \"{}\" id: \"{}\"", self.network, self.container_id)
    }

    /// What the entry rules of port mappings have as their comment, in iptables.
    pub(crate) fn mapping_comment(&self) -> String {
        let comment = format!("dnat {}", self.comment());
        if comment.len() > IPTABLES_COMMENT_LEN { format!("{}...", &comment[..253]) } else { comment }
    }

    /// What the comments of masquerading begin with, in nftables.
    pub(crate) fn masquerade_key(&self) -> String {
        let instance = hash(&format!("{}:{}", self.ifname, self.container_id), 16);
        format!("{}{instance}", network_key(self.network))
    }

    /// What rules of masquerading have as their comment, in nftables.
    pub(crate) fn masquerade_comment(&self) -> String {
        let mut comment = format!(
            "{}, net: {}, if: {}, id: {}",
            self.masquerade_key(),
            self.network,
            self.ifname,
            self.container_id
        )
        .replace('"', "");
        // The zero byte at its end counts.
        comment.truncate(comment.floor_char_boundary(COMMENT_LEN - 1));
        comment
    }
}

/// What the keys of all attachments of a network begin with.
pub(crate) fn network_key(network: &str) -> String {
    format!("{}-", hash(network, 16))
}

/// Network and container id in a comment of iptables.
pub(crate) fn parse_comment(comment: &str) -> Option<(&str, &str)> {
    let rest = comment.strip_prefix("dnat ").unwrap_or(comment).strip_prefix("name: \"")?;
    let (network, rest) = rest.split_once("\" id: \"")?;
    Some((network, rest.strip_suffix('"')?))
}

/// Whether a name has the form of [`Owner::masquerade_chain`].
pub(crate) fn is_masquerade_chain(name: &str) -> bool {
    is_chain(name, "CNI-", 24)
}

/// Whether a name has the form of [`Owner::mapping_chain`].
pub(crate) fn is_mapping_chain(name: &str) -> bool {
    is_chain(name, "CNI-DN-", 21)
}

fn is_chain(name: &str, prefix: &str, digits: usize) -> bool {
    let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.strip_prefix(prefix).is_some_and(|hex| hex.len() == digits && hex.bytes().all(is_hex))
}

#[cfg(test)]
mod tests;
