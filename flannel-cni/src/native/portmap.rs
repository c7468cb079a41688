//! portmap: maps ports of the host to a container. It is chained after the plugin that creates the interface.
//!
//! Chains, tables and comments are those of Go's plugin. Improvements: a port that another container uses is an error that names
//! both; an ADD replaces stale rules of an earlier ADD, and one that fails leaves nothing behind; DEL removes rules from both
//! backends, even without mappings in the config; protocols in any case; GC.
//!
//! Connection tracking keeps the destination of UDP packets while they continue to arrive, so connections to a mapped port are
//! deleted when the mapping is added and when it is removed.

use flannel_core::family::Family;
use flannel_core::host_local::Attachment;
use flannel_core::json::Value;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::environment::Environment;
use crate::error::{CniError, Code, Context, chain, note};
use crate::firewall::iptables::Tool;
use crate::firewall::names::{self, Owner};
use crate::firewall::nat::{Nat, NatRule};
use crate::firewall::netfilter::Netfilter;
use crate::firewall::{self, Backend, Selector};
use crate::kernel::Kernel;
use crate::netconf;
use crate::netns::{HostLock, Netns};
use crate::plugin::Plugin;
use crate::request::{Request, valid_attachments};
use crate::result::CniResult;
use crate::siblings::Siblings;
use crate::sysctl;
use crate::version::Version;

mod config;
mod iptables;
mod known;
mod nft;

use config::{Config, Mapping};

/// The portmap plugin.
pub(crate) const PLUGIN: Plugin = Plugin {
    name: "portmap",
    oldest: Version::V0_1_0,
    add,
    del: |request| {
        let _netns = hold(&request.environment)?;
        // The rules contain the ports, so the mappings of the config are not needed.
        remove(request)
    },
    check,
    gc,
    status,
};

/// The mappings of one interface of a container.
struct Mappings<'a> {
    config: &'a Config,
    request: &'a Request,
    owner: Owner<'a>,
    siblings: Siblings<'a>,
    targets: Vec<IpNet>,
}

/// The mappings of one interface in one family.
struct Rules<'a> {
    config: &'a Config,
    owner: Owner<'a>,
    siblings: &'a Siblings<'a>,
    /// The container's address with the prefix length of its subnet.
    target: IpNet,
}

impl Rules<'_> {
    const fn family(&self) -> Family {
        Family::of_net(self.target)
    }

    /// Whether a chain belongs to another interface of the container.
    fn is_of_sibling(&self, nat: &Nat, chain: &str) -> bool {
        nat.of(chain).any(|rule| rule.translated.is_some_and(|ip| self.siblings.have(ip)))
    }

    /// Whether a chain exists with rules of an earlier ADD for this interface.
    fn is_own(&self, nat: &Nat, chain: &str) -> bool {
        nat.chains.contains(chain)
            && (chain == self.owner.second_mapping_chain()
                || chain == self.owner.mapping_chain() && !self.is_of_sibling(nat, chain))
    }
}

fn add(request: &Request) -> Result<Value, CniError> {
    let (config, result) = parse(request).context(|| "failed to parse config".to_owned())?;
    let result = result.ok_or_else(Request::not_chained)?;
    if !config.mappings.is_empty() {
        let _netns = hold(&request.environment)?;
        // No other process checks for free ports until these are mapped.
        let _lock = HostLock::take()?;
        Mappings::new(request, &config, &result).add().inspect_err(|_| {
            if let Err(error) = remove(request) {
                note!("could not undo the port mappings: {}", error.msg);
            }
        })?;
    }
    // The result of the previous plugin, unchanged.
    let mut result = request.config.object("prevResult").cloned().unwrap_or_default();
    if result.get("cniVersion").and_then(Value::as_str).unwrap_or_default().is_empty() {
        result.insert("cniVersion", request.version.as_str());
    }
    Ok(Value::Object(result))
}

/// Returns the config and the result of the previous plugin, if there is one.
fn parse(request: &Request) -> Result<(Config, Option<CniResult>), CniError> {
    let config = Config::parse(&request.config)?;
    netconf::check_base(&request.config)?;
    let result = request.prev_result().context(|| "could not parse prevResult".to_owned())?;
    Ok((config, result))
}

/// Waits for programs that an earlier operation on this container left running, and makes later operations wait for this one.
/// Without a namespace there are none.
fn hold(environment: &Environment) -> Result<Option<Netns>, CniError> {
    let Ok(netns) = Netns::open(&environment.netns) else { return Ok(None) };
    netns.hold()?;
    Ok(Some(netns))
}

/// Removes the rules of a container from both backends.
fn remove(request: &Request) -> Result<(), CniError> {
    let owner = Owner::new(&request.network, &request.environment.attachment);
    let siblings = Siblings::of(&request.environment);
    let selector = Selector {
        chains: vec![
            (owner.mapping_chain(), iptables::ENTRY),
            (owner.second_mapping_chain(), iptables::ENTRY),
            (owner.historic_mapping_chain(), iptables::HISTORIC_ENTRY),
        ],
        tables: nft::TABLES,
        is_owned: &|comment| nft::Comment::parse(comment).is_of(&owner),
        is_kept: &|ip| siblings.have(ip),
        legacy: true,
    };
    let ports = selector.remove()?.finish()?;
    for family in Family::ALL {
        let ports = ports.iter().filter(|(of, _)| *of == family).map(|(_, port)| (*port, None));
        delete_connections(family, &ports.collect());
    }
    Ok(())
}

/// Deletes UDP connections. Without connection tracking there are none.
fn delete_connections(family: Family, ports: &BTreeSet<(u16, Option<IpAddr>)>) {
    if ports.is_empty() {
        return;
    }
    if let Err(error) = Netfilter::open().and_then(|mut netfilter| netfilter.forget_udp(family, ports)) {
        note!("could not delete UDP connections to mapped ports: {}", chain(&error));
    }
}

impl<'a> Mappings<'a> {
    fn new(request: &'a Request, config: &'a Config, result: &CniResult) -> Self {
        let owner = Owner::new(request.network.as_str(), &request.environment.attachment);
        let environment = &request.environment;
        let (siblings, targets) = (Siblings::of(environment), config::targets(result, environment));
        Self { config, request, owner, siblings, targets }
    }

    fn add(&self) -> Result<(), CniError> {
        let netfilter = firewall::open_netfilter()?;
        match self.config.backend() {
            Backend::Iptables => self.add_iptables(netfilter)?,
            Backend::Nftables => self.add_nftables()?,
        }
        for target in &self.targets {
            let family = Family::of_net(*target);
            let udp = self.config.of(family).filter(|mapping| mapping.protocol_number() == firewall::UDP);
            delete_connections(family, &udp.map(|mapping| (mapping.host_port, mapping.address())).collect());
        }
        Ok(())
    }

    /// Runs one process per family, both in parallel.
    fn add_iptables(&self, mut netfilter: Option<Netfilter>) -> Result<(), CniError> {
        let (mut started, mut pending) = (Vec::new(), Vec::new());
        for rules in self.rules() {
            let tool = Tool::require(rules.family())?;
            // It initializes itself while the present rules are read.
            let running = tool.start()?;
            started.push((rules, tool, running));
        }
        for (rules, tool, running) in started {
            let mut nat = rules.read(netfilter.as_mut(), &tool)?;
            self.check_free(&rules, netfilter.as_mut(), &mut nat)?;
            let chains = [self.owner.mapping_chain(), self.owner.second_mapping_chain()];
            if chains.iter().any(|chain| rules.is_own(&nat, chain)) {
                remove(self.request)?;
            }
            pending.push(rules.start(&nat, tool, running));
        }
        self.allow_from_localhost()?;
        for pending in pending {
            pending.finish()?;
        }
        Ok(())
    }

    /// Sets the rules of both families in one transaction.
    fn add_nftables(&self) -> Result<(), CniError> {
        let mut netfilter = Netfilter::open()?;
        firewall::nft::commit(&mut netfilter, |netfilter| -> Result<_, CniError> {
            let mut commands = Vec::new();
            for rules in self.rules() {
                let mut nat = Nat::read(netfilter, rules.family(), &[iptables::ENTRY])?;
                self.check_free(&rules, Some(netfilter), &mut nat)?;
                commands.extend(rules.commands(netfilter)?);
            }
            Ok(commands)
        })?;
        for rules in self.rules() {
            rules.set_conditioned()?;
        }
        self.allow_from_localhost()
    }

    fn rules(&self) -> impl Iterator<Item = Rules<'_>> {
        let (config, owner, siblings) = (self.config, self.owner, &self.siblings);
        self.targets.iter().map(move |target| Rules { config, owner, siblings, target: *target })
    }

    /// Allows packets from 127.0.0.1 to leave the host through the container's link: their source address is translated before.
    fn allow_from_localhost(&self) -> Result<(), CniError> {
        let target = self.targets.iter().find(|target| Family::of_net(**target) == Family::V4);
        let Some(target) = target.filter(|_| self.config.snat).map(IpNet::addr) else { return Ok(()) };
        let mut host = Kernel::open()?;
        let link = host.route_to(target)?.map(|link| host.link_name(link)).transpose()?.flatten();
        let Some(name) = link else {
            // Other hosts may reach a container on macvlan or ipvlan through a router.
            note!("127.0.0.1 does not reach the mapped ports, because this host has no route to {target}");
            return Ok(());
        };
        let failed = || "unable to enable route_localnet".to_owned();
        sysctl::net().set(&format!("ipv4/conf/{name}/route_localnet"), "1").context(failed)
    }

    /// Fails if another container uses one of the ports, in either backend. `nat` contains the jumps to mappings.
    fn check_free(
        &self,
        rules: &Rules<'_>,
        netfilter: Option<&mut Netfilter>,
        nat: &mut Nat,
    ) -> Result<(), CniError> {
        let family = rules.family();
        if let Some(netfilter) = netfilter {
            for chain in [nft::PORTS, nft::ADDRESS_PORTS] {
                for rule in nft::table(family).rules(netfilter, chain)? {
                    let Some(comment) = rule.comment.as_deref().map(nft::Comment::parse) else { continue };
                    if !rules.is_own_rule(&rule) {
                        let rule = NatRule::decode(family, &rule);
                        self.check_rule(&rule, family, || format!("container {}", comment.container_id))?;
                    }
                }
            }
            self.read_others(netfilter, family, nat)?;
        }
        for entry in nat.of(iptables::ENTRY) {
            let Some(chain) = entry.target.as_ref().filter(|chain| !rules.is_own(nat, chain)) else {
                continue;
            };
            for rule in nat.of(chain).filter(|rule| rule.jumps_to("DNAT")) {
                self.check_rule(rule, family, || owner_of(entry))?;
            }
        }
        Ok(())
    }

    /// Fails if a rule of another container maps one of the ports.
    fn check_rule(&self, rule: &NatRule, family: Family, other: impl Fn() -> String) -> Result<(), CniError> {
        let Some(protocol) = rule.protocol else { return Ok(()) };
        let address = rule.destination_address();
        let collides =
            |one: &&Mapping| rule.ports.iter().any(|port| one.collides(family, protocol, *port, address));
        let Some(mapping) = self.config.mappings.iter().find(collides) else { return Ok(()) };
        let Owner { network, container_id, .. } = self.owner;
        Err(CniError::internal(format!(
            "{mapping} of container {container_id} in network {network} is already used by {}: delete that one \
             first, or map another port",
            other()
        )))
    }

    /// Adds the chains of other containers that use one of the ports, if they were not read yet: there may be too many to read all.
    fn read_others(&self, netfilter: &mut Netfilter, family: Family, nat: &mut Nat) -> Result<(), CniError> {
        let wanted = |rule: &&NatRule| {
            self.config.mappings.iter().any(|mapping| {
                rule.protocol.is_none_or(|protocol| protocol == mapping.protocol_number())
                    && (rule.ports.is_empty() || rule.ports.contains(&mapping.host_port))
            })
        };
        let targets = nat.of(iptables::ENTRY).filter(wanted).filter_map(|rule| rule.target.as_deref());
        let others: BTreeSet<&str> = targets.filter(|chain| !nat.chains.contains(*chain)).collect();
        let more = Nat::read(netfilter, family, &others.into_iter().collect::<Vec<_>>())?;
        nat.chains.extend(more.chains);
        nat.rules.extend(more.rules);
        Ok(())
    }
}

/// Returns the owner of a rule that jumps to mappings.
fn owner_of(entry: &NatRule) -> String {
    match entry.comment.as_deref().and_then(names::parse_comment) {
        Some((network, id)) => format!("container {id} in network {network}"),
        None => format!("the chain {}", entry.target.as_deref().unwrap_or_default()),
    }
}

fn check(request: &Request) -> Result<(), CniError> {
    let (config, result) = parse(request)?;
    let result = result.ok_or_else(Request::not_chained)?;
    if config.mappings.is_empty() {
        return Ok(());
    }
    let mappings = Mappings::new(request, &config, &result);
    if config.backend() == Backend::Iptables {
        let mut netfilter = firewall::open_netfilter()?;
        let mut running = Vec::new();
        for rules in mappings.rules() {
            let family = rules.family();
            let tool = Tool::require(family)?;
            let nat = rules.read(netfilter.as_mut(), &tool)?;
            running.push((family, rules.compare(&nat, &tool)?));
        }
        for (family, running) in running {
            let family = match family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            running.finish().context(|| format!("could not check {family} dnat"))?;
        }
        return Ok(());
    }
    let mut netfilter = Netfilter::open()?;
    for rules in mappings.rules() {
        rules.check(&mut netfilter)?;
    }
    Ok(())
}

/// Removes the rules of all containers of the network that are not valid.
fn gc(request: &Request) -> Result<(), CniError> {
    let Some(valid) = valid_attachments(&request.config)? else { return Ok(()) };
    let network = request.network.as_str();
    let chains = |one: &Attachment| {
        let owner = Owner::new(network, one);
        [owner.mapping_chain(), owner.second_mapping_chain()]
    };
    let kept = valid.iter().flat_map(chains).collect();
    let chains = firewall::stale_chains(network, &kept, names::is_mapping_chain, true)?;
    let selector = Selector {
        chains: chains.into_iter().map(|chain| (chain, iptables::ENTRY)).collect(),
        tables: nft::TABLES,
        is_owned: &|comment| {
            let comment = nft::Comment::parse(comment);
            let is_valid = valid.iter().any(|one| comment.is_of(&Owner::new(network, one)));
            // The rules of Go's plugin do not name their network.
            let is_stale = match comment.network {
                Some(of) => of == network,
                None => !known::is_known(comment.container_id, network),
            };
            is_stale && !is_valid
        },
        is_kept: &|_| false,
        legacy: true,
    };
    selector.remove()?.finish()?;
    Ok(())
}

/// Succeeds if an ADD could run with the config, and its backend is usable.
fn status(request: &Request) -> Result<(), CniError> {
    let config = Config::parse(&request.config)?;
    let usable = match config.backend() {
        Backend::Iptables => Tool::require(Family::V4).map(drop),
        Backend::Nftables => Netfilter::open()
            .and_then(|mut netfilter| nft::table(Family::V4).rules(&mut netfilter, nft::PORTS))
            .map(drop)
            .map_err(CniError::from),
    };
    usable.map_err(|error| {
        let msg = format!("neither iptables nor nftables is usable on this host: {}", error.msg);
        CniError::new(Code::PluginNotAvailable, msg)
    })
}
