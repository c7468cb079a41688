//! loopback: sets `lo` of a container up. The kernel gives it its addresses.

use flannel_core::family::Family;
use flannel_core::json::Value;
use flannel_core::link::LinkName;
use flannel_core::message::link::{self, LinkSettings};

use crate::environment::Environment;
use crate::error::CniError;
use crate::kernel::{Found, Kernel, KernelError};
use crate::netns::Netns;
use crate::plugin::{Plugin, Request};
use crate::result::{CniResult, Interface, Ip};
use crate::version;

/// The loopback plugin.
pub(crate) const PLUGIN: Plugin = Plugin {
    name: "loopback",
    add,
    del: |request| del(&request.environment).map(|()| String::new()),
    check: |request| check(&request.environment).map(|()| String::new()),
    gc: |_| Ok(String::new()),
    status: |_| Ok(String::new()),
};

#[derive(Debug, thiserror::Error)]
enum LoopbackError {
    #[error("the namespace has no interface lo")]
    Missing,
    #[error("failed to set lo {0}")]
    Set(&'static str, #[source] KernelError),
    #[error("loopback interface found with non-loopback address {0:?}")]
    Foreign(String),
    #[error("loopback interface is down")]
    Down,
}

fn add(request: &Request) -> Result<String, CniError> {
    let version = version::of_config(&request.config)?;
    // Checked before anything is done.
    let prev_result = match request.config.field("prevResult").and_then(Value::as_object) {
        Some(object) => Some(CniResult::from_prev_result(object, version)?),
        None => None,
    };
    let environment = &request.environment;
    let (mut pod, found) = open(&Netns::open(&environment.netns)?)?;
    set(&mut pod, &found, true)?;
    let addresses = pod.addresses(found.record.index, &Family::ALL)?;
    if let Some(foreign) = addresses.iter().find(|record| !record.facts.net.addr().is_loopback()) {
        return Err(LoopbackError::Foreign(foreign.facts.net.to_string()).into());
    }
    let ip = |family| {
        let mut nets = addresses.iter().map(|record| record.facts.net);
        let address = nets.find(|net| Family::of_net(*net) == family)?;
        Some(Ip { interface: Some(0), address, gateway: None })
    };
    let result = prev_result.unwrap_or_else(|| CniResult {
        interfaces: vec![Interface {
            name: "lo".to_owned(),
            mac: "00:00:00:00:00:00".to_owned(),
            sandbox: environment.netns.display().to_string(),
            ..Interface::default()
        }],
        ips: Family::ALL.into_iter().filter_map(ip).collect(),
        ..CniResult::default()
    });
    Ok(result.to_value(version)?.to_pretty())
}

fn del(environment: &Environment) -> Result<(), CniError> {
    if environment.netns.as_os_str().is_empty() {
        return Ok(());
    }
    let netns = match Netns::open(&environment.netns) {
        Err(error) if error.is_gone() => return Ok(()),
        other => other?,
    };
    let (mut pod, found) = open(&netns)?;
    set(&mut pod, &found, false)
}

fn check(environment: &Environment) -> Result<(), CniError> {
    let (_, found) = open(&Netns::open(&environment.netns)?)?;
    if found.record.link.up { Ok(()) } else { Err(LoopbackError::Down.into()) }
}

fn open(netns: &Netns) -> Result<(Kernel, Found), CniError> {
    let mut pod = netns.enter(Kernel::open)??;
    let name: LinkName = "lo".parse()?;
    let found = pod.link(&name)?.ok_or(LoopbackError::Missing)?;
    Ok((pod, found))
}

fn set(pod: &mut Kernel, found: &Found, up: bool) -> Result<(), CniError> {
    let settings = LinkSettings { up: Some(up), ..LinkSettings::default() };
    let verb = if up { "up" } else { "down" };
    Ok(pod
        .change_one(&link::set(found.record.index, &settings))
        .map_err(|error| LoopbackError::Set(verb, error))?)
}
