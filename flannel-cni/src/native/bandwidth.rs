//! bandwidth: limits the traffic of a container. It is chained after the plugin that creates the interface.
//!
//! Traffic to the container leaves the host through its end of the veth pair, where a token bucket limits it. Traffic from the
//! container arrives at that end, where packets cannot be queued, so it is redirected to an IFB with a token bucket.
//!
//! Names and numbers are those of Go's plugin. Improvements: an ADD can be repeated; one that fails leaves nothing behind; a
//! missing result is an error, not a crash; the "unlimited" burst of runtimes is the largest one, not a random one; GC.

use flannel_core::dataplane::{Link, LinkKind};
use flannel_core::host_local::Attachment;
use flannel_core::json::Value;
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::link::{self, LinkRecord};
use flannel_core::message::{self, traffic};
use nix::errno::Errno;

use super::names;
use crate::environment::Environment;
use crate::error::{CniError, Context};
use crate::kernel::{Kernel, is_kind};
use crate::netns::{HostLock, Netns};
use crate::plugin::Plugin;
use crate::request::{Request, valid_attachments};
use crate::result::{CniResult, Interface};
use crate::undo::Undo;

mod config;

pub(crate) use config::Config;
use config::Limit;

/// The bandwidth plugin.
pub(crate) const PLUGIN: Plugin = Plugin {
    name: "bandwidth",
    add,
    // Needs only the name of the IFB, so it works with any config.
    del,
    check,
    gc,
    status: |request| Config::parse(&request.config).map(drop),
};

/// The prefix of the names of IFBs.
const PREFIX: &str = "bwp";
/// The number of hash digits, which makes the name as long as link names may be.
const DIGITS: usize = 12;

fn add(request: &Request) -> Result<Value, CniError> {
    let config = Config::parse(&request.config)?;
    let mut result = request.chained_result()?;
    if config.ingress.is_some() || config.egress.is_some() {
        let mut host = Kernel::open()?;
        let veth = host_end(&mut host, &result, &request.environment)?;
        let ifb_name = ifb_name(request)?;
        let _lock = HostLock::take()?;
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

fn del(request: &Request) -> Result<(), CniError> {
    let name = ifb_name(request)?;
    Kernel::open()?.delete_by_name(&name).context(|| format!("failed to delete IFB {name}"))
}

fn check(request: &Request) -> Result<(), CniError> {
    let config = Config::parse(&request.config)?;
    let result = request.chained_result()?;
    let mut host = Kernel::open()?;
    let veth = host_end(&mut host, &result, &request.environment)?;
    if let Some(limit) = config.ingress {
        check_bucket(&mut host, &veth, limit, "to")?;
    }
    if let Some(limit) = config.egress {
        let name = ifb_name(request)?;
        let missing = || CniError::internal(format!("IFB {name} is missing"));
        let ifb = host.link(&name)?.ok_or_else(missing)?;
        check_bucket(&mut host, &ifb, limit, "from")?;
        if !host.redirects(veth.index)?.contains(&ifb.index) {
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
    let name = |one: &Attachment| names::of_container(PREFIX, &request.network, &one.container_id, DIGITS);
    let valid: Vec<String> = valid.iter().map(name).collect();
    let mut host = Kernel::open()?;
    // An ADD of another network may have created one that nothing is redirected to yet.
    let _lock = HostLock::take()?;
    let links = host.links()?;
    let is_owned = |link: &&LinkRecord| {
        let name = link.name.as_str();
        is_kind(link, "ifb")
            && name.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == DIGITS)
            && !valid.iter().any(|valid| valid == name)
    };
    let candidates: Vec<&LinkRecord> = links.iter().filter(is_owned).collect();
    if candidates.is_empty() {
        return Ok(());
    }
    let mut in_use: Vec<IfIndex> = Vec::new();
    for veth in links.iter().filter(|link| is_kind(link, "veth")) {
        in_use.extend(host.redirects(veth.index)?);
    }
    for ifb in candidates.into_iter().filter(|ifb| !in_use.contains(&ifb.index)) {
        host.delete(ifb.index).context(|| format!("failed to delete IFB {}", ifb.name))?;
    }
    Ok(())
}

fn ifb_name(request: &Request) -> Result<LinkName, CniError> {
    let container_id = &request.environment.attachment.container_id;
    Ok(names::of_container(PREFIX, &request.network, container_id, DIGITS).parse()?)
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
            self.undo.push(what, move |host| delete_if_present(host, &traffic::delete_bucket(veth.index)));
            self.limit(&veth, limit)?;
        }
        let Some(limit) = config.egress else { return Ok(None) };
        let name = self.ifb_name.clone();
        self.undo.push(name.to_string(), move |host| Ok(host.delete_by_name(&name)?));
        let ifb = self.ensure_ifb()?;
        self.limit(&ifb, limit)?;
        self.host.set_up(ifb.index, true).context(|| format!("failed to set {} up", ifb.name))?;
        let what = format!("the redirection of {}", veth.name);
        self.undo.push(what, move |host| delete_if_present(host, &traffic::delete_ingress(veth.index)));
        self.redirect(ifb.index)?;
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

    /// Redirects all packets that the veth receives to the IFB.
    fn redirect(&mut self, ifb: IfIndex) -> Result<(), CniError> {
        let veth = self.veth.index;
        let failed = || format!("failed to redirect packets received by {}", self.veth.name);
        match self.host.change_one(&traffic::add_ingress(veth)) {
            // From an earlier ADD; its filter is deleted with it.
            Err(error) if error.is(Errno::EEXIST) => {
                self.host.change_one(&traffic::delete_ingress(veth)).context(failed)?;
                self.host.change_one(&traffic::add_ingress(veth)).context(failed)?;
            }
            other => other.context(failed)?,
        }
        self.host.change_one(&traffic::redirect(veth, ifb)).context(failed)
    }
}

/// Deletes a queueing discipline; one that does not exist or is of another kind is no error.
fn delete_if_present(host: &mut Kernel, request: &message::Request) -> Result<(), CniError> {
    match host.change_one(request) {
        Err(error) if error.is(Errno::ENOENT) || error.is(Errno::EINVAL) => Ok(()),
        other => Ok(other?),
    }
}
