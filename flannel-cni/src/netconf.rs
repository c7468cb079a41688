//! The config of the flannel plugin, with the rules of Go's decoder for typed keys.

use flannel_core::cni::SAVED_CONFIGS;
use flannel_core::json::{GoStruct, Object, TypeError, Value};
use flannel_core::subnet_env;
use std::path::PathBuf;
use std::time::Duration;

use crate::request::valid_attachments;
use crate::result::Dns;

/// Go's type of a map.
const MAP: &str = "map[string]interface {}";
/// How long an ADD waits for flanneld to write `subnet.env`. Runtimes allow minutes for an ADD, and retry.
const SUBNET_FILE_TIMEOUT: Duration = Duration::from_secs(5);

/// The config of the flannel plugin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetConf {
    pub(crate) cni_version: String,
    pub(crate) name: String,
    pub(crate) subnet_file: PathBuf,
    pub(crate) data_dir: PathBuf,
    /// A map: its members are found by exact name, like those of `ipam`.
    pub(crate) delegate: Object,
    pub(crate) ipam: Object,
    pub(crate) runtime_config: Option<Object>,
    pub(crate) prev_result: Option<Value>,
    /// The key `native`: if false, every delegate runs in a process of its own.
    pub(crate) native: bool,
    /// The key `subnetFileTimeoutSeconds`.
    pub(crate) subnet_file_timeout: Duration,
}

impl NetConf {
    /// Reads the keys of flannel; a wrong type anywhere is an error.
    pub(crate) fn parse(config: &Object) -> Result<Self, TypeError> {
        match Self::parse_leniently(config) {
            (conf, None) => Ok(conf),
            (_, Some(problem)) => Err(problem),
        }
    }

    /// Reads the keys for a DEL, which must clean up even with an invalid config: a key of a wrong type
    /// counts as absent. Also returns the first error.
    pub(crate) fn parse_leniently(config: &Object) -> (Self, Option<TypeError>) {
        let keys = GoStruct::new(config, "NetConf");
        let mut problem = check_base(config).err();
        let path = |text: Option<&str>, default: &str| PathBuf::from(text.unwrap_or(default));
        let mut text = |name| lenient(keys.string(name), &mut problem);
        let (cni_version, name) = (text("cniVersion"), text("name"));
        let (subnet_file, data_dir) = (text("subnetFile"), text("dataDir"));
        let mut map = |name| lenient(keys.object(name, MAP), &mut problem).cloned();
        let (delegate, ipam) = (map("delegate"), map("ipam"));
        let (runtime_config, prev_result) = (map("runtimeConfig"), map("prevResult"));
        let native = lenient(keys.bool("native"), &mut problem);
        let patience: Option<u16> = lenient(keys.integer("subnetFileTimeoutSeconds", "uint16"), &mut problem);
        let conf = Self {
            cni_version: cni_version.unwrap_or_default().to_owned(),
            name: name.unwrap_or_default().to_owned(),
            subnet_file: path(subnet_file, subnet_env::PATH),
            data_dir: path(data_dir, SAVED_CONFIGS),
            delegate: delegate.unwrap_or_default(),
            ipam: ipam.unwrap_or_default(),
            runtime_config,
            prev_result: prev_result.map(Value::Object),
            native: native.unwrap_or(true),
            subnet_file_timeout: patience
                .map_or(SUBNET_FILE_TIMEOUT, |seconds| Duration::from_secs(seconds.into())),
        };
        (conf, problem)
    }
}

/// Returns what was read; keeps the first error.
fn lenient<T>(read: Result<Option<T>, TypeError>, problem: &mut Option<TypeError>) -> Option<T> {
    read.unwrap_or_else(|error| {
        problem.get_or_insert(error);
        None
    })
}

/// Checks the types of the keys that all plugins have: an error there makes the whole config unusable, including a
/// saved one.
pub(crate) fn check_base(config: &Object) -> Result<(), TypeError> {
    let keys = GoStruct::new(config, "NetConf");
    for name in ["cniVersion", "name", "type"] {
        keys.string(name)?;
    }
    if let Some(capabilities) = keys.object("capabilities", MAP)? {
        for (_, value) in capabilities.iter() {
            if !matches!(value, Value::Bool(_) | Value::Null) {
                return Err(value.type_error("NetConf.capabilities", "bool"));
            }
        }
    }
    if let Some(ipam) = keys.object("ipam", MAP)? {
        GoStruct::new(ipam, "NetConf.ipam").string("type")?;
    }
    if let Some(dns) = config.field("dns") {
        Dns::parse(dns, "NetConf.dns")?;
    }
    keys.object("prevResult", MAP)?;
    valid_attachments(config)?;
    Ok(())
}

#[cfg(test)]
mod tests;
