//! Kernel state as text that can be compared: one object a line, white space single, sorted.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::Netns;

/// Lines of the main routing table of a family that contain `with`.
pub fn routes(netns: &Netns, v4: bool, with: &str) -> Result<Vec<String>> {
    let family = if v4 { "-4" } else { "-6" };
    lines(&netns.ip(&format!("{family} route show"))?, with)
}

/// The neighbour entries of a device.
pub fn neighbours(netns: &Netns, v4: bool, device: &str) -> Result<Vec<String>> {
    let family = if v4 { "-4" } else { "-6" };
    lines(&netns.ip(&format!("{family} neigh show dev {device} nud permanent"))?, "")
}

/// The forwarding entries of a VXLAN device.
pub fn fdb(netns: &Netns, device: &str) -> Result<Vec<String>> {
    lines(&netns.run(&format!("bridge fdb show dev {device}"))?, "")
}

/// The addresses of a device, without link-local ones: `10.42.1.0/32`.
pub fn addresses(netns: &Netns, device: &str) -> Result<Vec<String>> {
    let shown = netns.ip(&format!("-j addr show dev {device}"))?;
    let shown: Value = serde_json::from_str(&shown).context("ip did not answer JSON")?;
    let mut found: Vec<String> = shown[0]["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|address| address["scope"] == "global")
        .map(|address| format!("{}/{}", address["local"].as_str().unwrap_or("?"), address["prefixlen"]))
        .collect();
    found.sort();
    Ok(found)
}

/// A device with all its details, as `ip -d -j` tells it.
pub fn device(netns: &Netns, name: &str) -> Result<Value> {
    let shown = netns.ip(&format!("-d -j link show dev {name}"))?;
    let mut shown: Value = serde_json::from_str(&shown).context("ip did not answer JSON")?;
    Ok(shown[0].take())
}

/// The hardware address of a device.
pub fn mac(netns: &Netns, name: &str) -> Result<String> {
    let device = device(netns, name)?;
    Ok(device["address"].as_str().context("a device without a hardware address")?.to_owned())
}

/// The tables of nftables, as text.
pub fn ruleset(netns: &Netns) -> Result<String> {
    netns.run("nft -s list ruleset")
}

fn lines(text: &str, with: &str) -> Result<Vec<String>> {
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty() && line.contains(with))
        .collect();
    lines.sort();
    Ok(lines)
}
