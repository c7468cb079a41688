//! bandwidth: limits what a container receives and sends. Runs behind the plugin that made its interface.
//!
//! What the container receives leaves the host by its end of the veth pair, so a token bucket stands there. What it sends comes in
//! at that end, where nothing can wait: it is redirected to an IFB, and a token bucket stands at that.
//!
//! Names and numbers are those of Go's plugin. Mended against it: an ADD may be repeated; one that fails leaves nothing; a
//! missing result is an error, no crash; the runtimes' "unlimited" burst is the largest one instead of a random one; GC.

use flannel_core::json::{Object, Value};
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::link::{self, LinkRecord, LinkSettings};
use flannel_core::message::traffic::{self, TokenBucket};
use nix::errno::Errno;

use super::names;
use crate::environment::Environment;
use crate::error::{CniError, note};
use crate::kernel::{Found, Kernel, KernelError};
use crate::netconf::{self, ValidAttachments};
use crate::netns::{HostLock, Netns};
use crate::plugin::{Plugin, Request};
use crate::result::{CniResult, Interface, ResultError};
use crate::version::{self, Version};

mod config;

pub(crate) use config::Config;
use config::Limit;

/// The bandwidth plugin.
pub(crate) const PLUGIN: Plugin = Plugin {
    name: "bandwidth",
    add,
    // Works with any config: the name of the IFB is all that it needs.
    del: |request| del(&request.config, &request.environment).map(|()| String::new()),
    check: |request| check(request).map(|()| String::new()),
    gc: |request| gc(&request.config).map(|()| String::new()),
    status: |request| {
        Config::parse(&request.config)?;
        Ok(String::new())
    },
};

/// First letters of the name of every IFB.
const PREFIX: &str = "bwp";
/// Digits of a hash that make the name as long as names of links may be.
const DIGITS: usize = 12;

#[derive(Debug, thiserror::Error)]
enum BandwidthError {
    #[error("must be called as chained plugin")]
    NoResult,
    #[error(transparent)]
    Result(#[from] ResultError),
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
    #[error("IFB {0} went away while it was set up")]
    Vanished(String),
    #[error("{0} has no limit for what {1}")]
    NotLimited(String, &'static str),
    #[error("{0} is limited to {1:?}, not {2:?}")]
    OtherLimit(String, TokenBucket, TokenBucket),
    #[error("IFB {0} is missing")]
    NoIfb(String),
    #[error("nothing leads what {0} receives to {1}")]
    NotRedirected(String, String),
}

fn add(request: &Request) -> Result<String, CniError> {
    let version = version::of_config(&request.config)?;
    let config = Config::parse(&request.config)?;
    let mut result = prev_result(&request.config, version)?;
    if config.ingress.is_some() || config.egress.is_some() {
        let mut host = Kernel::open()?;
        let veth = host_end(&mut host, &result, &request.environment)?;
        let name = ifb_name(&request.config, &request.environment)?;
        let _lock = HostLock::take()?;
        let mut limits = Limits { host: &mut host, veth: &veth, ifb_name: name };
        let ifb = limits.set(&config).inspect_err(|_| limits.undo())?;
        if let Some(ifb) = ifb {
            let mac = ifb.record.link.mac.map_or_else(String::new, |mac| mac.to_string());
            let name = ifb.record.name.to_string();
            // A repeated ADD may have it from the first one.
            result.interfaces.retain(|one| one.name != name);
            result.interfaces.push(Interface { name, mac, ..Interface::default() });
        }
    }
    Ok(result.to_value(version)?.to_pretty())
}

fn del(config: &Object, environment: &Environment) -> Result<(), CniError> {
    let name = ifb_name(config, environment)?;
    let mut host = Kernel::open()?;
    let Some(ifb) = host.link(&name)? else { return Ok(()) };
    match host.change_one(&link::delete(ifb.record.index)) {
        Err(error) if error.is(Errno::ENODEV) => Ok(()),
        other => Ok(other.map_err(|error| BandwidthError::Limit(name.to_string(), "delete it", error))?),
    }
}

fn check(request: &Request) -> Result<(), CniError> {
    let version = version::of_config(&request.config)?;
    let config = Config::parse(&request.config)?;
    let result = prev_result(&request.config, version)?;
    let mut host = Kernel::open()?;
    let veth = host_end(&mut host, &result, &request.environment)?;
    if let Some(limit) = config.ingress {
        check_bucket(&mut host, &veth, limit, "it sends to the container")?;
    }
    if let Some(limit) = config.egress {
        let name = ifb_name(&request.config, &request.environment)?;
        let ifb = host.link(&name)?.ok_or_else(|| BandwidthError::NoIfb(name.to_string()))?.record;
        check_bucket(&mut host, &ifb, limit, "the container sends")?;
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

/// Removes the IFBs that are left of containers. An IFB does not tell its network, so one that something leads to stays.
fn gc(config: &Object) -> Result<(), CniError> {
    let ValidAttachments::Only(valid) = netconf::attachments(config)? else { return Ok(()) };
    let network = network(config);
    let valid: Vec<String> =
        valid.iter().map(|one| names::of_container(PREFIX, network, &one.container_id, DIGITS)).collect();
    let mut host = Kernel::open()?;
    // An ADD of another network may be at one that nothing leads to yet.
    let _lock = HostLock::take()?;
    let links = host.links()?;
    let is_ours = |link: &&LinkRecord| {
        let name = link.name.as_str();
        super::is_kind(link, "ifb")
            && name.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == DIGITS)
            && !valid.iter().any(|valid| valid == name)
    };
    let candidates: Vec<&LinkRecord> = links.iter().filter(is_ours).collect();
    if candidates.is_empty() {
        return Ok(());
    }
    let mut in_use: Vec<IfIndex> = Vec::new();
    for veth in links.iter().filter(|link| super::is_kind(link, "veth")) {
        in_use.extend(host.redirects(veth.index)?);
    }
    for ifb in candidates.into_iter().filter(|ifb| !in_use.contains(&ifb.index)) {
        match host.change_one(&link::delete(ifb.index)) {
            Err(error) if error.is(Errno::ENODEV) => {}
            other => {
                other.map_err(|error| BandwidthError::Limit(ifb.name.to_string(), "delete it", error))?
            }
        }
    }
    Ok(())
}

fn network(config: &Object) -> &str {
    config.field("name").and_then(Value::as_str).unwrap_or_default()
}

fn ifb_name(config: &Object, environment: &Environment) -> Result<LinkName, CniError> {
    Ok(names::of_container(PREFIX, network(config), &environment.container_id, DIGITS).parse()?)
}

fn prev_result(config: &Object, version: Version) -> Result<CniResult, BandwidthError> {
    let object = config.field("prevResult").and_then(Value::as_object).ok_or(BandwidthError::NoResult)?;
    Ok(CniResult::from_prev_result(object, version)?)
}

/// The host's end of the container's interface: the one in the list of interfaces that is its peer.
fn host_end(
    host: &mut Kernel,
    result: &CniResult,
    environment: &Environment,
) -> Result<LinkRecord, CniError> {
    if result.interfaces.is_empty() {
        return Err(BandwidthError::NoInterfaces.into());
    }
    let ifname = &environment.ifname;
    let mut pod = Netns::open(&environment.netns)?.enter(Kernel::open)??;
    let container =
        pod.link(&ifname.parse()?)?.ok_or_else(|| BandwidthError::NoContainer(ifname.clone()))?.record;
    if !super::is_kind(&container, "veth") {
        let kind = format!("{:?}", container.link.kind);
        return Err(BandwidthError::NoVeth(ifname.clone(), kind).into());
    }
    for interface in result.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        let Ok(name) = interface.name.parse::<LinkName>() else { continue };
        if let Some(Found { record, .. }) = host.link(&name)?
            && super::is_kind(&record, "veth")
            && container.peer == Some(record.index)
            && record.peer == Some(container.index)
        {
            return Ok(record);
        }
    }
    Err(BandwidthError::NoPeer(ifname.clone()).into())
}

/// The limits of one container while they are set.
struct Limits<'a> {
    host: &'a mut Kernel,
    veth: &'a LinkRecord,
    ifb_name: LinkName,
}

impl Limits<'_> {
    /// Answers with the IFB, if one is needed.
    fn set(&mut self, config: &Config) -> Result<Option<Found>, CniError> {
        if let Some(limit) = config.ingress {
            let request = traffic::set_bucket(self.veth.index, &limit.bucket());
            self.change(self.veth.name.as_str(), "set a token bucket", &request)?;
        }
        let Some(limit) = config.egress else { return Ok(None) };
        let name = self.ifb_name.to_string();
        let ifb = self.ensure_ifb()?;
        let index = ifb.record.index;
        self.change(&name, "set a token bucket", &traffic::set_bucket(index, &limit.bucket()))?;
        let up = LinkSettings { up: Some(true), ..LinkSettings::default() };
        self.change(&name, "set it up", &link::set(index, &up))?;
        self.lead_to(index)?;
        Ok(Some(ifb))
    }

    fn ensure_ifb(&mut self) -> Result<Found, CniError> {
        let new = flannel_core::dataplane::Link {
            kind: flannel_core::dataplane::LinkKind::Other("ifb".to_owned()),
            mtu: self.veth.link.mtu,
            mac: None,
            up: false,
            alias: None,
        };
        let name = self.ifb_name.to_string();
        match self.host.change_one(&link::create(&self.ifb_name, &new, None)?) {
            // Of an ADD before.
            Err(error) if error.is(Errno::EEXIST) => {}
            other => other.map_err(|error| BandwidthError::Limit(name.clone(), "create it", error))?,
        }
        Ok(self.host.link(&self.ifb_name)?.ok_or(BandwidthError::Vanished(name))?)
    }

    /// All that the veth receives goes to the IFB, and nowhere else.
    fn lead_to(&mut self, ifb: IfIndex) -> Result<(), CniError> {
        let veth = self.veth.index;
        if let Err(error) = self.host.change_one(&traffic::add_ingress(veth)) {
            let fail =
                |error| BandwidthError::Limit(self.veth.name.to_string(), "see what it receives", error);
            if !error.is(Errno::EEXIST) {
                return Err(fail(error).into());
            }
            // Of an ADD before, with its filter: that goes too.
            for request in [traffic::delete_ingress(veth), traffic::add_ingress(veth)] {
                self.host.change_one(&request).map_err(fail)?;
            }
        }
        self.change(self.veth.name.as_str(), "redirect what it receives", &traffic::redirect(veth, ifb))
    }

    fn change(
        &mut self,
        name: &str,
        what: &'static str,
        request: &flannel_core::message::Request,
    ) -> Result<(), CniError> {
        let limit = |error| BandwidthError::Limit(name.to_owned(), what, error);
        Ok(self.host.change_one(request).map_err(limit)?)
    }

    /// Takes all limits away. The error of the ADD is what is told.
    fn undo(&mut self) {
        let index = self.veth.index;
        for request in [traffic::delete_ingress(index), traffic::delete_bucket(index)] {
            match self.host.change_one(&request) {
                Ok(()) => {}
                // What is not there, or not of this kind.
                Err(error) if error.is(Errno::ENOENT) || error.is(Errno::EINVAL) => {}
                Err(error) => note!("could not take the limits of {} back: {error}", self.veth.name),
            }
        }
        match self.host.link(&self.ifb_name) {
            Ok(None) => {}
            Ok(Some(ifb)) => {
                if let Err(error) = self.host.change_one(&link::delete(ifb.record.index)) {
                    note!("could not take back {}: {error}", self.ifb_name);
                }
            }
            Err(error) => note!("could not take back {}: {error}", self.ifb_name),
        }
    }
}
