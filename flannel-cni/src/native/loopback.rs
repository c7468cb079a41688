//! loopback: sets `lo` of a container up; the kernel assigns its addresses.

use flannel_core::family::Family;
use flannel_core::json::Value;
use flannel_core::link::LinkName;
use flannel_core::message::link::LinkRecord;

use crate::error::{CniError, Context};
use crate::kernel::Kernel;
use crate::netconf;
use crate::netns::Netns;
use crate::plugin::Plugin;
use crate::request::Request;
use crate::result::{CniResult, Interface, Ip};
use crate::version::Version;

/// The loopback plugin.
pub(crate) const PLUGIN: Plugin =
    Plugin { name: "loopback", oldest: Version::V0_1_0, add, del, check, gc: |_| Ok(()), status: |_| Ok(()) };

fn add(request: &Request) -> Result<Value, CniError> {
    // Checked before any change.
    netconf::check_base(&request.config).context(|| "failed to parse network config".to_owned())?;
    let prev_result = request.prev_result()?;
    let environment = &request.environment;
    let (mut pod, found) = open(&Netns::open(&environment.netns)?)?;
    set(&mut pod, &found, true)?;
    let addresses = pod.addresses(found.index, &Family::ALL)?;
    if let Some(foreign) = addresses.iter().find(|record| !record.facts.net.addr().is_loopback()) {
        let address = foreign.facts.net.to_string();
        let msg = format!("loopback interface found with non-loopback address {address:?}");
        return Err(CniError::internal(msg));
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
    result.to_value(request.version)
}

fn del(request: &Request) -> Result<(), CniError> {
    let Some(netns) = Netns::open_if_present(&request.environment.netns)? else { return Ok(()) };
    let (mut pod, found) = open(&netns)?;
    set(&mut pod, &found, false)
}

fn check(request: &Request) -> Result<(), CniError> {
    let (_, found) = open(&Netns::open(&request.environment.netns)?)?;
    if found.link.up { Ok(()) } else { Err(CniError::internal("loopback interface is down")) }
}

fn open(netns: &Netns) -> Result<(Kernel, LinkRecord), CniError> {
    let mut pod = netns.enter(Kernel::open)??;
    let name: LinkName = "lo".parse()?;
    let missing = || CniError::internal("the namespace has no interface lo");
    let found = pod.link(&name)?.ok_or_else(missing)?;
    Ok((pod, found))
}

fn set(pod: &mut Kernel, found: &LinkRecord, up: bool) -> Result<(), CniError> {
    pod.set_up(found.index, up).context(|| format!("failed to set lo {}", if up { "up" } else { "down" }))
}
