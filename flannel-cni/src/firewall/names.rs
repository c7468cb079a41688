//! Names and comments of rules. They never change, because plugins, including Go's, find their rules by them.

use flannel_core::host_local::Attachment;

use crate::native::names::{hash, of_container, of_interface};

/// The owner of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    pub(crate) network: &'a str,
    pub(crate) container_id: &'a str,
    pub(crate) ifname: &'a str,
}

/// The maximum length of a comment in nftables.
const COMMENT_LEN: usize = 128;
/// The maximum length of a comment in iptables; longer ones are cut to 253 characters and three dots.
const IPTABLES_COMMENT_LEN: usize = 255;

impl<'a> Owner<'a> {
    pub(crate) const fn new(network: &'a str, attachment: &'a Attachment) -> Self {
        Self { network, container_id: attachment.container_id.as_str(), ifname: attachment.ifname.as_str() }
    }

    /// The iptables chain of the masquerade rules.
    pub(crate) fn masquerade_chain(&self) -> String {
        of_container("CNI-", self.network, self.container_id, 24)
    }

    /// The iptables chain of the port mappings. Go's plugin has one per container.
    pub(crate) fn mapping_chain(&self) -> String {
        of_container("CNI-DN-", self.network, self.container_id, 21)
    }

    /// The iptables chain of the port mappings if another interface of the container uses the other one.
    pub(crate) fn second_mapping_chain(&self) -> String {
        of_interface("CNI-DN-", self.network, self.container_id, self.ifname, 21)
    }

    /// The iptables chain that former versions of Go's portmap had for source addresses.
    pub(crate) fn historic_mapping_chain(&self) -> String {
        of_container("CNI-SN-", self.network, self.container_id, 21)
    }

    /// The comment of masquerade rules in iptables.
    pub(crate) fn comment(&self) -> String {
        format!("name: \"{}\" id: \"{}\"", self.network, self.container_id)
    }

    /// The comment of the rules that jump to port mappings in iptables.
    pub(crate) fn mapping_comment(&self) -> String {
        let comment = format!("dnat {}", self.comment());
        if comment.len() > IPTABLES_COMMENT_LEN { format!("{}...", &comment[..253]) } else { comment }
    }

    /// The prefix of the comments of masquerade rules in nftables.
    pub(crate) fn masquerade_key(&self) -> String {
        let instance = hash(&format!("{}:{}", self.ifname, self.container_id), 16);
        format!("{}{instance}", network_key(self.network))
    }

    /// The comment of masquerade rules in nftables.
    pub(crate) fn masquerade_comment(&self) -> String {
        let mut comment = format!(
            "{}, net: {}, if: {}, id: {}",
            self.masquerade_key(),
            self.network,
            self.ifname,
            self.container_id
        )
        .replace('"', "");
        // The terminating zero byte counts.
        comment.truncate(comment.floor_char_boundary(COMMENT_LEN - 1));
        comment
    }
}

/// Returns the prefix of the keys of all attachments of a network.
pub(crate) fn network_key(network: &str) -> String {
    format!("{}-", hash(network, 16))
}

/// Returns network and container ID from a comment in iptables.
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
