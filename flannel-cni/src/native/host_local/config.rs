//! The config of host-local: the network config, mainly its `ipam`.

use flannel_core::family::Family;
use flannel_core::host_local::DATA_DIRECTORY;
use flannel_core::json::{GoStruct, Value};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::range::{RangeConf, RangeSet};
use crate::address::{parse_cidr, parse_ip};
use crate::args;
use crate::error::{CniError, Context};
use crate::request::Request;
use crate::result::Route;
use crate::version::Version;

/// Go's names of the struct and of the types of its members, in errors.
const STRUCT: &str = "Net";
const OBJECT: &str = "object";
const LIST: &str = "slice";

/// The config of host-local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// `<dataDir>/<network>`: the addresses in use.
    pub(crate) directory: PathBuf,
    pub(crate) network: String,
    pub(crate) sets: Vec<RangeSet>,
    pub(crate) routes: Vec<Route>,
    pub(crate) resolv_conf: Option<PathBuf>,
    /// Addresses that the runtime requests.
    pub(crate) requested: Vec<IpAddr>,
}

/// Returns the directory, which deletion needs even if other keys are invalid.
pub(crate) fn directory(request: &Request) -> PathBuf {
    let root = request.config.object("ipam").map(|ipam| ipam.text("dataDir"));
    Path::new(root.filter(|root| !root.is_empty()).unwrap_or(DATA_DIRECTORY)).join(&request.network)
}

impl Config {
    pub(crate) fn parse(request: &Request) -> Result<Self, CniError> {
        let keys = GoStruct::new(&request.config, STRUCT);
        let ipam = keys
            .object("ipam", OBJECT)?
            .ok_or_else(|| CniError::internal("IPAM config missing 'ipam' key"))?;
        let ipam = GoStruct::new(ipam, STRUCT);
        ipam.string("type")?;
        ipam.string("dataDir")?;
        let resolv_conf = ipam.string("resolvConf")?;
        let runtime = keys.object("runtimeConfig", OBJECT)?.map(|object| GoStruct::new(object, STRUCT));
        let sets = sets(ipam, runtime)?;
        if request.version < Version::V0_3_0 {
            let families: Vec<_> = sets.iter().map(RangeSet::family).collect();
            if families.iter().enumerate().any(|(at, family)| families[..at].contains(family)) {
                let msg = format!(
                    "CNI version {} does not support more than 1 address per family",
                    request.version
                );
                return Err(CniError::internal(msg));
            }
        }
        let routes = ipam.array("routes", LIST)?.iter().enumerate();
        Ok(Self {
            directory: directory(request),
            network: request.network.clone(),
            sets,
            routes: routes
                .map(|(at, route)| Route::parse(route, &format!("ipam.routes[{at}]")))
                .collect::<Result<_, _>>()?,
            resolv_conf: resolv_conf.filter(|path| !path.is_empty()).map(PathBuf::from),
            requested: requested(keys, runtime, request.environment.args())?,
        })
    }

    /// Returns the families of which an ADD gets addresses.
    pub(crate) fn families(&self) -> Vec<Family> {
        let has = |family: &Family| self.sets.iter().any(|set| set.family() == Some(*family));
        Family::ALL.into_iter().filter(has).collect()
    }
}

/// Reads the sets in the order of their numbers: of the runtime, in the old style, of the config.
fn sets(ipam: GoStruct<'_>, runtime: Option<GoStruct<'_>>) -> Result<Vec<RangeSet>, CniError> {
    let mut confs: Vec<Vec<RangeConf>> = Vec::new();
    let read_set = |set: &Value, path: &str| -> Result<Vec<RangeConf>, CniError> {
        let ranges = set.as_array().ok_or_else(|| set.type_error(path, "allocator.RangeSet"))?;
        let range = |range: &Value| {
            let object = range.as_object().ok_or_else(|| range.type_error(path, "allocator.Range"))?;
            range_conf(GoStruct::new(object, STRUCT))
        };
        ranges.iter().map(range).collect()
    };
    if let Some(runtime) = runtime {
        for set in runtime.array("ipRanges", LIST)? {
            confs.push(read_set(set, "Net.runtimeConfig.ipRanges")?);
        }
    }
    let single = range_conf(ipam)?;
    if single.subnet.is_some() {
        confs.push(vec![single]);
    }
    for set in ipam.array("ranges", LIST)? {
        confs.push(read_set(set, "Net.ipam.ranges")?);
    }
    if confs.is_empty() {
        return Err(CniError::internal("no IP ranges specified"));
    }
    let sets = confs
        .iter()
        .enumerate()
        .map(|(at, set)| RangeSet::new(set).context(|| format!("invalid range set {at}")))
        .collect::<Result<Vec<_>, _>>()?;
    for (at, set) in sets.iter().enumerate() {
        if let Some(after) = sets[at + 1..].iter().position(|other| set.overlaps(other)) {
            let msg = format!("range set {at} overlaps with {}", at + 1 + after);
            return Err(CniError::internal(msg));
        }
    }
    Ok(sets)
}

fn range_conf(keys: GoStruct<'_>) -> Result<RangeConf, CniError> {
    let address = |name| -> Result<Option<IpAddr>, CniError> {
        let text = keys.string(name)?.filter(|text| !text.is_empty());
        Ok(text.map(parse_ip).transpose()?)
    };
    Ok(RangeConf {
        subnet: keys.string("subnet")?.map(parse_cidr).transpose()?,
        start: address("rangeStart")?,
        end: address("rangeEnd")?,
        gateway: address("gateway")?,
    })
}

/// Reads addresses from `CNI_ARGS`, `args.cni.ips` and `runtimeConfig.ips`; a prefix length is ignored.
fn requested(keys: GoStruct<'_>, runtime: Option<GoStruct<'_>>, args: &str) -> Result<Vec<IpAddr>, CniError> {
    let mut texts: Vec<&str> = args::value(args, "IP")?.into_iter().collect();
    let cni = keys.object("args", OBJECT)?.map(|args| GoStruct::new(args, STRUCT).object("cni", OBJECT));
    let cni = cni.transpose()?.flatten().map(|cni| GoStruct::new(cni, STRUCT));
    for holder in [cni, runtime].into_iter().flatten() {
        for ip in holder.array("ips", LIST)? {
            texts.push(ip.as_str().ok_or_else(|| ip.type_error("Net.ips", "string"))?);
        }
    }
    let parse = |text: &str| {
        let address = if text.contains('/') {
            parse_cidr(text).ok().map(|net| net.addr())
        } else {
            parse_ip(text).ok()
        };
        address.ok_or_else(|| CniError::internal(format!("cannot understand ip: {text}")))
    };
    let mut requested: Vec<IpAddr> = Vec::new();
    for text in texts {
        let address = parse(text)?;
        // Runtimes may pass the same one in several ways.
        if !requested.contains(&address) {
            requested.push(address);
        }
    }
    Ok(requested)
}

#[cfg(test)]
mod tests;
