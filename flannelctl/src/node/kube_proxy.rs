//! kube-proxy on this node: how it decides which packets to services it masquerades.

use flannel_core::family::parse_net;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What is known of kube-proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KubeProxy {
    /// Where this is known from.
    pub(crate) source: String,
    /// `iptables`, `ipvs`, `nftables`; empty for its default.
    pub(crate) mode: String,
    /// The networks that it takes for those of the pods.
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// It masquerades all packets to services.
    pub(crate) masquerades_all: bool,
    /// The bit of the mark of packets to masquerade, if it is set.
    pub(crate) masquerade_bit: Option<u32>,
    /// What tells packets of pods of this node from others, and its value: a bridge, or the beginning of the names of interfaces.
    pub(crate) local: Local,
}

/// How kube-proxy recognizes packets of the pods of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Local {
    /// By their source, in the networks of the pods.
    #[default]
    ClusterCidr,
    /// By their source, in podCIDRs of the node.
    NodeCidr,
    /// They arrive on this bridge.
    Bridge(String),
    /// They arrive on an interface whose name begins so.
    Prefix(String),
}

/// `KubeProxyConfiguration`, in YAML or JSON.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    mode: String,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: String,
    detect_local_mode: String,
    detect_local: DetectLocal,
    iptables: Rules,
    nftables: Rules,
    ipvs: Rules,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DetectLocal {
    bridge_interface: String,
    interface_name_prefix: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rules {
    masquerade_all: bool,
    masquerade_bit: Option<u32>,
}

impl KubeProxy {
    /// Finds the process in this network namespace.
    pub(crate) fn running() -> Option<Result<Self, String>> {
        let own = fs::read_link("/proc/self/ns/net").ok()?;
        let numbers =
            fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut found = numbers.filter(|number| {
            let file = |name: &str| Path::new("/proc").join(number).join(name);
            fs::read_to_string(file("comm")).is_ok_and(|name| name.trim() == "kube-proxy")
                && fs::read_link(file("ns/net")).is_ok_and(|other| other == own)
        });
        let number = found.next()?;
        let process = Path::new("/proc").join(&number);
        let line = fs::read(process.join("cmdline")).ok()?;
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let source = format!("process {number}");
        let Some(file) = value(&words, "config") else { return Some(Ok(Self::of_flags(source, &words))) };
        // As that process sees it.
        let path = process.join("root").join(file.trim_start_matches('/'));
        let source = format!("{source}: {file}");
        Some(match fs::read_to_string(path) {
            Ok(text) => Self::of_config(source, &text),
            Err(error) => Err(format!("could not read the configuration of kube-proxy, {source}: {error}")),
        })
    }

    /// Reads a configuration file.
    pub(crate) fn of_config(source: String, text: &str) -> Result<Self, String> {
        let Config { mode, cluster_cidr, detect_local_mode, detect_local, iptables, nftables, ipvs } =
            serde_saphyr::from_str(text)
                .map_err(|error| format!("the configuration of kube-proxy ({source}) is invalid: {error}"))?;
        let rules = match mode.as_str() {
            "nftables" => nftables,
            // The bit is that of iptables, which ipvs uses, too.
            "ipvs" => Rules { masquerade_all: ipvs.masquerade_all || iptables.masquerade_all, ..iptables },
            _ => iptables,
        };
        let DetectLocal { bridge_interface, interface_name_prefix } = detect_local;
        Ok(Self {
            source,
            cluster_cidrs: nets(&cluster_cidr),
            masquerades_all: rules.masquerade_all,
            masquerade_bit: rules.masquerade_bit,
            local: Local::new(&detect_local_mode, bridge_interface, interface_name_prefix),
            mode,
        })
    }

    /// Reads a command line without a configuration file.
    fn of_flags(source: String, words: &[String]) -> Self {
        let text = |name: &str| value(words, name).unwrap_or_default();
        let is_set = |name: &str| {
            words.iter().any(|word| *word == format!("--{name}") || *word == format!("--{name}=true"))
        };
        Self {
            source,
            mode: text("proxy-mode"),
            cluster_cidrs: nets(&text("cluster-cidr")),
            masquerades_all: is_set("masquerade-all"),
            masquerade_bit: text("iptables-masquerade-bit").parse().ok(),
            local: Local::new(
                &text("detect-local-mode"),
                text("pod-bridge-interface"),
                text("pod-interface-name-prefix"),
            ),
        }
    }

    /// Reads its rules: texts of iptables-save, and of `nft -j list ruleset`. `None` if there are none.
    pub(crate) fn of_rules(texts: &[String]) -> Option<Self> {
        let mut found = Self { source: "its firewall rules".to_owned(), ..Self::default() };
        let mut cidrs = BTreeSet::new();
        for text in texts {
            match serde_json::from_str::<Value>(text) {
                Ok(ruleset) => found.add_nftables(&ruleset, &mut cidrs),
                Err(_) => found.add_iptables(text, &mut cidrs),
            }
        }
        found.cluster_cidrs = cidrs.into_iter().collect();
        (!found.mode.is_empty()).then_some(found)
    }

    /// Packets whose source is not in the network of the pods are marked: `-A KUBE-SVC-X ! -s NETWORK … -j KUBE-MARK-MASQ`.
    fn add_iptables(&mut self, text: &str, cidrs: &mut BTreeSet<IpNet>) {
        for line in
            text.lines().filter(|line| line.starts_with("-A KUBE-") && line.ends_with("-j KUBE-MARK-MASQ"))
        {
            let mode = if line.contains("--match-set KUBE-") { "ipvs" } else { "iptables" };
            mode.clone_into(&mut self.mode);
            let source = line.split_once(" ! -s ").and_then(|(_, rest)| rest.split(' ').next());
            cidrs.extend(source.and_then(parse_net));
        }
    }

    /// The same in its table: `ip daddr @cluster-ips ip saddr != NETWORK meta mark set …`.
    fn add_nftables(&mut self, ruleset: &Value, cidrs: &mut BTreeSet<IpNet>) {
        let rules = ruleset["nftables"].as_array().into_iter().flatten().map(|object| &object["rule"]);
        for rule in rules.filter(|rule| rule["table"] == "kube-proxy") {
            "nftables".clone_into(&mut self.mode);
            let parts = || rule["expr"].as_array().into_iter().flatten();
            let marks = parts().any(|part| part["mangle"].is_object());
            let sources = parts()
                .map(|part| &part["match"])
                .filter(|part| marks && part["op"] == "!=" && part["left"]["payload"]["field"] == "saddr");
            let net = |part: &Value| {
                let prefix = &part["right"]["prefix"];
                parse_net(&format!("{}/{}", prefix["addr"].as_str()?, prefix["len"]))
            };
            cidrs.extend(sources.filter_map(net));
        }
    }
}

impl Local {
    fn new(mode: &str, bridge: String, prefix: String) -> Self {
        match mode {
            "NodeCIDR" => Self::NodeCidr,
            "BridgeInterface" => Self::Bridge(bridge),
            "InterfaceNamePrefix" => Self::Prefix(prefix),
            _ => Self::ClusterCidr,
        }
    }
}

/// The value of a flag.
fn value(words: &[String], name: &str) -> Option<String> {
    let flag = format!("--{name}");
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if *word == flag {
            return words.next().cloned();
        }
        if let Some(value) = word.strip_prefix(&flag).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value.to_owned());
        }
    }
    None
}

fn nets(text: &str) -> Vec<IpNet> {
    text.split(',').filter_map(|net| parse_net(net.trim())).collect()
}

#[cfg(test)]
mod tests;
