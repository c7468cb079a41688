//! What a row left in host and pod, as lines without random values.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::row::Row;
use crate::netns::{Netns, stdout_of};

/// Lines that describe host and pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) lines: BTreeSet<String>,
    /// Random words and what stands for them.
    names: Vec<(String, String)>,
}

/// Settings of the pod's interface.
const POD_SETTINGS: [&str; 7] = [
    "ipv4/conf/eth0/arp_notify",
    "ipv6/conf/eth0/accept_dad",
    "ipv6/conf/eth0/accept_ra",
    "ipv6/conf/eth0/disable_ipv6",
    "ipv6/conf/eth0/enhanced_dad",
    "ipv6/conf/eth0/keep_addr_on_down",
    "ipv6/conf/eth0/ndisc_notify",
];
/// The beginning of hardware addresses that rows choose; others are random.
const CHOSEN: &str = "02:00:00:00:";
const HOST_SETTINGS: [&str; 2] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];
/// Settings of each link of the host.
const LINK_SETTINGS: [(&str, &str); 2] = [("ipv4", "route_localnet"), ("ipv6", "accept_ra")];

impl State {
    /// Reads the state; the calling thread is in the namespace of the host.
    pub(super) fn observe(row: &Row, host: &Netns, pod: &Netns, plugins: &Path) -> Result<Self> {
        let mut state = Self::default();
        if row.uses_network() {
            state.network(host, pod, plugins)?;
        }
        for what in &row.observe {
            state.observe_more(what)?;
        }
        for directory in ["/var/lib/cni/networks", "/var/lib/cni/flannel"] {
            state.files(Path::new(directory))?;
        }
        Ok(state)
    }

    /// Adds links, addresses, routes and settings.
    fn network(&mut self, host: &Netns, pod: &Netns, plugins: &Path) -> Result<()> {
        let (on_host, in_pod) = (Network::read(host)?, Network::read(pod)?);
        self.name(&on_host, &in_pod, plugins);
        on_host.describe("host", self);
        in_pod.describe("pod", self);
        for link in &on_host.links {
            let name = link["ifname"].as_str().unwrap_or_default();
            for (family, setting) in LINK_SETTINGS.into_iter().filter(|_| name != "lo") {
                self.setting("host", &format!("{family}/conf/{name}/{setting}"));
            }
        }
        HOST_SETTINGS.iter().for_each(|setting| self.setting("host", setting));
        let mut settings = pod.enter(|| {
            let mut inside = Self { names: self.names.clone(), ..Self::default() };
            POD_SETTINGS.iter().for_each(|setting| inside.setting("pod", setting));
            Ok(inside.lines)
        })?;
        self.lines.append(&mut settings);
        Ok(())
    }

    /// Adds the result of ADD.
    pub(super) fn with_result(mut self, result: Option<&Value>) -> Self {
        if let Some(result) = result {
            self.flatten("result", result);
        }
        self
    }

    fn flatten(&mut self, path: &str, value: &Value) {
        match value {
            Value::Object(members) => {
                for (key, member) in members {
                    self.flatten(&format!("{path}.{key}"), member);
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.flatten(&format!("{path}[{at}]"), item);
                }
            }
            Value::String(text) => self.add(&format!("{path} {text}")),
            _ => self.add(&format!("{path} {value}")),
        }
        if value.as_object().is_some_and(serde_json::Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
        {
            self.add(&format!("{path} {value}"));
        }
    }

    /// Adds a line, without random words.
    fn add(&mut self, line: &str) {
        let line = self.names.iter().fold(line.to_owned(), |line, (name, symbol)| line.replace(name, symbol));
        self.lines.insert(line);
    }

    /// Gives names to random words: of veth pairs, hardware addresses and the directory of plugins.
    fn name(&mut self, host: &Network, pod: &Network, plugins: &Path) {
        let peer = pod.links.iter().find(|link| link["ifname"] == "eth0").map(|link| &link["link_index"]);
        for link in &host.links {
            let name = link["ifname"].as_str().unwrap_or_default();
            if is_random_veth(name) {
                let symbol = if Some(&link["ifindex"]) == peer { "vethP" } else { "vethX" };
                self.names.push((name.to_owned(), symbol.to_owned()));
            }
        }
        for (place, link) in
            host.links.iter().map(|link| ("", link)).chain(pod.links.iter().map(|link| ("pod-", link)))
        {
            let (name, mac) =
                (link["ifname"].as_str().unwrap_or("?"), link["address"].as_str().unwrap_or("?"));
            let is_chosen = mac.starts_with(CHOSEN);
            if mac != "00:00:00:00:00:00" && !is_chosen {
                let name =
                    self.names.iter().find(|(word, _)| word == name).map_or(name, |(_, symbol)| symbol);
                self.names.push((mac.to_owned(), format!("mac({place}{name})")));
            }
        }
        self.names.push((plugins.display().to_string(), "PLUGINS".to_owned()));
    }

    fn setting(&mut self, place: &str, name: &str) {
        if let Ok(value) = fs::read_to_string(Path::new("/proc/sys/net").join(name)) {
            self.add(&format!("{place} {name} {}", value.trim()));
        }
    }

    fn observe_more(&mut self, what: &str) -> Result<()> {
        match what {
            "iptables" => {
                self.rules("iptables", "iptables-save -t nat")?;
                self.rules("ip6tables", "ip6tables-save -t nat")
            }
            "nftables" => self.rules("nft", "nft -s list ruleset"),
            "vlans" => self.plain("vlan", "bridge -c=never vlan show"),
            "limits" => {
                self.plain("limit", "tc qdisc show")?;
                let devices: Vec<String> = self.names.iter().map(|(name, _)| name.clone()).collect();
                for device in
                    devices.iter().map(String::as_str).filter(|name| is_random_veth(name)).chain(["vethhost"])
                {
                    // Without such a device there are no filters.
                    if let Ok(text) = run(&format!("tc filter show dev {device} ingress")) {
                        text.lines().for_each(|line| self.add(&format!("filter {}", line.trim())));
                    }
                }
                Ok(())
            }
            _ => anyhow::bail!("nothing is called `{what}`"),
        }
    }

    fn plain(&mut self, label: &str, command: &str) -> Result<()> {
        for line in run(command)?.lines() {
            self.add(&format!("{label} {}", line.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        Ok(())
    }

    /// Adds rules with their places in their chains.
    fn rules(&mut self, label: &str, command: &str) -> Result<()> {
        let (mut table, mut chain, mut place) = (String::new(), String::new(), 0);
        for line in run(command)?.lines().map(str::trim) {
            if let Some(rule) = line.strip_prefix("-A ") {
                let (name, rule) = rule.split_once(' ').unwrap_or((rule, ""));
                place = if chain == name { place + 1 } else { 1 };
                name.clone_into(&mut chain);
                self.add(&format!("{label} {name} {place}: {rule}"));
            } else if let Some(name) = line.strip_prefix(':') {
                self.add(&format!("{label} chain {}", name.split(' ').next().unwrap_or_default()));
            } else if let Some(name) = line.strip_suffix(" {") {
                match name.strip_prefix("table ") {
                    Some(name) => name.clone_into(&mut table),
                    None => (chain, place) = (name.to_owned(), 0),
                }
                self.add(&format!("{label} {table} {name}"));
            } else if !line.is_empty() && !line.starts_with(['#', '*', '}']) && line != "COMMIT" {
                // What describes the chain is not counted.
                place += usize::from(!line.starts_with("comment ") && !line.starts_with("type "));
                self.add(&format!("{label} {table} {chain} {place}: {line}"));
            }
        }
        Ok(())
    }

    fn files(&mut self, directory: &Path) -> Result<()> {
        let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
        let status = fs::metadata(directory).context("could not read a directory")?;
        self.add(&format!("directory {} {:o}", directory.display(), status.permissions().mode() & 0o7777));
        for entry in entries {
            let path = entry.context("could not list files")?.path();
            let shown = path.display();
            let status = fs::metadata(&path).with_context(|| format!("could not read {shown}"))?;
            let mode = status.permissions().mode() & 0o7777;
            if status.is_dir() {
                self.files(&path)?;
            } else {
                let text = fs::read_to_string(&path).with_context(|| format!("could not read {shown}"))?;
                self.add(&format!("mode {shown} {mode:o}"));
                self.add(&format!("file {shown} {}", text.escape_debug()));
            }
        }
        Ok(())
    }
}

/// `veth` and 8 hexadecimal digits.
fn is_random_veth(name: &str) -> bool {
    name.strip_prefix("veth")
        .is_some_and(|rest| rest.len() == 8 && rest.chars().all(|c| c.is_ascii_hexdigit()))
}

fn run(line: &str) -> Result<String> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().context("an empty command")?);
    command.args(words).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("could not start `{line}`"))?;
    stdout_of(&command, &output)
}

/// Links with their addresses, and routes, as `ip` tells them.
struct Network {
    links: Vec<Value>,
    routes: Vec<Value>,
}

impl Network {
    /// In one process.
    fn read(netns: &Netns) -> Result<Self> {
        let text = netns.feed(&["ip", "-d", "-j", "-batch", "-"], "addr\nroute show table all\n")?;
        let mut lists = text.lines().map(|line| -> Result<Vec<Value>> {
            let items: Vec<Value> = serde_json::from_str(line).with_context(|| format!("ip: {line}"))?;
            // Addresses of other families and links are empty objects.
            Ok(items
                .into_iter()
                .filter(|item| item.as_object().is_some_and(|item| !item.is_empty()))
                .collect())
        });
        let mut next = || lists.next().context("ip did not answer")?;
        Ok(Self { links: next()?, routes: next()? })
    }

    fn describe(&self, place: &str, state: &mut State) {
        for link in self.links.iter().filter(|link| link["ifname"] != "lo" || place == "pod") {
            let name = link["ifname"].as_str().unwrap_or("?");
            for property in properties(link) {
                state.add(&format!("{place} link {name} {property}"));
            }
            for address in link["addr_info"].as_array().into_iter().flatten() {
                let text = |key: &str| address[key].as_str().unwrap_or_default();
                if text("scope") != "link" {
                    let broadcast = if text("broadcast").is_empty() { "" } else { " brd " };
                    let (local, length) = (text("local"), &address["prefixlen"]);
                    state.add(&format!(
                        "{place} address {name} {local}/{length}{broadcast}{}",
                        text("broadcast")
                    ));
                }
            }
        }
        for route in &self.routes {
            if let Some(text) = describe_route(route) {
                state.add(&format!("{place} route {text}"));
            }
        }
    }
}

/// The properties of a link that do not depend on time.
fn properties(link: &Value) -> Vec<String> {
    let has = |flag: &str| link["flags"].as_array().is_some_and(|flags| flags.iter().any(|one| one == flag));
    let (data, port) = (&link["linkinfo"]["info_data"], &link["linkinfo"]["info_slave_data"]);
    let (up, promiscuous) = (Value::Bool(has("UP")), Value::Bool(has("PROMISC")));
    let properties = [
        ("kind", &link["linkinfo"]["info_kind"]),
        ("mtu", &link["mtu"]),
        ("up", &up),
        ("mac", &link["address"]),
        ("queue", &link["txqlen"]),
        ("promiscuous", &promiscuous),
        ("master", &link["master"]),
        ("vlan_filtering", &data["vlan_filtering"]),
        ("hairpin", &port["hairpin"]),
        ("isolated", &port["isolated"]),
    ];
    let present = properties.into_iter().filter(|(_, value)| !value.is_null());
    present.map(|(key, value)| format!("{key} {}", value.to_string().trim_matches('"'))).collect()
}

/// Routes of the kernel for addresses of the host itself, and of link-local addresses, say nothing new.
fn describe_route(route: &Value) -> Option<String> {
    let text = |key: &str| route[key].as_str().unwrap_or_default();
    let destination = text("dst");
    let kind = text("type");
    if text("table") == "local"
        || matches!(kind, "multicast" | "anycast" | "local")
        || destination.starts_with("fe80:")
    {
        return None;
    }
    let mut line = destination.to_owned();
    for (word, key) in
        [("via", "gateway"), ("dev", "dev"), ("from", "prefsrc"), ("scope", "scope"), ("table", "table")]
    {
        if !text(key).is_empty() {
            line += &format!(" {word} {}", text(key));
        }
    }
    for key in ["protocol", "metric", "metrics"] {
        if !route[key].is_null() {
            line += &format!(" {key} {}", route[key].to_string().trim_matches('"'));
        }
    }
    Some(line)
}
