//! The ConfigMap that the file with the network config comes from. Only flannelctl uses it: the daemon needs no right to read it.

use std::fmt;
use std::str::FromStr;

use crate::flag::Flag;
use crate::store::error::StoreOptionsError;

/// The flag of flannelctl that names the ConfigMap.
pub(in crate::store) const CONFIG_MAP: Flag = Flag::text(
    "kube-config-map",
    "NAMESPACE/NAME",
    "kube-flannel/kube-flannel-cfg",
    "ConfigMap with the network config in its key net-conf.json, or in another one: NAMESPACE/NAME/KEY",
)
.extension();

/// A key of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMap {
    namespace: String,
    name: String,
    /// The key of the network config.
    pub(super) key: String,
}

const NAMESPACE: &str = "kube-flannel";
const NAME: &str = "kube-flannel-cfg";
const KEY: &str = "net-conf.json";

impl ConfigMap {
    /// The ConfigMap of the manifest, in the namespace of the daemon.
    pub(super) fn of_namespace(namespace: Option<String>) -> Self {
        let namespace = namespace.unwrap_or_else(|| NAMESPACE.to_owned());
        Self { namespace, name: NAME.to_owned(), key: KEY.to_owned() }
    }

    /// Its path in the API.
    #[cfg(feature = "kubernetes")]
    pub(super) fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ConfigMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.key == KEY { Ok(()) } else { write!(f, "/{}", self.key) }
    }
}

impl FromStr for ConfigMap {
    type Err = StoreOptionsError;

    fn from_str(text: &str) -> Result<Self, StoreOptionsError> {
        let is_name = |part: &&str| {
            let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            !part.is_empty() && part.bytes().all(is_inner)
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, name, key) = match *parts {
            [namespace, name] => (namespace, name, KEY),
            [namespace, name, key] => (namespace, name, key),
            _ => ("", "", ""),
        };
        if [namespace, name, key].iter().all(is_name) {
            let [namespace, name, key] = [namespace, name, key].map(str::to_owned);
            return Ok(Self { namespace, name, key });
        }
        Err(StoreOptionsError(format!(
            "{} is {text:?}, but must be NAMESPACE/NAME or NAMESPACE/NAME/KEY; for example {0}={}",
            CONFIG_MAP.dashed(),
            CONFIG_MAP.default
        )))
    }
}
