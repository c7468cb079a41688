//! Runs lists of CNI plugins the way libcni does, and keeps what they answered.

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::netns::Netns;
use crate::node::Node;
use crate::{program, wait};

/// Directories of CNI plugins: Debian's, and the one that runtimes use by default.
const CNI_DIRECTORIES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// A network configuration list.
#[derive(Clone, Debug)]
pub struct Conflist {
    name: String,
    version: String,
    plugins: Vec<Value>,
    /// Capability arguments of the runtime (`portMappings`, …), given to the plugins that declare them.
    capabilities: Map<String, Value>,
    /// Where plugins are looked for first.
    directory: Option<PathBuf>,
}

impl Conflist {
    /// The list that Go flannel's manifest installs, without `portmap`, which nothing needs here.
    #[must_use]
    pub fn flannel() -> Self {
        Self::new(
            "cbr0",
            "0.3.1",
            vec![json!({"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}})],
        )
    }

    /// A list of plugins.
    #[must_use]
    pub fn new(name: &str, version: &str, plugins: Vec<Value>) -> Self {
        let capabilities = Map::new();
        let directory = program("flannel").parent().map(Path::to_owned);
        Self { name: name.to_owned(), version: version.to_owned(), plugins, capabilities, directory }
    }

    /// Adds a plugin to the end of the chain.
    #[must_use]
    pub fn plugin(mut self, plugin: Value) -> Self {
        self.plugins.push(plugin);
        self
    }

    /// Sets a capability argument.
    #[must_use]
    pub fn capability(mut self, name: &str, value: Value) -> Self {
        self.capabilities.insert(name.to_owned(), value);
        self
    }

    /// Takes the plugins from here, and not those that were built together with this program.
    #[must_use]
    pub fn plugins_in(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Its plugins, in the order of ADD.
    #[must_use]
    pub fn plugins(&self) -> &[Value] {
        &self.plugins
    }

    /// The configuration that one plugin gets on stdin.
    #[must_use]
    pub fn config(&self, plugin: &Value, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["name"] = json!(self.name);
        config["cniVersion"] = json!(self.version);
        let declared = |name: &String| plugin["capabilities"][name.as_str()] == Value::Bool(true);
        let given: Map<String, Value> = self
            .capabilities
            .iter()
            .filter(|(name, _)| declared(name))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if !given.is_empty() {
            config["runtimeConfig"] = Value::Object(given);
        }
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        config
    }
}

/// A container's network namespace, attached to a node's network.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name, which is also its container id.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpNet>,
    /// What the chain of plugins answered.
    pub result: Value,
    /// What the plugins logged.
    pub log: String,
    node: Node,
    list: Conflist,
}

impl Node {
    /// Makes a pod with the list of Go flannel's manifest.
    pub fn add_pod(&self, name: &str) -> Result<Pod> {
        self.add_pod_with(name, &Conflist::flannel())
    }

    /// Makes a pod with a list of one's own.
    pub fn add_pod_with(&self, name: &str, list: &Conflist) -> Result<Pod> {
        let netns = Netns::create(&format!("{}-{name}", self.name()))?;
        let mut pod = Pod {
            name: netns.name().to_owned(),
            netns,
            addresses: Vec::new(),
            result: Value::Null,
            log: String::new(),
            node: self.clone(),
            list: list.clone(),
        };
        let mut result = None;
        for plugin in &list.plugins {
            let config = list.config(plugin, result.as_ref());
            let (answer, log) = pod.call("ADD", &config)?;
            let kind = &config["type"];
            result = Some(
                serde_json::from_str(&answer)
                    .with_context(|| format!("{kind} ADD: not a result: {answer}"))?,
            );
            pod.log += &log;
        }
        pod.result = result.context("a list without plugins")?;
        pod.addresses = addresses(&pod.result)?;
        pod.wait_usable()?;
        Ok(pod)
    }
}

impl Pod {
    /// The first address of a family.
    pub fn address(&self, v4: bool) -> Result<std::net::IpAddr> {
        self.addresses
            .iter()
            .map(IpNet::addr)
            .find(|address| address.is_ipv4() == v4)
            .with_context(|| format!("{} has no address of that family", self.name))
    }

    /// Detaches it (DEL in reverse order) and removes its namespace.
    pub fn delete(self) -> Result<()> {
        self.detach()?;
        self.netns.delete()
    }

    /// Runs DEL in reverse order and keeps the namespace.
    pub fn detach(&self) -> Result<()> {
        for plugin in self.list.plugins.iter().rev() {
            let config = self.list.config(plugin, Some(&self.result));
            self.call("DEL", &config)?;
        }
        Ok(())
    }

    /// Runs CHECK along the chain.
    pub fn check(&self) -> Result<()> {
        for plugin in &self.list.plugins {
            let config = self.list.config(plugin, Some(&self.result));
            self.call("CHECK", &config)?;
        }
        Ok(())
    }

    /// An IPv6 address is tentative for a moment even when nobody looks for duplicates.
    fn wait_usable(&self) -> Result<()> {
        wait::until(format!("the addresses of {} are usable", self.name), wait::LONG, || {
            let shown = self.netns.ip("-6 -o addr show scope global")?;
            anyhow::ensure!(!shown.contains("tentative"), "{}", shown.trim());
            Ok(())
        })
    }

    /// One plugin, one command; answers with its stdout and its stderr.
    fn call(&self, command: &str, config: &Value) -> Result<(String, String)> {
        let kind = config["type"].as_str().context("a plugin without a type")?;
        let own = self.list.directory.iter().map(|directory| directory.display().to_string());
        let directories: Vec<String> = own.chain(CNI_DIRECTORIES.map(str::to_owned)).collect();
        let file = directories
            .iter()
            .map(|directory| Path::new(directory).join(kind))
            .find(|file| file.is_file())
            .with_context(|| format!("no CNI plugin {kind} in {}", directories.join(":")))?;
        let output = self.start(&file, command, &directories.join(":"), &config.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        if !output.status.success() {
            bail!("{kind} {command} for {} failed ({}): {stdout} {stderr}", self.name, output.status);
        }
        Ok((stdout, stderr))
    }

    fn start(&self, file: &Path, command: &str, path: &str, config: &str) -> Result<Output> {
        let mut plugin = plugin(file, command, &self.name, &self.netns, path);
        let mut child = self.node.netns().spawn(&mut plugin)?;
        let mut stdin = child.stdin.take().context("stdin was asked for as a pipe")?;
        std::io::Write::write_all(&mut stdin, config.as_bytes())
            .context("could not write a plugin's config")?;
        drop(stdin);
        child.wait_with_output().context("could not wait for a plugin")
    }
}

/// The process of a plugin, with the environment and the pipes that a runtime gives it.
#[must_use]
pub fn plugin(file: &Path, command: &str, container: &str, netns: &Netns, path: &str) -> Command {
    let mut plugin = Command::new(file);
    plugin
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", netns.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "")
        .env("CNI_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    plugin
}

/// Fails unless every pod reaches every other, also with packets of this size, and if one byte more
/// is refused.
pub fn all_reach_all(pods: &[Pod], v4: bool, mtu_bytes: u32) -> Result<()> {
    for from in pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            let address = to.address(v4)?;
            from.netns.wait_ping(address)?;
            from.netns.ping_full(address, mtu_bytes).with_context(|| format!("from {}", from.name))?;
            if from.name == pods[0].name {
                from.netns.ping_too_large(address, mtu_bytes)?;
            }
        }
    }
    Ok(())
}

/// The addresses in a result, IPv4 first.
fn addresses(result: &Value) -> Result<Vec<IpNet>> {
    let mut found = Vec::new();
    for ip in result["ips"].as_array().context("a result without addresses")? {
        let text = ip["address"].as_str().context("an address that is not text")?;
        found.push(text.parse::<IpNet>().with_context(|| format!("not an address: {text}"))?);
    }
    found.sort_by_key(|address| address.addr().is_ipv6());
    Ok(found)
}
