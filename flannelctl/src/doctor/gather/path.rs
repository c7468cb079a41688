//! Whether the largest packets that the daemon sends reach other nodes without fragmentation.

use futures_util::future::join_all;
use std::net::IpAddr;
use std::time::Duration;

use crate::doctor::facts::PathFacts;
use crate::node::icmp::{Echo, EchoError};
use crate::node::view::View;

/// Maximum number of nodes: paths usually have the same size, and a cluster may have thousands.
const MOST: usize = 8;
const LIMIT: Duration = Duration::from_millis(700);

pub(super) async fn measure(view: Option<&View>) -> Result<Vec<PathFacts>, String> {
    let Some(view) = view else { return Ok(Vec::new()) };
    let measuring = (0..).zip(targets(view)).map(|(number, (public, needed))| one(public, needed, number));
    let mut paths = Vec::new();
    for outcome in join_all(measuring).await {
        match outcome {
            Ok(path) => paths.push(path),
            Err(error @ EchoError::NotPermitted) => return Err(error.to_string()),
            // Unreachable nodes are reported by the connectivity test.
            Err(EchoError::Socket { .. }) => {}
        }
    }
    paths.sort_by_key(|path| path.public);
    Ok(paths)
}

/// Public addresses of other nodes, and the size of the largest packets to them.
fn targets(view: &View) -> Vec<(IpAddr, u32)> {
    let config = view.node.config();
    let external_mtu = view.node.external().mtu;
    if config.backend.mtu(&config.networks(), external_mtu).is_err() {
        return Vec::new();
    }
    // In dual stack too: a packet of either family fills the underlay's MTU.
    let needed = config.backend.underlay_mtu(external_mtu);
    let mut targets = Vec::new();
    for (_, attrs) in view.peers() {
        for family in view.node.families() {
            let Some(public) = attrs.public_address(family) else { continue };
            let is_own = view.node.external().public.get(family) == Some(&public);
            if !is_own && !targets.contains(&(public, needed)) {
                targets.push((public, needed));
            }
        }
    }
    targets.truncate(MOST);
    targets
}

async fn one(public: IpAddr, needed: u32, number: u16) -> Result<PathFacts, EchoError> {
    let mut echo = Echo::open(public, number)?;
    let largest = echo.largest(needed, 2, LIMIT).await;
    Ok(PathFacts { public, needed, largest })
}
