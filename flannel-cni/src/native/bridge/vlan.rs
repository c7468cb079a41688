//! VLANs of the port, and the interface with the gateway of a VLAN.

use flannel_core::json::{GoStruct, Object, TypeError, Value};
use flannel_core::link::LinkName;
use flannel_core::message::Request;
use flannel_core::message::bridge::{self, Membership};
use flannel_core::message::link::{self, LinkRecord};
use std::collections::BTreeSet;

use super::{load, vanished, veth};
use crate::error::{CniError, Context};
use crate::kernel::Kernel;
use crate::netns::HostLock;
use crate::sysctl;

/// The VLAN of untagged frames on a port that only has a trunk.
const DEFAULT_VLAN: u16 = 1;
const ACCESS_MAX: i64 = 4094;
/// How many changes to send to the kernel in one call.
const REQUESTS_MAX: usize = 256;

/// The VLANs of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vlans {
    /// The VLAN of untagged frames.
    pub(super) access: Option<u16>,
    /// The VLANs of tagged frames, in order.
    trunk: Vec<u16>,
    /// The port is also in the default VLAN of the bridge.
    keep_default: bool,
}

impl Vlans {
    /// Reads the VLANs; `None` if the config has none, so that the bridge need not filter by VLAN.
    pub(super) fn parse(config: &Object) -> Result<Option<Self>, CniError> {
        let keys = GoStruct::new(config, "NetConf");
        let access = keys.integer("vlan", "int").context(load)?.unwrap_or(0);
        if !(0..=ACCESS_MAX).contains(&access) {
            let msg = format!("invalid VLAN ID {access} (must be between 0 and 4094)");
            return Err(CniError::internal(msg));
        }
        let access = u16::try_from(access).ok().filter(|vlan| *vlan != 0);
        let trunk = keys.read("vlanTrunk", "[]*bridge.VlanTrunk", Value::as_array).context(load)?;
        let trunk = trunk.map(trunk_vlans).transpose()?;
        let keep_default = keys.bool("preserveDefaultVlan").context(load)?.unwrap_or_default();
        if access.is_none() && trunk.is_none() {
            return Ok(None);
        }
        Ok(Some(Self { access, trunk: trunk.unwrap_or_default(), keep_default }))
    }

    /// Returns the final VLANs of the port, given its present ones.
    fn wanted(&self, present: &[(u16, Membership)]) -> Vec<(u16, Membership)> {
        let mut wanted = if self.is_empty() || self.keep_default { present.to_vec() } else { Vec::new() };
        let untagged = self.access.or_else(|| (!self.trunk.is_empty()).then_some(DEFAULT_VLAN));
        // A VLAN that is both is untagged.
        let tagged = self.trunk.iter().filter(|vlan| untagged != Some(**vlan));
        let tagged = tagged.map(|vlan| (*vlan, Membership::Tagged));
        let added: Vec<_> =
            untagged.map(|vlan| (vlan, Membership::Access)).into_iter().chain(tagged).collect();
        wanted.retain(|(vlan, _)| !added.iter().any(|(other, _)| other == vlan));
        wanted.extend(added);
        wanted
    }

    fn is_empty(&self) -> bool {
        self.access.is_none() && self.trunk.is_empty()
    }

    /// Adds a port to its VLANs and removes it from others.
    pub(super) fn apply(&self, host: &mut Kernel, port: &LinkRecord) -> Result<(), CniError> {
        if self.is_empty() {
            return Ok(());
        }
        let index = port.index;
        let failed = || {
            let port = &port.name;
            format!(
                "failed to set the VLANs of {port}, which needs a kernel with CONFIG_BRIDGE_VLAN_FILTERING"
            )
        };
        let present = host.vlans(index).context(failed)?;
        let wanted = self.wanted(&present);
        // Deletions first: a port has only one VLAN of untagged frames.
        let gone = present.iter().filter(|(vlan, _)| !wanted.iter().any(|(other, _)| other == vlan));
        let new = wanted.iter().filter(|vlan| !present.contains(vlan));
        let requests: Vec<Request> = gone
            .map(|(vlan, _)| bridge::delete_vlan(index, *vlan))
            .chain(new.map(|(vlan, membership)| bridge::add_vlan(index, *vlan, *membership)))
            .collect();
        // A trunk may have thousands of VLANs.
        for chunk in requests.chunks(REQUESTS_MAX) {
            for outcome in host.change(chunk)? {
                outcome.context(failed)?;
            }
        }
        Ok(())
    }

    /// Whether a port is in all its VLANs.
    pub(super) fn are_of(&self, present: &[(u16, Membership)]) -> bool {
        self.wanted(present).iter().all(|vlan| present.contains(vlan))
    }
}

fn half(missing: &str) -> CniError {
    CniError::internal(format!("minID and maxID should be configured simultaneously, {missing} is missing"))
}

/// Returns the union of all ranges and single VLANs.
fn trunk_vlans(list: &[Value]) -> Result<Vec<u16>, CniError> {
    const PATH: &str = "NetConf.vlanTrunk";
    let mut vlans = BTreeSet::new();
    for entry in list {
        let keys = GoStruct::of(entry, PATH, "bridge.VlanTrunk").context(load)?;
        let id = |name: &'static str| -> Result<Option<u16>, CniError> {
            // Compatibility: the error names the list alone.
            let at_list = |error| TypeError { field: PATH.to_owned(), ..error };
            let id = keys.integer::<i64>(name, "int").map_err(at_list).context(load)?;
            let Some(id) = id else { return Ok(None) };
            let id = u16::try_from(id).ok().filter(|id| (1..=4094).contains(id));
            id.map(Some).ok_or_else(|| CniError::internal(format!("incorrect trunk {name} parameter")))
        };
        match (id("minID")?, id("maxID")?) {
            (Some(min), Some(max)) if min > max => {
                return Err(CniError::internal("minID is greater than maxID in trunk parameter"));
            }
            (Some(min), Some(max)) => vlans.extend(min..=max),
            (None, Some(_)) => return Err(half("minID")),
            (Some(_), None) => return Err(half("maxID")),
            (None, None) => {}
        }
        vlans.extend(id("id")?);
    }
    Ok(vlans.into_iter().collect())
}

/// Returns the interface with the gateway's address in a VLAN, `<bridge>.<vlan>`: one end of a pair whose other end is a port of the
/// bridge in that VLAN. Creates it if it does not exist.
pub(super) fn ensure_gateway(
    host: &mut Kernel,
    bridge: &LinkRecord,
    vlan: u16,
) -> Result<LinkRecord, CniError> {
    let text = format!("{}.{vlan}", bridge.name);
    let name: LinkName = text.parse()?;
    if let Some(found) = host.link(&name)?.filter(|found| found.link.up) {
        return Ok(found);
    }
    // No other process must see an incomplete one.
    let _lock = HostLock::take()?;
    let mut found = host.link(&name)?;
    // A process was killed before it was complete.
    if let Some(half) = found.take_if(|found| !found.link.up) {
        host.change_one(&link::delete(half.index)).context(|| format!("failed to delete {text}"))?;
    }
    if found.is_none() {
        let veth = veth::new(bridge, Some(bridge.link.mtu), name.clone())?;
        host.change_one(&link::create_veth(&veth)).context(|| format!("failed to create {text}"))?;
        let port = host.link(&veth.name)?.ok_or_else(|| vanished(&veth.name))?;
        let vlans = Vlans { access: Some(vlan), trunk: Vec::new(), keep_default: false };
        if let Err(error) = vlans.apply(host, &port) {
            // The other end is deleted as well, so that the next ADD starts over.
            let _ = host.change_one(&link::delete(port.index));
            return Err(error);
        }
    }
    let found = host.link(&name)?.ok_or_else(|| vanished(&name))?;
    sysctl::net().try_set(&format!("ipv6/conf/{text}/accept_ra"), "0");
    host.set_up(found.index, true).context(|| format!("failed to set {text} up"))?;
    Ok(found)
}

#[cfg(test)]
mod tests;
