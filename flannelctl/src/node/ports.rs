//! The bridge ports of pods, according to the results of CNI plugins that the container runtime keeps.

use flannel_core::host_local::RESULTS;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The port of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Namespace and name in Kubernetes, otherwise the container.
    pub(crate) pod: String,
    pub(crate) bridge: String,
    /// The end of the veth pair on the host.
    pub(crate) link: String,
}

impl Port {
    /// Reads the ports of pods whose network namespace exists.
    pub(crate) fn all() -> Vec<Self> {
        let files = fs::read_dir(RESULTS).into_iter().flatten().flatten();
        let texts = files.filter_map(|file| fs::read(file.path()).ok());
        texts.filter_map(|text| Self::read(&serde_json::from_slice(&text).ok()?)).collect()
    }

    fn read(cache: &Value) -> Option<Self> {
        if !Path::new(cache["netns"].as_str()?).exists() {
            return None;
        }
        // The plugin lists the bridge, its port, and the interface of the pod.
        let interfaces = cache["result"]["interfaces"].as_array()?;
        let on_host = |interface: &&Value| interface["sandbox"].as_str().unwrap_or_default().is_empty();
        let names: Vec<&str> =
            interfaces.iter().filter(on_host).filter_map(|interface| interface["name"].as_str()).collect();
        let [bridge, link, ..] = *names else { return None };
        Some(Self { pod: pod(cache)?, bridge: bridge.to_owned(), link: link.to_owned() })
    }
}

fn pod(cache: &Value) -> Option<String> {
    let argument = |name: &str| {
        let pairs = cache["cniArgs"].as_array()?.iter();
        pairs.filter(|pair| pair[0] == name).find_map(|pair| pair[1].as_str())
    };
    match (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => Some(format!("{namespace}/{name}")),
        _ => cache["containerId"].as_str().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests;
