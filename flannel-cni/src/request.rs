//! One operation as the runtime requests it, read once: the checked environment and the network config.

use flannel_core::host_local::Attachment;
use flannel_core::json::{GoStruct, Object, TypeError, Value};

use crate::environment::{Environment, is_identifier};
use crate::error::{CniError, Code};
use crate::result::CniResult;
use crate::version::Version;

/// A checked operation.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) environment: Environment,
    /// The name of the network.
    pub(crate) network: String,
    pub(crate) version: Version,
    /// The network config, from which each plugin reads its own keys.
    pub(crate) config: Object,
}

impl Request {
    /// `prevResult`, if it is an object. It must have a version of the same shape as the config.
    pub(crate) fn prev_result(&self) -> Result<Option<CniResult>, CniError> {
        let object = self.config.object("prevResult");
        object.map(|object| CniResult::from_prev_result(object, self.version)).transpose()
    }

    /// `prevResult`, without which a chained plugin has nothing to work on.
    pub(crate) fn chained_result(&self) -> Result<CniResult, CniError> {
        self.prev_result()?.ok_or_else(Self::not_chained)
    }

    pub(crate) fn not_chained() -> CniError {
        CniError::internal("must be called as chained plugin")
    }
}

/// Reads stdin as far as every plugin must: a JSON object with a valid name.
pub(crate) fn parse_config(stdin: &[u8]) -> Result<Object, CniError> {
    let decoding = |error: &dyn std::fmt::Display| {
        CniError::new(Code::DecodingFailure, format!("error unmarshall network config: {error}"))
    };
    let config = match Value::parse(stdin).map_err(|error| decoding(&error))? {
        Value::Object(config) => config,
        Value::Null => Object::new(),
        other => {
            let kind = other.kind();
            return Err(decoding(&format!(
                "json: cannot unmarshal {kind} into Go value of type types.PluginConf"
            )));
        }
    };
    let name =
        GoStruct::new(&config, "").string("name").map_err(|error| decoding(&error))?.unwrap_or_default();
    if name.is_empty() {
        return Err(CniError::new(Code::InvalidNetworkConfig, "missing network name"));
    }
    if !is_identifier(name) {
        return Err(CniError::new(Code::InvalidNetworkConfig, "invalid characters found in network name")
            .with_details(name));
    }
    Ok(config)
}

/// What a GC keeps, under its current name or its historic one; without a list, nothing may be collected. A list that is `null` is
/// an empty list.
pub(crate) fn valid_attachments(config: &Object) -> Result<Option<Vec<Attachment>>, TypeError> {
    let mut known = None;
    for name in ["cni.dev/attachments", "cni.dev/valid-attachments"] {
        let path = format!("NetConf.{name}");
        for value in config.fields(name) {
            let list = match value {
                Value::Null => &[],
                other => other.as_array().ok_or_else(|| other.type_error(&path, "[]types.GCAttachment"))?,
            };
            known = Some(list.iter().map(|entry| attachment(entry, &path)).collect::<Result<_, _>>()?);
        }
    }
    Ok(known)
}

fn attachment(entry: &Value, path: &str) -> Result<Attachment, TypeError> {
    let keys = GoStruct::of(entry, path, "types.GCAttachment")?;
    let member = |name| Ok(keys.string(name)?.unwrap_or_default().to_owned());
    Ok(Attachment { container_id: member("containerID")?, ifname: member("ifname")? })
}

#[cfg(test)]
mod tests;
