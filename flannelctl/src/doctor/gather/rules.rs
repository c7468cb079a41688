//! The packet filters of the host, read with their tools.

use flannel_core::family::Family;
use flanneld::exec::{ExecError, Program};
use std::time::Duration;

use crate::doctor::packet_filter::Filter;

const LIMIT: Duration = Duration::from_secs(20);

/// The filters of a family, or why they are unknown.
type Filters = Vec<(Family, Result<Filter, String>)>;

/// The filters of each family: those of iptables, old and new, and those of nftables itself. Also the texts that they are read
/// from, or why some are unknown.
pub(super) async fn filters(families: &[Family]) -> (Filters, Result<Vec<String>, String>) {
    if families.is_empty() {
        return (Vec::new(), Err("without network config, rules are not read".to_owned()));
    }
    let nftables = run("nft", &["-j", "list", "ruleset"]).await;
    let mut texts: Vec<String> = nftables.iter().flatten().cloned().collect();
    let mut filters = Vec::new();
    for family in families {
        filters.push((*family, filter(*family, &nftables, &mut texts).await));
    }
    let unknown = filters.iter().find_map(|(_, filter)| filter.as_ref().err().cloned());
    (filters, unknown.map_or(Ok(texts), Err))
}

async fn filter(
    family: Family,
    nftables: &Result<Option<String>, String>,
    texts: &mut Vec<String>,
) -> Result<Filter, String> {
    let (stem, names) = match family {
        Family::V4 => ("iptables", "/proc/net/ip_tables_names"),
        Family::V6 => ("ip6tables", "/proc/net/ip6_tables_names"),
    };
    let (mut filter, mut saved) = (Filter::default(), Vec::new());
    // The legacy tool would create tables if there are none.
    let legacy = std::fs::read_to_string(names).is_ok_and(|text| !text.trim().is_empty());
    if legacy {
        saved.extend(run(&format!("{stem}-legacy-save"), &[]).await?);
    }
    saved.extend(run(&format!("{stem}-nft-save"), &[]).await?);
    if saved.is_empty() {
        saved.extend(run(&format!("{stem}-save"), &[]).await?);
    }
    for text in &saved {
        filter.add_iptables(text);
    }
    texts.extend(saved.iter().cloned());
    match nftables {
        Ok(Some(text)) => filter.add_nftables(text, family, !saved.is_empty())?,
        // Without nft, there are hardly any tables besides those of flannel.
        Ok(None) if !saved.is_empty() => {}
        Ok(None) => return Err("neither nft nor iptables is installed".to_owned()),
        Err(error) => return Err(error.clone()),
    }
    Ok(filter)
}

/// Runs a tool and returns its output; `None` if it is not installed.
async fn run(name: &str, arguments: &[&str]) -> Result<Option<String>, String> {
    let program = arguments.iter().fold(Program::new(name, LIMIT), |program, word| program.argument(word));
    match program.run().await {
        Ok(output) => Ok(Some(output)),
        Err(ExecError::NotFound { .. }) => Ok(None),
        Err(error) => Err(flannel_core::error::chain(&error)),
    }
}
