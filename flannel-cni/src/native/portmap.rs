//! portmap: lets ports of the host lead to a container. Runs behind the plugin that made its interface.
//!
//! Chains, tables and comments are those of Go's plugin. Mended against it: a port that another container has is refused, with
//! both named; an ADD replaces what an earlier life of the container left, and one that fails leaves nothing; DEL clears both
//! backends, also without mappings in the config; protocols in any case; GC.
//!
//! A connection over UDP goes on as it began for as long as packets come, so those to a mapped port are forgotten when the
//! mapping comes and when it goes.

use flannel_core::family::Family;
use flannel_core::json::{Object, Value};
use flannel_core::message::nftables::{Expr, PayloadBase, Rule, TableFamily};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::environment::Environment;
use crate::error::{CniError, Code, chain, note};
use crate::firewall::iptables::Tool;
use crate::firewall::names::{self, Owner};
use crate::firewall::nat::{Nat, NatRule};
use crate::firewall::netfilter::Netfilter;
use crate::firewall::{self, Backend, FirewallError, Trace};
use crate::kernel::Kernel;
use crate::netconf::{self, ValidAttachments};
use crate::netns::{HostLock, Netns};
use crate::plugin::{Plugin, Request};
use crate::{sysctl, version};

mod config;
mod iptables;
mod nft;

use config::{Config, ConfigError, Mapping};

/// The portmap plugin.
pub(crate) const PLUGIN: Plugin = Plugin {
    name: "portmap",
    add,
    del: |request| del(&request.config, &request.environment).map(|()| String::new()),
    check: |request| check(request).map(|()| String::new()),
    gc: |request| gc(&request.config).map(|()| String::new()),
    status: |request| status(&request.config).map(|()| String::new()),
};

const UDP: u8 = 17;

#[derive(Debug, thiserror::Error)]
enum PortmapError {
    #[error("failed to parse config")]
    Config(#[source] ConfigError),
    #[error("must be called as chained plugin")]
    NoResult,
    #[error(
        "{mapping} of container {container} in network {network} is taken by {other}: delete that one first, or map another port"
    )]
    Taken { mapping: Mapping, container: String, network: String, other: String },
    #[error("unable to enable route_localnet: there is no route to {0}")]
    NoRoute(IpAddr),
    #[error("missing hostport rules in {0:?} chain")]
    MissingRules(&'static str),
    #[error("could not check {} dnat", match .0 { Family::V4 => "ipv4", Family::V6 => "ipv6" })]
    Check(Family, #[source] FirewallError),
    #[error("neither iptables nor nftables can be used here")]
    NoBackend(#[source] FirewallError),
}

/// One container, and what it is to have.
struct Attachment<'a> {
    config: &'a Config,
    environment: &'a Environment,
    targets: Vec<IpNet>,
}

fn add(request: &Request) -> Result<String, CniError> {
    let version = version::of_config(&request.config)?;
    let config = Config::parse(&request.config).map_err(PortmapError::Config)?;
    let result = config::prev_result(&request.config, version)
        .map_err(PortmapError::Config)?
        .ok_or(PortmapError::NoResult)?;
    if !config.mappings.is_empty() {
        let environment = &request.environment;
        let targets = config::targets(&result, environment);
        let attachment = Attachment { config: &config, environment, targets };
        let _netns = hold(environment)?;
        // Nobody else looks for free ports until ours are taken.
        let _lock = HostLock::take()?;
        attachment.add().inspect_err(|_| {
            if let Err(error) = remove(&config.network, environment) {
                note!("could not take back the port mappings: {}", chain(&error));
            }
        })?;
    }
    Ok(passed_through(&request.config, version).to_pretty())
}

/// The result of the plugins before, as it came.
fn passed_through(config: &Object, version: version::Version) -> Value {
    let result = config.field("prevResult").and_then(Value::as_object);
    let mut result = result.cloned().unwrap_or_default();
    if result.get("cniVersion").and_then(Value::as_str).unwrap_or_default().is_empty() {
        result.insert("cniVersion", version.as_str());
    }
    Value::Object(result)
}

fn del(config: &Object, environment: &Environment) -> Result<(), CniError> {
    let _netns = hold(environment)?;
    // Nothing of the config is needed but the name: the rules say which ports they are for.
    Ok(remove(Config::network_of(config), environment)?)
}

/// Waits for programs that an operation on this container has left running, and lets later ones wait for ours. Without a
/// namespace there is nobody who could have started one.
fn hold(environment: &Environment) -> Result<Option<Netns>, CniError> {
    let Ok(netns) = Netns::open(&environment.netns) else { return Ok(None) };
    netns.hold()?;
    Ok(Some(netns))
}

/// Removes the rules of a container, wherever they are.
fn remove(network: &str, environment: &Environment) -> Result<(), FirewallError> {
    let owner = owner(network, environment);
    let trace = Trace {
        chains: vec![
            (owner.mapping_chain(), iptables::ENTRY),
            (owner.historic_mapping_chain(), iptables::HISTORIC_ENTRY),
        ],
        tables: nft::TABLES,
        is_ours: &|comment| nft::parse_comment(comment).0 == owner.container_id,
        spared: &|_| false,
        legacy: true,
    };
    let found = trace.find()?;
    if !found.is_empty() {
        let ports = trace.remove(found)?.finish()?;
        for family in Family::ALL {
            let ports = ports.iter().filter(|(of, _)| *of == family).map(|(_, port)| (*port, None));
            forget(family, &ports.collect());
        }
    }
    Ok(())
}

const fn owner<'a>(network: &'a str, environment: &'a Environment) -> Owner<'a> {
    Owner { network, container_id: environment.container_id.as_str(), ifname: environment.ifname.as_str() }
}

/// Lets connections over UDP begin anew. Without connection tracking there are none.
fn forget(family: Family, ports: &BTreeSet<(u16, Option<IpAddr>)>) {
    if ports.is_empty() {
        return;
    }
    if let Err(error) = Netfilter::open().and_then(|mut netfilter| netfilter.forget_udp(family, ports)) {
        note!("could not forget UDP connections to mapped ports: {}", chain(&error));
    }
}

impl Attachment<'_> {
    fn add(&self) -> Result<(), CniError> {
        let netfilter = match Netfilter::open() {
            Ok(netfilter) => Some(netfilter),
            Err(error) if error.means_absent() => None,
            Err(error) => return Err(error.into()),
        };
        match self.config.backend() {
            Backend::Iptables => self.add_iptables(netfilter)?,
            Backend::Nftables => self.add_nftables()?,
        }
        for target in &self.targets {
            let family = Family::of_net(*target);
            let udp = self.config.of(family).filter(|mapping| mapping.protocol_number() == UDP);
            forget(family, &udp.map(|mapping| (mapping.host_port, mapping.address())).collect());
        }
        Ok(())
    }

    /// One process for a family; both run at once.
    fn add_iptables(&self, mut netfilter: Option<Netfilter>) -> Result<(), CniError> {
        let owner = self.owner();
        let (mut started, mut pending) = (Vec::new(), Vec::new());
        for rules in self.iptables() {
            let family = Family::of_net(rules.target);
            let tool = Tool::find(family).ok_or(FirewallError::NoTool(family))?;
            // They get ready while we look at what is there.
            let running = tool.start().map_err(FirewallError::from)?;
            started.push((rules, family, tool, running));
        }
        for (rules, family, tool, running) in started {
            let mut nat = rules.read(netfilter.as_mut(), &tool)?;
            if let Some(netfilter) = netfilter.as_mut() {
                self.check_free_nftables(netfilter, family)?;
                read_others(netfilter, family, &owner, &mut nat, self.config)?;
            }
            self.check_free(&nat, family)?;
            if nat.chains.contains(&owner.mapping_chain()) {
                remove(owner.network, self.environment)?;
            }
            pending.push(rules.start(&nat, tool, running));
        }
        self.allow_from_localhost()?;
        for pending in pending {
            pending.finish()?;
        }
        Ok(())
    }

    /// One transaction for both families.
    fn add_nftables(&self) -> Result<(), CniError> {
        let mut netfilter = Netfilter::open().map_err(FirewallError::from)?;
        let owner = self.owner();
        for attempt in 1.. {
            let mut commands = Vec::new();
            for rules in self.nftables() {
                let family = Family::of_net(rules.target);
                self.check_free_nftables(&mut netfilter, family)?;
                let mut nat = Nat::read(&mut netfilter, family, &[iptables::ENTRY])?;
                read_others(&mut netfilter, family, &owner, &mut nat, self.config)?;
                self.check_free(&nat, family)?;
                commands.extend(rules.commands(&mut netfilter)?);
            }
            match netfilter.commit(&commands) {
                Err(error) if error.means_outdated() && attempt < firewall::ATTEMPTS => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        for rules in self.nftables() {
            rules.set_conditioned()?;
        }
        self.allow_from_localhost()
    }

    const fn owner(&self) -> Owner<'_> {
        owner(self.config.network.as_str(), self.environment)
    }

    fn iptables(&self) -> impl Iterator<Item = iptables::Rules<'_>> {
        let (config, owner) = (self.config, self.owner());
        self.targets.iter().map(move |target| iptables::Rules { config, owner, target: *target })
    }

    fn nftables(&self) -> impl Iterator<Item = nft::Rules<'_>> {
        let (config, container_id) = (self.config, self.environment.container_id.as_str());
        self.targets.iter().map(move |target| nft::Rules { config, container_id, target: *target })
    }

    /// Packets from 127.0.0.1 may leave the host by the interface behind which the container is: they get another source
    /// address before they arrive there.
    fn allow_from_localhost(&self) -> Result<(), CniError> {
        let target = self.targets.iter().find(|target| Family::of_net(**target) == Family::V4);
        let Some(target) = target.filter(|_| self.config.snat).map(IpNet::addr) else { return Ok(()) };
        let mut host = Kernel::open()?;
        let link = host.route_to(target)?.ok_or(PortmapError::NoRoute(target))?;
        let name = host.link_name(link)?.ok_or(PortmapError::NoRoute(target))?;
        sysctl::set(&format!("ipv4/conf/{name}/route_localnet"), "1").map_err(|error| {
            CniError::new(Code::Internal, format!("unable to enable route_localnet: {error}"))
        })
    }

    /// No other container has one of the ports in iptables.
    fn check_free(&self, nat: &Nat, family: Family) -> Result<(), PortmapError> {
        let own = self.owner().mapping_chain();
        for entry in nat.of(iptables::ENTRY) {
            let Some(chain) = entry.target.as_ref().filter(|chain| **chain != own) else { continue };
            for mapped in nat.of(chain).filter(|rule| rule.leads_to("DNAT")) {
                let Some(protocol) = mapped.protocol else { continue };
                for port in &mapped.ports {
                    let address = mapped.destination.map(|net| net.addr());
                    let mut mappings = self.config.mappings.iter();
                    if let Some(mapping) = mappings.find(|one| one.collides(family, protocol, *port, address))
                    {
                        return Err(self.taken(mapping, &named(entry)));
                    }
                }
            }
        }
        Ok(())
    }

    /// No other container has one of the ports in nftables.
    fn check_free_nftables(&self, netfilter: &mut Netfilter, family: Family) -> Result<(), CniError> {
        for chain in [nft::PORTS, nft::ADDRESS_PORTS] {
            for rule in netfilter.rules(family.into(), nft::TABLE, chain)? {
                let Some((other, _)) = rule.comment.as_deref().map(nft::parse_comment) else { continue };
                let Some((protocol, port)) = firewall::mapped_port(&rule) else { continue };
                let address = address_of(&rule);
                let mut mappings = self.config.mappings.iter();
                if other != self.environment.container_id
                    && let Some(mapping) = mappings.find(|one| one.collides(family, protocol, port, address))
                {
                    return Err(self.taken(mapping, &format!("container {other}")).into());
                }
            }
        }
        Ok(())
    }

    fn taken(&self, mapping: &Mapping, other: &str) -> PortmapError {
        PortmapError::Taken {
            mapping: mapping.clone(),
            container: self.environment.container_id.clone(),
            network: self.config.network.clone(),
            other: other.to_owned(),
        }
    }
}

/// Whose an entry rule is.
fn named(entry: &NatRule) -> String {
    match entry.comment.as_deref().and_then(names::parse_comment) {
        Some((network, id)) => format!("container {id} in network {network}"),
        None => format!("the chain {}", entry.target.as_deref().unwrap_or_default()),
    }
}

/// Adds the chains of other containers that have one of the ports, if the listing was through netlink: those of all would be
/// many.
fn read_others(
    netfilter: &mut Netfilter,
    family: Family,
    owner: &Owner<'_>,
    nat: &mut Nat,
    config: &Config,
) -> Result<(), FirewallError> {
    let own = owner.mapping_chain();
    let wanted = |rule: &NatRule| {
        let mapped = |mapping: &Mapping| {
            rule.protocol.is_none_or(|protocol| protocol == mapping.protocol_number())
                && (rule.ports.is_empty() || rule.ports.contains(&mapping.host_port))
        };
        config.mappings.iter().any(mapped)
    };
    let others: BTreeSet<String> = nat
        .of(iptables::ENTRY)
        .filter(|rule| wanted(rule))
        .filter_map(|rule| rule.target.clone())
        .filter(|chain| *chain != own && !nat.chains.contains(chain))
        .collect();
    let chains: Vec<&str> = others.iter().map(String::as_str).collect();
    let more = Nat::read(netfilter, family, &chains)?;
    nat.chains.extend(more.chains);
    nat.rules.extend(more.rules);
    Ok(())
}

/// The address of the host that a rule of nf_tables is for.
fn address_of(rule: &Rule) -> Option<IpAddr> {
    rule.expressions.windows(2).find_map(|pair| match pair {
        [Expr::Payload { base: PayloadBase::Network, .. }, Expr::Cmp { data, .. }] => match data.len() {
            4 => data.first_chunk::<4>().map(|bytes| IpAddr::V4(Ipv4Addr::from(*bytes))),
            16 => data.first_chunk::<16>().map(|bytes| IpAddr::V6(Ipv6Addr::from(*bytes))),
            _ => None,
        },
        _ => None,
    })
}

fn check(request: &Request) -> Result<(), CniError> {
    let version = version::of_config(&request.config)?;
    let config = Config::parse(&request.config)?;
    let result = config::prev_result(&request.config, version)?.ok_or(PortmapError::NoResult)?;
    if config.mappings.is_empty() {
        return Ok(());
    }
    let environment = &request.environment;
    let targets = config::targets(&result, environment);
    let attachment = Attachment { config: &config, environment, targets };
    if config.backend() == Backend::Iptables {
        let mut running = Vec::new();
        for rules in attachment.iptables() {
            let family = Family::of_net(rules.target);
            let tool = Tool::find(family).ok_or(FirewallError::NoTool(family))?;
            running.push((family, rules.compare(&tool)?));
        }
        for (family, running) in running {
            running.finish().map_err(|error| PortmapError::Check(family, error.into()))?;
        }
        return Ok(());
    }
    let mut netfilter = Netfilter::open()?;
    for rules in attachment.nftables() {
        for (chain, wanted) in rules.counts() {
            let rules = netfilter.rules(Family::of_net(rules.target).into(), nft::TABLE, chain)?;
            let own = rules.iter().filter(|rule| nft::is_of(rule, &environment.container_id));
            if own.count() < wanted {
                return Err(PortmapError::MissingRules(chain).into());
            }
        }
    }
    Ok(())
}

/// Removes the rules of all containers of the network that the list of the runtime does not hold.
fn gc(config: &Object) -> Result<(), CniError> {
    let ValidAttachments::Only(valid) = netconf::attachments(config)? else { return Ok(()) };
    let network = Config::network_of(config);
    let mut chains = BTreeSet::new();
    for nat in firewall::nat_tables(true)? {
        chains.extend(nat.stale_chains(network, &valid, names::is_mapping_chain));
    }
    let trace = Trace {
        chains: chains.into_iter().map(|chain| (chain, iptables::ENTRY)).collect(),
        tables: nft::TABLES,
        // Go's rules do not tell their network: those of another one must not be taken for ours.
        is_ours: &|comment| {
            let (id, of) = nft::parse_comment(comment);
            of == Some(network) && !valid.iter().any(|one| one.container_id == id)
        },
        spared: &|_| false,
        legacy: true,
    };
    trace.remove(trace.find()?)?.finish()?;
    Ok(())
}

/// The config is one that an ADD could work with, and there is a backend for it.
fn status(config: &Object) -> Result<(), CniError> {
    let config = Config::parse(config)?;
    let missing = match config.backend() {
        Backend::Iptables => Tool::find(Family::V4).is_none().then_some(FirewallError::NoTool(Family::V4)),
        Backend::Nftables => Netfilter::open()
            .and_then(|mut netfilter| netfilter.rules(TableFamily::IP, nft::TABLE, nft::PORTS))
            .err()
            .map(FirewallError::from),
    };
    match missing {
        None => Ok(()),
        Some(error) => Err(CniError::new(Code::PluginNotAvailable, chain(&PortmapError::NoBackend(error)))),
    }
}
