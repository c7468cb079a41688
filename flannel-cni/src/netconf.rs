//! The network config on stdin, with the rules of Go's decoder for typed keys.

use flannel_core::json::{Object, SyntaxError, TypeError, Value};
use std::path::PathBuf;
use std::time::Duration;

use crate::environment::is_identifier;
use crate::error::{CniError, Code};
use crate::version;

pub(crate) use flannel_core::host_local::Attachment;

const SUBNET_FILE: &str = "/run/flannel/subnet.env";
const DATA_DIR: &str = "/var/lib/cni/flannel";
/// How long an ADD waits for flanneld to write its file. Runtimes give an ADD minutes, and try again.
const PATIENCE: Duration = Duration::from_secs(5);

/// The config of the flannel plugin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetConf {
    pub(crate) cni_version: String,
    pub(crate) name: String,
    pub(crate) subnet_file: PathBuf,
    pub(crate) data_dir: PathBuf,
    /// Maps: their members are found by exact name.
    pub(crate) delegate: Object,
    pub(crate) ipam: Object,
    pub(crate) runtime_config: Option<Object>,
    pub(crate) prev_result: Option<Value>,
    pub(crate) valid_attachments: ValidAttachments,
    /// Our key `native`: false makes every delegate a process of its own.
    pub(crate) native: bool,
    /// Our key `subnetFileTimeoutSeconds`.
    pub(crate) subnet_file_patience: Duration,
}

/// What a GC may keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ValidAttachments {
    /// The runtime does not say: nothing may be collected.
    Unknown,
    /// Everything but these is stale.
    Only(Vec<Attachment>),
}

/// A config that is not what the keys need.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetConfError {
    #[error("failed to load netconf")]
    Type(#[from] TypeError),
}

/// Reads stdin as far as every plugin must: a JSON object with a valid name.
pub(crate) fn parse_stdin(stdin: &[u8]) -> Result<Object, CniError> {
    let decoding = |error: &dyn std::fmt::Display| {
        CniError::new(Code::DecodingFailure, format!("error unmarshall network config: {error}"))
    };
    let config = match Value::parse(stdin).map_err(|error: SyntaxError| decoding(&error))? {
        Value::Object(config) => config,
        Value::Null => Object::new(),
        other => {
            let kind = other.kind();
            return Err(decoding(&format!(
                "json: cannot unmarshal {kind} into Go value of type types.PluginConf"
            )));
        }
    };
    let name = match config.field("name") {
        None => "",
        Some(Value::String(name)) => name,
        Some(other) => return Err(decoding(&other.type_error(".name", "string"))),
    };
    if name.is_empty() {
        return Err(CniError::new(Code::InvalidNetworkConfig, "missing network name"));
    }
    if !is_identifier(name) {
        return Err(CniError::new(Code::InvalidNetworkConfig, "invalid characters found in network name")
            .with_details(name));
    }
    Ok(config)
}

impl NetConf {
    /// Takes the keys that flannel knows; a wrong type anywhere is an error.
    pub(crate) fn parse(config: &Object) -> Result<Self, NetConfError> {
        check_base(config)?;
        Ok(Self {
            cni_version: string(config, "cniVersion")?.unwrap_or_default(),
            name: string(config, "name")?.unwrap_or_default(),
            subnet_file: string(config, "subnetFile")?.unwrap_or_else(|| SUBNET_FILE.to_owned()).into(),
            data_dir: string(config, "dataDir")?.unwrap_or_else(|| DATA_DIR.to_owned()).into(),
            delegate: map(config, "delegate")?.unwrap_or_default(),
            ipam: map(config, "ipam")?.unwrap_or_default(),
            runtime_config: map(config, "runtimeConfig")?,
            prev_result: map(config, "prevResult")?.map(Value::Object),
            valid_attachments: attachments(config)?,
            native: boolean(config, "native")?.unwrap_or(true),
            subnet_file_patience: patience(config)?,
        })
    }

    /// The same for DEL, which must clean up whatever the config has become: a key of a wrong type
    /// counts as absent. Answers also with what was wrong.
    pub(crate) fn parse_leniently(config: &Object) -> (Self, Option<NetConfError>) {
        match Self::parse(config) {
            Ok(conf) => (conf, None),
            Err(error) => {
                let text = |name| string(config, name).ok().flatten();
                let object = |name| map(config, name).ok().flatten();
                let conf = Self {
                    cni_version: version::text_of_config(config).unwrap_or_default().to_owned(),
                    name: text("name").unwrap_or_default(),
                    subnet_file: text("subnetFile").unwrap_or_else(|| SUBNET_FILE.to_owned()).into(),
                    data_dir: text("dataDir").unwrap_or_else(|| DATA_DIR.to_owned()).into(),
                    delegate: object("delegate").unwrap_or_default(),
                    ipam: object("ipam").unwrap_or_default(),
                    runtime_config: object("runtimeConfig"),
                    prev_result: None,
                    valid_attachments: ValidAttachments::Unknown,
                    native: boolean(config, "native").ok().flatten().unwrap_or(true),
                    subnet_file_patience: PATIENCE,
                };
                (conf, Some(error))
            }
        }
    }
}

/// The keys that all plugins have, checked for their types: what is wrong there makes a whole config
/// unusable, also one that was saved.
pub(crate) fn check_base(config: &Object) -> Result<(), TypeError> {
    for name in ["cniVersion", "name", "type"] {
        string(config, name)?;
    }
    if let Some(capabilities) = map(config, "capabilities")? {
        for (_, value) in capabilities.iter() {
            if !matches!(value, Value::Bool(_) | Value::Null) {
                return Err(value.type_error("NetConf.capabilities", "bool"));
            }
        }
    }
    if let Some(ipam) = config.field("ipam") {
        let ipam =
            ipam.as_object().ok_or_else(|| ipam.type_error("NetConf.ipam", "map[string]interface {}"))?;
        if let Some(kind) = ipam.field("type")
            && kind.as_str().is_none()
        {
            return Err(kind.type_error("NetConf.ipam.type", "string"));
        }
    }
    if let Some(dns) = config.field("dns") {
        crate::result::Dns::parse(dns, "NetConf.dns")?;
    }
    map(config, "prevResult")?;
    attachments(config)?;
    Ok(())
}

fn string(config: &Object, name: &str) -> Result<Option<String>, TypeError> {
    typed(config, name, "string", |value| value.as_str().map(str::to_owned))
}

fn map(config: &Object, name: &str) -> Result<Option<Object>, TypeError> {
    typed(config, name, "map[string]interface {}", |value| value.as_object().cloned())
}

fn boolean(config: &Object, name: &str) -> Result<Option<bool>, TypeError> {
    typed(config, name, "bool", |value| if let Value::Bool(value) = value { Some(*value) } else { None })
}

fn patience(config: &Object) -> Result<Duration, TypeError> {
    let seconds = typed(config, "subnetFileTimeoutSeconds", "uint16", |value| match value {
        Value::Number(number) => number.as_integer::<u16>(),
        _ => None,
    })?;
    Ok(seconds.map_or(PATIENCE, |seconds| Duration::from_secs(seconds.into())))
}

fn typed<T>(
    config: &Object,
    name: &str,
    wanted: &'static str,
    take: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, TypeError> {
    let Some(value) = config.field(name) else { return Ok(None) };
    take(value).map(Some).ok_or_else(|| value.type_error(&format!("NetConf.{name}"), wanted))
}

/// The list under its name of today or its historic one. A list that is `null` is an empty list.
pub(crate) fn attachments(config: &Object) -> Result<ValidAttachments, TypeError> {
    let mut known = ValidAttachments::Unknown;
    for name in ["cni.dev/attachments", "cni.dev/valid-attachments"] {
        let path = format!("NetConf.{name}");
        for value in config.fields(name) {
            let list = match value {
                Value::Null => &[],
                other => other.as_array().ok_or_else(|| other.type_error(&path, "[]types.GCAttachment"))?,
            };
            let entries = list.iter().map(|entry| attachment(entry, &path)).collect::<Result<_, _>>()?;
            known = ValidAttachments::Only(entries);
        }
    }
    Ok(known)
}

fn attachment(entry: &Value, path: &str) -> Result<Attachment, TypeError> {
    let object = entry.as_object().ok_or_else(|| entry.type_error(path, "types.GCAttachment"))?;
    let member = |name: &str| match object.field(name) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(other.type_error(&format!("{path}.{name}"), "string")),
    };
    Ok(Attachment { container_id: member("containerID")?, ifname: member("ifname")? })
}

#[cfg(test)]
mod tests;
