//! bandwidth: limits the traffic of a container. It is chained after the plugin that creates the interface.
//!
//! Traffic to the container leaves the host through its end of the veth pair, where a token bucket limits it. Traffic from the
//! container arrives at that end, where packets cannot be queued, so it is redirected to an IFB with a token bucket.
//!
//! Names and numbers are those of Go's plugin. Improvements: an ADD can be repeated; one that fails leaves nothing behind; a
//! missing result is an error, not a crash; the "unlimited" burst of runtimes is the largest one, not a random one; GC.

use flannel_core::dataplane::{Link, LinkKind};
use flannel_core::json::Value;
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::link::{self, LinkRecord};
use flannel_core::message::traffic::{self, DisciplineRecord};
use nix::errno::Errno;

use crate::environment::Environment;
use crate::error::{CniError, Context};
use crate::kernel::{Kernel, is_kind};
use crate::netconf;
use crate::netns::{HostLock, Netns};
use crate::plugin::Plugin;
use crate::request::{Request, valid_attachments};
use crate::result::{CniResult, Interface};
use crate::siblings;
use crate::undo::Undo;
use crate::version::Version;

mod config;
mod ifb;
mod redirect;

pub(crate) use config::Config;
use config::Limit;

/// The bandwidth plugin.
pub(crate) const PLUGIN: Plugin = Plugin {
    name: "bandwidth",
    // Older results have no interfaces.
    oldest: Version::V0_3_0,
    add,
    // Needs only the name of the IFB, so it works with any config.
    del,
    check,
    gc,
    status: |request| Config::parse(&request.config).map(drop),
};

fn add(request: &Request) -> Result<Value, CniError> {
    let (config, mut result) = parse(request)?;
    if config.ingress.is_some() || config.egress.is_some() {
        let mut host = Kernel::open()?;
        let veth = host_end(&mut host, &result, &request.environment)?;
        let _lock = HostLock::take()?;
        check_root(&mut host, &veth, &config)?;
        let ifb_name = ifb::choose(&mut host, request)?;
        let mut limits = Limits { host, veth, ifb_name, undo: Undo::default() };
        let ifb = limits.set(&config);
        if ifb.is_err() {
            limits.undo.run(&mut limits.host);
        }
        if let Some(ifb) = ifb? {
            let interface = Interface::of(&ifb, String::new());
            // A repeated ADD may have it from the first one.
            result.interfaces.retain(|one| one.name != interface.name);
            result.interfaces.push(interface);
        }
    }
    result.to_value(request.version)
}

/// Returns the config and the result of the previous plugin.
fn parse(request: &Request) -> Result<(Config, CniResult), CniError> {
    netconf::check_base(&request.config)?;
    Ok((Config::parse(&request.config)?, request.chained_result()?))
}

fn del(request: &Request) -> Result<(), CniError> {
    let mut host = Kernel::open()?;
    let ifbs = ifb::owned(&mut host, request)?;
    if ifbs.is_empty() {
        return Ok(());
    }
    let veth = siblings::own_host_end(&request.environment)?;
    for ifb in ifbs {
        // A container that is kept could not send packets to an IFB that no longer exists.
        if let Some(veth) = veth {
            redirect::remove(&mut host, veth, ifb.index)?;
        }
        host.delete(ifb.index).context(|| format!("failed to delete IFB {}", ifb.name))?;
    }
    Ok(())
}

/// Fails if another program has attached a queueing discipline where the limit of packets to the container would be.
fn check_root(host: &mut Kernel, veth: &LinkRecord, config: &Config) -> Result<(), CniError> {
    let disciplines = if config.ingress.is_some() { host.disciplines(veth.index)? } else { Vec::new() };
    let is_other = |one: &&DisciplineRecord| one.root && one.handle != 0 && !one.is_own_bucket();
    let Some(other) = disciplines.iter().find(is_other) else { return Ok(()) };
    let (name, kind, major) = (&veth.name, &other.kind, other.handle >> 16);
    let msg = format!(
        "failed to limit {name}: another program has attached the root qdisc {kind} {major:x}: to it"
    );
    let advice =
        format!("remove it with `tc qdisc del dev {name} root`, or remove the ingress limit from the config");
    Err(CniError::internal(msg).with_details(advice))
}

fn check(request: &Request) -> Result<(), CniError> {
    let (config, result) = parse(request)?;
    let mut host = Kernel::open()?;
    let veth = host_end(&mut host, &result, &request.environment)?;
    if let Some(limit) = config.ingress {
        check_bucket(&mut host, &veth, limit, "to")?;
    }
    if let Some(limit) = config.egress {
        let name = ifb::choose(&mut host, request)?;
        let missing = || CniError::internal(format!("IFB {name} is missing"));
        let ifb = host.link(&name)?.ok_or_else(missing)?;
        check_bucket(&mut host, &ifb, limit, "from")?;
        if !host.redirects(veth.index, ifb.index)? {
            let msg = format!("packets received by {} are not redirected to {name}", veth.name);
            return Err(CniError::internal(msg));
        }
    }
    Ok(())
}

fn check_bucket(
    host: &mut Kernel,
    link: &LinkRecord,
    limit: Limit,
    direction: &'static str,
) -> Result<(), CniError> {
    let wanted = limit.bucket();
    let bucket = host.disciplines(link.index)?.into_iter().filter(|one| one.root).find_map(|one| one.bucket);
    let name = &link.name;
    match bucket {
        Some(found) if found == wanted => Ok(()),
        Some(found) => Err(CniError::internal(format!("{name} is limited to {found:?}, not {wanted:?}"))),
        None => Err(CniError::internal(format!("{name} has no limit for packets {direction} the container"))),
    }
}

/// Removes stale IFBs. An IFB does not name its network, so one that traffic is redirected to is kept.
fn gc(request: &Request) -> Result<(), CniError> {
    let Some(valid) = valid_attachments(&request.config)? else { return Ok(()) };
    let valid: Vec<String> = valid.iter().flat_map(|one| ifb::names(&request.network, one)).collect();
    let mut host = Kernel::open()?;
    // An ADD of another network may have created one that nothing is redirected to yet.
    let _lock = HostLock::take()?;
    let links = host.links()?;
    let is_stale =
        |link: &&LinkRecord| ifb::is_one(link) && !valid.iter().any(|valid| valid == link.name.as_str());
    let candidates: Vec<&LinkRecord> = links.iter().filter(is_stale).collect();
    if candidates.is_empty() {
        return Ok(());
    }
    let mut in_use: Vec<IfIndex> = Vec::new();
    for veth in links.iter().filter(|link| is_kind(link, "veth")) {
        in_use.extend(host.filters(veth.index)?.iter().filter_map(|filter| filter.target));
    }
    for ifb in candidates.into_iter().filter(|ifb| !in_use.contains(&ifb.index)) {
        host.delete(ifb.index).context(|| format!("failed to delete IFB {}", ifb.name))?;
    }
    Ok(())
}

/// Returns the host's end of the container's interface: its peer in the list of interfaces.
fn host_end(
    host: &mut Kernel,
    result: &CniResult,
    environment: &Environment,
) -> Result<LinkRecord, CniError> {
    if result.interfaces.is_empty() {
        return Err(CniError::internal("no interfaces provided"));
    }
    let ifname = &environment.attachment.ifname;
    let failed = |problem: &str| CniError::internal(format!("container interface {ifname} {problem}"));
    let mut pod = Netns::open(&environment.netns)?.enter(Kernel::open)??;
    let container = pod.link(&ifname.parse()?)?.ok_or_else(|| failed("is missing"))?;
    if !is_kind(&container, "veth") {
        return Err(failed(&format!("has no veth peer: it is a {:?}", container.link.kind)));
    }
    for interface in result.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        let Ok(name) = interface.name.parse::<LinkName>() else { continue };
        if let Some(record) = host.link(&name)?
            && is_kind(&record, "veth")
            && container.peer == Some(record.index)
            && record.peer == Some(container.index)
        {
            return Ok(record);
        }
    }
    Err(CniError::internal(format!("no veth peer of container interface {ifname} found in host ns")))
}

/// An ADD in progress.
struct Limits {
    host: Kernel,
    veth: LinkRecord,
    ifb_name: LinkName,
    undo: Undo<'static>,
}

impl Limits {
    /// Returns the IFB, if one is needed.
    fn set(&mut self, config: &Config) -> Result<Option<LinkRecord>, CniError> {
        let veth = self.veth.clone();
        if let Some(limit) = config.ingress {
            let what = format!("the limit of {}", veth.name);
            let index = veth.index;
            self.undo.push(what, move |host| Ok(redirect::delete(host, &traffic::delete_bucket(index))?));
            self.limit(&veth, limit)?;
        }
        let Some(limit) = config.egress else { return Ok(None) };
        let name = self.ifb_name.clone();
        self.undo.push(name.to_string(), move |host| Ok(host.delete_by_name(&name)?));
        let ifb = self.ensure_ifb()?;
        self.limit(&ifb, limit)?;
        self.host.set_up(ifb.index, true).context(|| format!("failed to set {} up", ifb.name))?;
        redirect::set(&mut self.host, &mut self.undo, veth.index, ifb.index)
            .context(|| format!("failed to redirect packets received by {}", veth.name))?;
        Ok(Some(ifb))
    }

    fn limit(&mut self, link: &LinkRecord, limit: Limit) -> Result<(), CniError> {
        let request = traffic::set_bucket(link.index, &limit.bucket());
        self.host
            .change_one(&request)
            .context(|| format!("failed to limit {}: could not set a token bucket", link.name))
    }

    fn ensure_ifb(&mut self) -> Result<LinkRecord, CniError> {
        let name = &self.ifb_name;
        let new = Link {
            kind: LinkKind::Other("ifb".to_owned()),
            mtu: self.veth.link.mtu,
            mac: None,
            up: false,
            alias: None,
        };
        match self.host.change_one(&link::create(name, &new, None)?) {
            // From an earlier ADD.
            Err(error) if error.is(Errno::EEXIST) => {}
            other => other.context(|| format!("failed to create IFB {name}"))?,
        }
        let vanished = || CniError::internal(format!("IFB {name} was removed while it was set up"));
        self.host.link(name)?.ok_or_else(vanished)
    }
}
