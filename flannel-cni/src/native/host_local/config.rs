//! The config of host-local: the whole network config, above all its `ipam`.

use flannel_core::json::{Object, TypeError, Value};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;

use super::range::{RangeConf, RangeError, RangeSet};
use crate::address::{ParseCidrError, ParseIpError, parse_cidr, parse_ip};
use crate::args::{self, ArgsError};
use crate::result::{ResultError, Route};
use crate::version::Version;

const DATA_DIR: &str = "/var/lib/cni/networks";

/// What host-local is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// `<dataDir>/<network>`: the addresses in use.
    pub(crate) directory: PathBuf,
    pub(crate) network: String,
    pub(crate) sets: Vec<RangeSet>,
    pub(crate) routes: Vec<Route>,
    pub(crate) resolv_conf: Option<PathBuf>,
    /// Addresses asked for by the runtime.
    pub(crate) requested: Vec<IpAddr>,
}

/// A config that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("IPAM config missing 'ipam' key")]
    NoIpam,
    #[error(transparent)]
    Type(#[from] TypeError),
    #[error(transparent)]
    Cidr(#[from] ParseCidrError),
    #[error(transparent)]
    Ip(#[from] ParseIpError),
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error("cannot understand ip: {0}")]
    Requested(String),
    #[error(transparent)]
    Route(ResultError),
    #[error("invalid range set {0}")]
    Set(usize, #[source] RangeError),
    #[error("range set {0} overlaps with {1}")]
    Overlap(usize, usize),
    #[error("no IP ranges specified")]
    NoRanges,
    #[error("CNI version {0} does not support more than 1 address per family")]
    OnePerFamily(Version),
}

/// The directory alone: what deletion needs, also from a config that is wrong elsewhere.
pub(crate) fn directory(config: &Object) -> PathBuf {
    let root = config
        .field("ipam")
        .and_then(Value::as_object)
        .and_then(|ipam| ipam.field("dataDir"))
        .and_then(Value::as_str)
        .filter(|root| !root.is_empty())
        .unwrap_or(DATA_DIR);
    PathBuf::from(root).join(config.field("name").and_then(Value::as_str).unwrap_or_default())
}

impl Config {
    pub(crate) fn parse(config: &Object, args: &str, version: Version) -> Result<Self, ConfigError> {
        let ipam = object(config, "ipam")?.ok_or(ConfigError::NoIpam)?;
        for name in ["dataDir", "resolvConf"] {
            text(ipam, name)?;
        }
        let runtime = object(config, "runtimeConfig")?;
        let sets = sets(ipam, runtime)?;
        if version < Version::V0_3_0 {
            let families: Vec<_> = sets.iter().map(RangeSet::family).collect();
            if families.iter().enumerate().any(|(at, family)| families[..at].contains(family)) {
                return Err(ConfigError::OnePerFamily(version));
            }
        }
        let routes = list(ipam, "routes")?.iter().enumerate();
        Ok(Self {
            directory: directory(config),
            network: text(config, "name")?.unwrap_or_default().to_owned(),
            sets,
            routes: routes
                .map(|(at, route)| {
                    Route::parse(route, &format!("ipam.routes[{at}]")).map_err(ConfigError::Route)
                })
                .collect::<Result<_, _>>()?,
            resolv_conf: text(ipam, "resolvConf")?.filter(|path| !path.is_empty()).map(PathBuf::from),
            requested: requested(config, runtime, args)?,
        })
    }
}

/// The sets in the order that numbers them: of the runtime, in the old style, of the config.
fn sets(ipam: &Object, runtime: Option<&Object>) -> Result<Vec<RangeSet>, ConfigError> {
    let mut confs: Vec<Vec<RangeConf>> = Vec::new();
    let read_set = |set: &Value, path: &str| -> Result<Vec<RangeConf>, ConfigError> {
        let ranges = set.as_array().ok_or_else(|| set.type_error(path, "allocator.RangeSet"))?;
        ranges
            .iter()
            .map(|range| {
                range_conf(range.as_object().ok_or_else(|| range.type_error(path, "allocator.Range"))?)
            })
            .collect()
    };
    if let Some(runtime) = runtime {
        for set in list(runtime, "ipRanges")? {
            confs.push(read_set(set, "Net.runtimeConfig.ipRanges")?);
        }
    }
    let single = range_conf(ipam)?;
    if single.subnet.is_some() {
        confs.push(vec![single]);
    }
    for set in list(ipam, "ranges")? {
        confs.push(read_set(set, "Net.ipam.ranges")?);
    }
    if confs.is_empty() {
        return Err(ConfigError::NoRanges);
    }
    let sets = confs
        .iter()
        .enumerate()
        .map(|(at, set)| RangeSet::new(set).map_err(|error| ConfigError::Set(at, error)))
        .collect::<Result<Vec<_>, _>>()?;
    for (at, set) in sets.iter().enumerate() {
        if let Some(after) = sets[at + 1..].iter().position(|other| set.overlaps(other)) {
            return Err(ConfigError::Overlap(at, at + 1 + after));
        }
    }
    Ok(sets)
}

fn range_conf(object: &Object) -> Result<RangeConf, ConfigError> {
    let address = |name| -> Result<Option<IpAddr>, ConfigError> {
        let text = text(object, name)?.filter(|text| !text.is_empty());
        Ok(text.map(parse_ip).transpose()?)
    };
    let subnet: Option<IpNet> = text(object, "subnet")?.map(parse_cidr).transpose()?;
    Ok(RangeConf {
        subnet,
        start: address("rangeStart")?,
        end: address("rangeEnd")?,
        gateway: address("gateway")?,
    })
}

/// From `CNI_ARGS`, `args.cni.ips` and `runtimeConfig.ips`; a prefix length is ignored.
fn requested(config: &Object, runtime: Option<&Object>, args: &str) -> Result<Vec<IpAddr>, ConfigError> {
    let mut texts: Vec<&str> = args::value(args, "IP")?.into_iter().collect();
    let cni = object(config, "args")?.map(|args| object(args, "cni")).transpose()?.flatten();
    for holder in [cni, runtime].into_iter().flatten() {
        for ip in list(holder, "ips")? {
            texts.push(ip.as_str().ok_or_else(|| ip.type_error("Net.ips", "string"))?);
        }
    }
    let parse = |text: &str| {
        let address = if text.contains('/') {
            parse_cidr(text).ok().map(|net| net.addr())
        } else {
            parse_ip(text).ok()
        };
        address.ok_or_else(|| ConfigError::Requested(text.to_owned()))
    };
    texts.into_iter().map(parse).collect()
}

fn object<'a>(parent: &'a Object, name: &str) -> Result<Option<&'a Object>, TypeError> {
    let Some(value) = parent.field(name) else { return Ok(None) };
    value.as_object().map(Some).ok_or_else(|| value.type_error(&format!("Net.{name}"), "object"))
}

fn text<'a>(parent: &'a Object, name: &str) -> Result<Option<&'a str>, TypeError> {
    let Some(value) = parent.field(name) else { return Ok(None) };
    value.as_str().map(Some).ok_or_else(|| value.type_error(&format!("Net.{name}"), "string"))
}

fn list<'a>(parent: &'a Object, name: &str) -> Result<&'a [Value], TypeError> {
    let Some(value) = parent.field(name) else { return Ok(&[]) };
    value.as_array().ok_or_else(|| value.type_error(&format!("Net.{name}"), "slice"))
}

#[cfg(test)]
mod tests;
