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
use flannel_core::message::{
    self,
    traffic::{self, TokenBucket},
};
use nix::errno::Errno;

use super::names;
use crate::environment::Environment;
use crate::error::CniError;
use crate::kernel::{Kernel, KernelError};
use crate::links::is_kind;
use crate::netns::{HostLock, Netns};
use crate::plugin::Plugin;
use crate::request::{Request, ValidAttachments};
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
    status: |request| {
        Config::parse(&request.config)?;
        Ok(())
    },
};

/// The prefix of the names of IFBs.
const PREFIX: &str = "bwp";
/// The number of hash digits, which makes the name as long as link names may be.
const DIGITS: usize = 12;

#[derive(Debug, thiserror::Error)]
enum BandwidthError {
    #[error("must be called as chained plugin")]
    NoResult,
    #[error("no interfaces provided")]
    NoInterfaces,
    #[error("container interface {0} is missing")]
    NoContainer(String),
    #[error("container interface {0} has no veth peer: it is a {1}")]
    NoVeth(String, String),
    #[error("no veth peer of container interface {0} found in host ns")]
    NoPeer(String),
    #[error("failed to limit {0}: could not {1}")]
    Limit(String, &'static str, #[source] KernelError),
    #[error("IFB {0} was removed while it was set up")]
    Vanished(String),
    #[error("{0} has no limit for packets {1} the container")]
    NotLimited(String, &'static str),
    #[error("{0} is limited to {1:?}, not {2:?}")]
    OtherLimit(String, TokenBucket, TokenBucket),
    #[error("IFB {0} is missing")]
    NoIfb(String),
    #[error("packets received by {0} are not redirected to {1}")]
    NotRedirected(String, String),
}

fn add(request: &Request) -> Result<Value, CniError> {
    let config = Config::parse(&request.config)?;
    let mut result = request.prev_result()?.ok_or(BandwidthError::NoResult)?;
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
    Ok(result.to_value(request.version)?)
}

fn del(request: &Request) -> Result<(), CniError> {
    let name = ifb_name(request)?;
    let deleted = Kernel::open()?.delete_by_name(&name);
    Ok(deleted.map_err(|error| BandwidthError::Limit(name.to_string(), "delete it", error))?)
}

fn check(request: &Request) -> Result<(), CniError> {
    let config = Config::parse(&request.config)?;
    let result = request.prev_result()?.ok_or(BandwidthError::NoResult)?;
    let mut host = Kernel::open()?;
    let veth = host_end(&mut host, &result, &request.environment)?;
    if let Some(limit) = config.ingress {
        check_bucket(&mut host, &veth, limit, "to")?;
    }
    if let Some(limit) = config.egress {
        let name = ifb_name(request)?;
        let ifb = host.link(&name)?.ok_or_else(|| BandwidthError::NoIfb(name.to_string()))?;
        check_bucket(&mut host, &ifb, limit, "from")?;
        if !host.redirects(veth.index)?.contains(&ifb.index) {
            return Err(BandwidthError::NotRedirected(veth.name.to_string(), name.to_string()).into());
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
    match bucket {
        None => Err(BandwidthError::NotLimited(link.name.to_string(), direction).into()),
        Some(found) if found != wanted => {
            Err(BandwidthError::OtherLimit(link.name.to_string(), found, wanted).into())
        }
        Some(_) => Ok(()),
    }
}

/// Removes stale IFBs. An IFB does not name its network, so one that traffic is redirected to is kept.
fn gc(request: &Request) -> Result<(), CniError> {
    let ValidAttachments::Only(valid) = request.valid_attachments()? else { return Ok(()) };
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
        host.delete(ifb.index)
            .map_err(|error| BandwidthError::Limit(ifb.name.to_string(), "delete it", error))?;
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
        return Err(BandwidthError::NoInterfaces.into());
    }
    let ifname = &environment.attachment.ifname;
    let mut pod = Netns::open(&environment.netns)?.enter(Kernel::open)??;
    let container = pod.link(&ifname.parse()?)?.ok_or_else(|| BandwidthError::NoContainer(ifname.clone()))?;
    if !is_kind(&container, "veth") {
        let kind = format!("{:?}", container.link.kind);
        return Err(BandwidthError::NoVeth(ifname.clone(), kind).into());
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
    Err(BandwidthError::NoPeer(ifname.clone()).into())
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
        let (veth, veth_name) = (self.veth.index, self.veth.name.to_string());
        if let Some(limit) = config.ingress {
            let what = format!("the limit of {veth_name}");
            self.undo.push(what, move |host| delete_if_present(host, &traffic::delete_bucket(veth)));
            self.change(&veth_name, "set a token bucket", &traffic::set_bucket(veth, &limit.bucket()))?;
        }
        let Some(limit) = config.egress else { return Ok(None) };
        let name = self.ifb_name.clone();
        self.undo.push(name.to_string(), move |host| Ok(host.delete_by_name(&name)?));
        let name = self.ifb_name.to_string();
        let ifb = self.ensure_ifb()?;
        self.change(&name, "set a token bucket", &traffic::set_bucket(ifb.index, &limit.bucket()))?;
        self.host.set_up(ifb.index, true).map_err(|error| BandwidthError::Limit(name, "set it up", error))?;
        let what = format!("the redirection of {veth_name}");
        self.undo.push(what, move |host| delete_if_present(host, &traffic::delete_ingress(veth)));
        self.redirect(ifb.index)?;
        Ok(Some(ifb))
    }

    fn ensure_ifb(&mut self) -> Result<LinkRecord, CniError> {
        let new = Link {
            kind: LinkKind::Other("ifb".to_owned()),
            mtu: self.veth.link.mtu,
            mac: None,
            up: false,
            alias: None,
        };
        let name = self.ifb_name.to_string();
        match self.host.change_one(&link::create(&self.ifb_name, &new, None)?) {
            // From an earlier ADD.
            Err(error) if error.is(Errno::EEXIST) => {}
            other => other.map_err(|error| BandwidthError::Limit(name.clone(), "create it", error))?,
        }
        Ok(self.host.link(&self.ifb_name)?.ok_or(BandwidthError::Vanished(name))?)
    }

    /// Redirects all packets that the veth receives to the IFB.
    fn redirect(&mut self, ifb: IfIndex) -> Result<(), CniError> {
        const WHAT: &str = "add an ingress qdisc";
        let (veth, name) = (self.veth.index, self.veth.name.to_string());
        match self.host.change_one(&traffic::add_ingress(veth)) {
            // From an earlier ADD; its filter is deleted with it.
            Err(error) if error.is(Errno::EEXIST) => {
                self.change(&name, WHAT, &traffic::delete_ingress(veth))?;
                self.change(&name, WHAT, &traffic::add_ingress(veth))?;
            }
            other => other.map_err(|error| BandwidthError::Limit(name.clone(), WHAT, error))?,
        }
        self.change(&name, "redirect received packets", &traffic::redirect(veth, ifb))
    }

    fn change(&mut self, name: &str, what: &'static str, request: &message::Request) -> Result<(), CniError> {
        let limit = |error| BandwidthError::Limit(name.to_owned(), what, error);
        Ok(self.host.change_one(request).map_err(limit)?)
    }
}

/// Deletes a queueing discipline; one that does not exist or is of another kind is no error.
fn delete_if_present(host: &mut Kernel, request: &message::Request) -> Result<(), CniError> {
    match host.change_one(request) {
        Err(error) if error.is(Errno::ENOENT) || error.is(Errno::EINVAL) => Ok(()),
        other => Ok(other?),
    }
}
