//! What a new config means for a node that runs with an old one.

use super::NetworkConfig;
use crate::family::Family;
use crate::lease::Subnets;

impl NetworkConfig {
    /// What keeps `new` from being taken while pods run, on a node that holds `own`: the subnet must stay valid and
    /// the tunnel the same. Anything else waits for a restart of the daemon, node by node, which the administrator
    /// controls.
    #[must_use]
    pub fn obstacles(&self, new: &Self, own: Option<&Subnets>) -> Vec<String> {
        // A node that was moved already waits for the config that allows its subnet.
        if own.is_none_or(|own| new.allows(own) && !self.allows(own)) {
            return Vec::new();
        }
        let mut obstacles = Vec::new();
        for family in Family::ALL {
            if new.network(family) != self.network(family) {
                let show = |config: &Self| {
                    config.network(family).map_or_else(|| "off".to_owned(), |network| network.to_string())
                };
                obstacles.push(format!("{family} network {} -> {}", show(self), show(new)));
            }
        }
        let is_excluded = |own: &&Subnets| self.allows(own) && !new.allows(own);
        if let Some(own) = own.filter(|own| obstacles.is_empty() && is_excluded(own)) {
            obstacles.push(format!("our subnet {own} is not one that it gives out"));
        }
        obstacles.extend(self.backend.obstacle(&new.backend));
        obstacles
    }
}
