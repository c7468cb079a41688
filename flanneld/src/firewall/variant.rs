//! The variant of iptables that this host uses, where programs of both are installed and none is the default: in an image.
//!
//! Compatibility: the images of Kubernetes and Go flannel decide in the same way, by a script around iptables
//! (kubernetes-sigs/iptables-wrappers): first by the chains of the kubelet, then by the number of rules.

use flannel_core::family::Family;
use flannel_core::message::nftables::{Message, Query};
use flannel_core::ruleset::iptables::{Variant, leftover};

use super::{FirewallError, Nft, legacy};

/// Chains that the kubelet creates in the table `mangle`, with the iptables of the host.
const KUBELET: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];
const TABLES: [&str; 3] = ["mangle", "nat", "filter"];

/// Returns the variant whose rules the kernel has.
pub(super) async fn of_host(nft: &mut Nft) -> Result<Variant, FirewallError> {
    let (new, old) = (in_nftables(nft).await?, in_legacy()?);
    let is_legacy = old.kubelet && !new.kubelet || old.kubelet == new.kubelet && old.rules > new.rules;
    Ok(if is_legacy { Variant::Legacy } else { Variant::Nftables })
}

/// What the kernel has of one variant.
#[derive(Default)]
struct Found {
    /// A chain of the kubelet exists.
    kubelet: bool,
    rules: usize,
}

async fn in_nftables(nft: &mut Nft) -> Result<Found, FirewallError> {
    let mut found = Found::default();
    for family in Family::ALL {
        for table in TABLES {
            let rules = match nft.query(&Query::Rules(family.into(), table.to_owned())).await {
                Err(error) if error.means_no_nftables() => return Ok(found),
                rules => rules?,
            };
            let of_table = |message: &&Message| matches!(message, Message::Rule(rule) if rule.table == table);
            found.rules += rules.iter().filter(of_table).count();
        }
        for chain in KUBELET {
            let query = Query::Chain(family.into(), TABLES[0].to_owned(), chain.to_owned());
            found.kubelet |= !nft.query(&query).await?.is_empty();
        }
    }
    Ok(found)
}

fn in_legacy() -> Result<Found, FirewallError> {
    let mut found = Found::default();
    for family in Family::ALL {
        for table in TABLES {
            let entries = legacy::entries(family, table);
            let entries = entries.map_err(|source| FirewallError::Legacy { family, table, source })?;
            let entries = entries.unwrap_or_default();
            found.rules += leftover::rules(family, table, &entries);
            found.kubelet |=
                table == TABLES[0] && KUBELET.iter().any(|chain| leftover::declares(family, &entries, chain));
        }
    }
    Ok(found)
}
