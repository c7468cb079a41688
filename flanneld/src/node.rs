//! This node: the config in force, its external interface, its VTEP addresses. They determine what it publishes and the desired
//! state of its kernel, for the daemon and for diagnosis.

use flannel_core::backend::{BackendError, Endpoint, EndpointSources};
use flannel_core::config::{NetworkConfig, ParseConfigError};
use flannel_core::dataplane::Dataplane;
use flannel_core::desired::{self, Desired, NextHops, stranded};
use flannel_core::external::ExternalInterface;
use flannel_core::facts::HostFacts;
use flannel_core::family::{DualStack, Family};
use flannel_core::lease::{LeaseAttrs, Subnets};
use flannel_core::link::{LinkName, Mac};
use flannel_core::ruleset::{Inputs, Mode, Ruleset};
use flannel_core::select::{self, Criteria, SelectError};
use flannel_core::store::{Ownership, Prescribed};
use flannel_core::subnet_env::{MissingSubnetError, SubnetEnv};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tracing::warn;

use crate::cli::NodeOptions;
use crate::firewall;
use crate::kernel::Observation;

/// An unusable config or host.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The config does not parse.
    #[error("the network config cannot be used")]
    Config(#[from] ParseConfigError),
    /// No family is enabled.
    #[error("the network config disables both families: set EnableIPv4 or EnableIPv6 to true in it")]
    NoFamily,
    /// This version does not support the backend or its options.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// No method finds an external interface.
    #[error("no external interface")]
    Interface(#[from] SelectError),
    /// This host does not support the config.
    #[error("the network config cannot work on this host")]
    Host(#[source] BackendError),
    /// The lease lacks an enabled family.
    #[error(transparent)]
    Subnet(#[from] MissingSubnetError),
}

/// The outcome of [`Node::offer`].
#[derive(Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is in force from now on.
    Taken,
    /// It is the one in force.
    Same,
    /// The present one is kept, for this reason.
    Refused(String),
}

/// This node.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    /// The public addresses that the store prescribes.
    prescribed: Prescribed,
    config: NetworkConfig,
    external: ExternalInterface,
    endpoints: DualStack<Endpoint>,
    /// Hardware address of the external interface.
    hardware: Option<Mac>,
    /// Networks of former configs, whose objects are still owned and so removed.
    former: BTreeSet<IpNet>,
}

impl Node {
    /// Starts with a config on a host.
    pub fn new(
        options: NodeOptions,
        prescribed: Prescribed,
        config: &str,
        facts: &HostFacts,
    ) -> Result<Self, NodeError> {
        let config = parse(config, options.ownership)?;
        supported(&config)?;
        let criteria = criteria(&options, prescribed);
        let selection = select::select(&criteria, &families(&config), facts)?;
        for attempt in &selection.failed {
            warn!(method = %attempt.method, error = %attempt.error, "no external interface found by this method, trying the next");
        }
        let external = selection.external;
        config.backend.check(&config.networks(), &external, facts).map_err(NodeError::Host)?;
        if let Some(limitation) = config.backend.limitation(&config.networks()) {
            warn!(reason = %limitation, "backend does not carry a family of the network config");
        }
        let hardware = hardware_of(&external, facts);
        let (endpoints, former) = (DualStack::default(), BTreeSet::new());
        Ok(Self { options, prescribed, config, external, endpoints, hardware, former })
    }

    /// The config in force.
    pub const fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// The external interface.
    pub const fn external(&self) -> &ExternalInterface {
        &self.external
    }

    /// The hardware address of the external interface.
    pub const fn hardware(&self) -> Option<Mac> {
        self.hardware
    }

    /// Adds networks of the last run, which may have had another config: its objects in the kernel are removed.
    pub fn inherit(&mut self, networks: impl Iterator<Item = IpNet>) {
        // A network of length 0 contains everything; no config has one.
        self.former.extend(networks.filter(|network| network.prefix_len() > 0));
    }

    /// Returns the enabled families.
    pub fn families(&self) -> Vec<Family> {
        families(&self.config)
    }

    /// Applies a config if this is possible while pods run: the subnet must remain valid and the tunnel unchanged. Anything else
    /// waits for a restart, node by node, under control of the administrator.
    pub fn offer(&mut self, text: &str, own: Option<&Subnets>) -> Offer {
        let config = match parse(text, self.options.ownership) {
            Ok(config) => config,
            Err(error) => return Offer::Refused(crate::error::chain(&error)),
        };
        if config == self.config {
            return Offer::Same;
        }
        if let Err(error) = supported(&config) {
            return Offer::Refused(error.to_string());
        }
        let obstacles = self.config.obstacles(&config, own);
        if !obstacles.is_empty() {
            return Offer::Refused(format!(
                "the network config in the store cannot be taken while pods run ({}); restart flanneld to take it",
                obstacles.join(", ")
            ));
        }
        self.former.extend(Family::ALL.into_iter().filter_map(|family| self.config.network(family)));
        self.config = config;
        Offer::Taken
    }

    /// Takes the public addresses that the store prescribes; returns whether they changed. [`Node::look`] applies them.
    pub fn prescribe(&mut self, prescribed: Prescribed) -> bool {
        std::mem::replace(&mut self.prescribed, prescribed) != prescribed
    }

    /// Chooses the external interface again; returns whether it changed. On an error the present one is kept.
    pub fn look(&mut self, facts: &HostFacts) -> Result<bool, SelectError> {
        let criteria = criteria(&self.options, self.prescribed);
        let external = select::select(&criteria, &self.families(), facts)?.external;
        let changed = external != self.external;
        self.hardware = hardware_of(&external, facts);
        self.external = external;
        Ok(changed)
    }

    /// Determines the addresses of the tunnel devices, once. Returns new ones, which must be stored.
    pub fn settle_endpoints(
        &mut self,
        observed: &Dataplane,
        remembered: &BTreeMap<LinkName, Mac>,
        published: Option<&LeaseAttrs>,
        mut random: impl FnMut() -> [u8; 6],
    ) -> Vec<(LinkName, Mac)> {
        let mut settled = Vec::new();
        for family in families(&self.config) {
            let sources = EndpointSources { observed, remembered, published, random: random() };
            if self.endpoints.get(family).is_none()
                && let Some((device, endpoint)) = self.config.backend.endpoint(family, &sources)
            {
                *self.endpoints.slot(family) = Some(endpoint);
                settled.push((device, endpoint.mac));
            }
        }
        settled
    }

    /// Returns the tunnel devices and their addresses of a record of this node.
    pub fn published_macs(&self, attrs: &LeaseAttrs) -> Vec<(LinkName, Mac)> {
        let backend = &self.config.backend;
        families(&self.config)
            .into_iter()
            .filter_map(|family| backend.published_endpoint(family, attrs))
            .collect()
    }

    /// Returns the attributes to publish.
    pub fn attrs(&self) -> Result<LeaseAttrs, BackendError> {
        self.config.backend.attrs(&self.config.networks(), &self.external, &self.endpoints)
    }

    /// Decides where the next hops of routes to so many peers are.
    pub fn next_hops(&self, peers: usize, observed: &Observation) -> NextHops {
        if observed.has_nexthops {
            self.options.nexthops.choose(peers, &observed.dataplane, &self.networks())
        } else {
            NextHops::default()
        }
    }

    /// Whether so many peers need another form of routes than the present one, on a kernel that supports both.
    pub fn changes_next_hops(&self, peers: usize, present: &NextHops) -> bool {
        let in_use = *present != NextHops::InRoutes;
        self.options.nexthops.is_reached(peers, in_use) != in_use
    }

    /// Returns the desired state of the kernel with the lease `own`. `pods` returns the addresses of the pods of this host.
    pub fn desired(
        &self,
        own: &Subnets,
        facts: &HostFacts,
        next_hops: NextHops,
        pods: impl FnOnce() -> Vec<IpAddr>,
    ) -> Result<Desired, BackendError> {
        let node = desired::Node {
            subnets: *own,
            external: self.external.clone(),
            endpoints: self.endpoints,
            blackhole: self.options.blackhole_route,
            stranded: stranded::find(facts, own, &self.networks(), &self.tunnels(), pods),
            next_hops,
        };
        Desired::new(&self.config, &node, facts)
    }

    /// Returns the networks of owned objects.
    pub fn networks(&self) -> Vec<IpNet> {
        let current = Family::ALL.into_iter().filter_map(|family| self.config.network(family));
        current.chain(self.former.iter().copied()).collect()
    }

    /// Returns the devices whose neighbours and FDB entries may be owned.
    pub fn tunnels(&self) -> BTreeSet<LinkName> {
        self.config.backend.devices().collect()
    }

    /// Returns the firewall rules with the lease `own`.
    pub fn firewall(&self, own: &Subnets) -> firewall::Desired {
        let mode = if self.config.enable_nftables { Mode::Nftables } else { Mode::Iptables };
        let ruleset = Ruleset::new(&Inputs {
            cluster: self.config.networks(),
            subnet: *own,
            ip_masq: self.options.ip_masq,
            fully_random: self.options.fully_random,
            forward_rules: self.options.forward_rules,
        });
        firewall::Desired { mode, ruleset }
    }

    /// Returns the input of the CNI plugin with the lease `own`.
    pub fn subnet_env(&self, own: &Subnets) -> Result<SubnetEnv, NodeError> {
        Ok(SubnetEnv::new(&self.config, own, self.pod_mtu()?, self.options.ip_masq)?)
    }

    /// Returns the MTU of pods.
    pub fn pod_mtu(&self) -> Result<u32, BackendError> {
        self.config.backend.mtu(&self.config.networks(), self.external.mtu)
    }
}

/// Parses a config, and logs settings that a store with assigned subnets does not need and that are invalid.
fn parse(text: &str, ownership: Ownership) -> Result<NetworkConfig, ParseConfigError> {
    let config = NetworkConfig::parse_for(text, ownership)?;
    if let Err(error) = NetworkConfig::parse(text) {
        warn!(reason = %error, "setting of the network config is ignored, the store assigns the subnets");
    }
    Ok(config)
}

/// Prescribed addresses take the place of those of the flags.
fn criteria(options: &NodeOptions, prescribed: Prescribed) -> Criteria {
    let flags = options.interface.clone();
    Criteria {
        public_ip: prescribed.public_ip.or(flags.public_ip),
        public_ipv6: prescribed.public_ipv6.or(flags.public_ipv6),
        ..flags
    }
}

fn hardware_of(external: &ExternalInterface, facts: &HostFacts) -> Option<Mac> {
    facts.links.iter().find(|link| link.name == external.name)?.mac
}

fn families(config: &NetworkConfig) -> Vec<Family> {
    Family::ALL.into_iter().filter(|family| config.has(*family)).collect()
}

fn supported(config: &NetworkConfig) -> Result<(), NodeError> {
    if families(config).is_empty() {
        return Err(NodeError::NoFamily);
    }
    Ok(config.backend.supported()?)
}
