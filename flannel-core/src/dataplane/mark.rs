//! The mark of links that flannel made: an alias that names the networks of the cluster.

use ipnet::IpNet;

const MARK: &str = "flannel";

/// The alias of the tunnel devices of a cluster: it names the networks, so that several clusters on one host
/// know their own.
#[must_use]
pub fn alias(networks: &[IpNet]) -> String {
    networks.iter().fold(MARK.to_owned(), |alias, network| format!("{alias} {network}"))
}

/// Whether an alias was made by [`alias`].
#[must_use]
pub fn is_mark(alias: &str) -> bool {
    alias.split_once(' ').is_some_and(|(mark, _)| mark == MARK)
}

/// Whether an alias was made by [`alias`] with at least one of `networks`.
pub(crate) fn marks_one_of(alias: &str, networks: &[IpNet]) -> bool {
    let mut words = alias.split(' ');
    words.next() == Some(MARK)
        && words.filter_map(|word| word.parse().ok()).any(|network: IpNet| networks.contains(&network))
}
