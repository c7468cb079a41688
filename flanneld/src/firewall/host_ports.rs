//! The iptables chains that the CNI plugin `portmap` shares between pods, and keeps after the last one.

use flannel_core::family::Family;
use flannel_core::message::nftables::{Message, Query};
use flannel_core::ruleset::iptables::leftover::{self, HOST_PORTS, host_ports_removal};

use super::iptables::{LEGACY, Tools, restore, save_text};
use super::{FirewallError, Nft, legacy};

const TABLE: &str = "nat";

/// Removes the chains of both variants, unless a pod still has a host port. Returns whether there were some; with `dry_run` they are kept.
pub async fn remove_unused(dry_run: bool) -> Result<bool, FirewallError> {
    let mut found = false;
    let mut nft = Nft::default();
    for family in Family::ALL {
        found |= in_nftables(&mut nft, family, dry_run).await?;
        found |= in_legacy(family, dry_run).await?;
    }
    Ok(found)
}

async fn in_nftables(nft: &mut Nft, family: Family, dry_run: bool) -> Result<bool, FirewallError> {
    let mut chains = Vec::new();
    for name in HOST_PORTS {
        match nft.query(&Query::Chain(family.into(), TABLE.to_owned(), name.to_owned())).await {
            Ok(answer) if answer.is_empty() => {}
            Ok(_) => chains.push(name),
            Err(error) if error.means_no_nftables() => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    let rules = nft.query(&Query::Rules(family.into(), TABLE.to_owned())).await?;
    let rules = rules.into_iter().filter_map(|message| match message {
        Message::Rule(rule) if rule.table == TABLE => Some(rule),
        _ => None,
    });
    let rules: Vec<_> = rules.collect();
    let is_used = rules.iter().any(|rule| rule.chain == HOST_PORTS[0]);
    if chains.is_empty() || is_used {
        return Ok(false);
    }
    if !dry_run {
        let commands = chains.iter().flat_map(|name| leftover::removal(family, (TABLE, name), &rules));
        nft.commit(&commands.collect::<Vec<_>>()).await?;
    }
    Ok(true)
}

async fn in_legacy(family: Family, dry_run: bool) -> Result<bool, FirewallError> {
    let entries = legacy::entries(family, TABLE);
    let entries = entries.map_err(|source| FirewallError::Legacy { family, table: TABLE, source })?;
    if !entries.is_some_and(|entries| leftover::declares(family, &entries, HOST_PORTS[0])) {
        return Ok(false);
    }
    let tools = Tools { stem: LEGACY, ..Tools::default() };
    let text = save_text(&tools, family).await?;
    let Some(payload) = host_ports_removal(&text) else { return Ok(false) };
    if !dry_run {
        restore(&tools, family, true, &payload).await?;
    }
    Ok(true)
}
