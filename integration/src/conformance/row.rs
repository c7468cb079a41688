//! The tables. A table is text:
//!
//! ```text
//! # A comment.
//! $net = {"type": "host-local"}           a macro, for any later line
//! observe: iptables                       what to look at besides links, addresses, routes and files
//! [title]                                 a section; it begins with the settings before the first one
//! plugins: bridge portmap                 the chain, in the order of ADD
//! base: "ipam": $net                      members of every config of the section, of the first plugin
//! base portmap: "snat": true              the same for another one
//! before: ip link add cni0 type bridge    run on the host first, or `before: pod ip …`
//! needs: portIsolation                    a key that older plugins lack: those are not compared
//! alone: REASON                           no others are compared, for a reason
//! compare: chosen                         only others that `--peer` names are compared, because the section takes long
//! kernel: bridge-vlan                     a feature without which every ADD of the section is refused
//! name | members | expected | setup       one row
//! ```
//!
//! **Members** replace those of the base with the same name; `!key` removes one, `CNI_ARGS=…` sets a variable of all commands and
//! `DEL.CNI_NETNS=…` of one, ` -> ` separates the plugins of a chain, and `raw` begins a whole config that is used
//! as it is. **Expected** is a list, separated by `; `: `ok`, or code and text of the error of ADD; `check CODE TEXT` and
//! `del CODE TEXT`; `left TEXT` for what may remain; `~id` for a deviation; `no TEXT` for what no line of the state contains; and parts of such lines.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::feature::Feature;
use crate::peer::Peer;

/// The parsed rows of a table.
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
}

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// `section: name`
    pub(super) name: String,
    /// The plugins of the chain with their configs.
    pub(super) plugins: Vec<(String, String)>,
    /// Command, if only one is meant; name; value.
    pub(super) variables: Vec<(Option<String>, String, String)>,
    /// Commands on the host, or after `pod ` in the pod.
    pub(super) before: Vec<String>,
    pub(super) observe: Vec<String>,
    pub(super) kernel: Option<Feature>,
    pub(super) expected: Expected,
    needs: Vec<String>,
    is_alone: bool,
    is_long: bool,
}

/// What a row expects of our plugins.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    pub(super) add: Option<Failure>,
    /// `None` where the default applies.
    pub(super) check: Option<Option<Failure>>,
    pub(super) del: Option<Failure>,
    pub(super) present: Vec<String>,
    pub(super) absent: Vec<String>,
    /// What DEL, or an ADD that fails, may leave of the pod.
    pub(super) left: Vec<String>,
    pub(super) deviations: Vec<String>,
}

/// An error: its code, and a part of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: i64,
    pub(super) text: String,
}

/// The settings of a section.
#[derive(Clone, Default)]
struct Section {
    title: String,
    plugins: Vec<String>,
    bases: BTreeMap<String, String>,
    before: Vec<String>,
    observe: Vec<String>,
    needs: Vec<String>,
    is_alone: bool,
    is_long: bool,
    kernel: Option<Feature>,
}

impl Table {
    /// Reads a table.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut macros: Vec<(String, String)> = Vec::new();
        let (mut header, mut section) = (Section::default(), Section::default());
        let mut rows = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let line = macros
                .iter()
                .rev()
                .fold(line.trim().to_owned(), |line, (name, value)| line.replace(name.as_str(), value));
            let line = line.as_str();
            let fault = || format!("line {number}: {line}");
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some((name, value)) = line.split_once(" = ").filter(|_| line.starts_with('$')) {
                macros.push((name.to_owned(), value.to_owned()));
            } else if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = Section { title: title.to_owned(), ..header.clone() };
            } else if line.contains(" | ") {
                rows.push(section.row(line).with_context(fault)?);
            } else if section.title.is_empty() {
                header.set(line).with_context(fault)?;
            } else {
                section.set(line).with_context(fault)?;
            }
        }
        let mut names: Vec<&str> = rows.iter().map(|row: &Row| row.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("two rows `{}`", pair[0]);
        }
        Ok(Self { rows })
    }
}

impl Section {
    fn set(&mut self, line: &str) -> Result<()> {
        let (setting, value) = line.split_once(": ").context("neither a setting nor a row")?;
        let words = || value.split_whitespace().map(str::to_owned);
        match setting.split_once(' ').unwrap_or((setting, "")) {
            ("plugins", "") => self.plugins = words().collect(),
            ("base", plugin) => {
                let first = self.plugins.first().context("`base` before `plugins`")?;
                let plugin = if plugin.is_empty() { first.clone() } else { plugin.to_owned() };
                self.bases.insert(plugin, value.to_owned());
            }
            ("before", "") => self.before.push(value.to_owned()),
            ("observe", "") => self.observe.extend(words()),
            ("needs", "") => self.needs.extend(words()),
            ("alone", "") => self.is_alone = true,
            ("compare", "") if value == "chosen" => self.is_long = true,
            ("kernel", "") => {
                let feature = Feature::ALL.iter().find(|feature| feature.name() == value);
                self.kernel = Some(*feature.context("no such feature")?);
            }
            _ => bail!("no setting `{setting}`"),
        }
        Ok(())
    }

    fn row(&self, line: &str) -> Result<Row> {
        let columns: Vec<&str> = line.split(" | ").map(str::trim).collect();
        ensure!((3..=4).contains(&columns.len()), "a row has 3 or 4 columns");
        let (mut variables, mut removed, mut members) = (Vec::new(), Vec::new(), columns[1]);
        loop {
            let (word, rest) = members.split_once(' ').unwrap_or((members, ""));
            if let Some(key) = word.strip_prefix('!') {
                removed.push(key.to_owned());
            } else if let Some((name, value)) = word.split_once('=').filter(|(name, _)| name.contains("CNI_"))
            {
                let (command, name) =
                    name.split_once('.').map_or((None, name), |(one, two)| (Some(one), two));
                variables.push((command.map(str::to_owned), name.to_owned(), value.to_owned()));
            } else {
                break;
            }
            members = rest.trim_start();
        }
        let parts: Vec<&str> = members.split(" -> ").collect();
        ensure!(parts.len() <= self.plugins.len(), "more configs than plugins");
        let mut plugins = Vec::new();
        for (at, plugin) in self.plugins.iter().enumerate() {
            let base = self.bases.get(plugin).map_or("", String::as_str);
            let part = parts.get(at).copied().unwrap_or_default();
            plugins.push((plugin.clone(), compose(plugin, base, part, &removed)?));
        }
        let setup = columns.get(3).into_iter().flat_map(|column| column.split("; ")).map(str::to_owned);
        Ok(Row {
            name: format!("{}: {}", self.title, columns[0]),
            plugins,
            variables,
            before: self.before.iter().cloned().chain(setup).collect(),
            observe: self.observe.clone(),
            kernel: self.kernel,
            expected: Expected::parse(columns[2])?,
            needs: self.needs.clone(),
            is_alone: self.is_alone,
            is_long: self.is_long,
        })
    }
}

/// Makes a config. Values remain as they are written.
fn compose(plugin: &str, base: &str, members: &str, removed: &[String]) -> Result<String> {
    if let Some(raw) = members.strip_prefix("raw ") {
        return Ok(raw.to_owned());
    }
    let read = |members: &str| -> Result<BTreeMap<String, Box<RawValue>>> {
        serde_json::from_str(&format!("{{{members}}}")).with_context(|| format!("not members: {members}"))
    };
    let mut config = read(&format!(r#""cniVersion": "1.0.0", "name": "net", "type": "{plugin}""#))?;
    config.extend(read(base)?);
    config.extend(read(members)?);
    config.retain(|key, _| !removed.contains(key));
    serde_json::to_string(&config).context("could not write a config")
}

impl Expected {
    fn parse(text: &str) -> Result<Self> {
        let mut expected = Self::default();
        for (at, item) in text.split("; ").map(str::trim).enumerate() {
            let (word, rest) = item.split_once(' ').unwrap_or((item, ""));
            match word {
                "ok" if at == 0 => {}
                _ if at == 0 => expected.add = Some(Failure::parse(item)?),
                "check" if rest == "ok" => expected.check = Some(None),
                "check" => expected.check = Some(Some(Failure::parse(rest)?)),
                "del" => expected.del = Some(Failure::parse(rest)?),
                "left" => expected.left.push(rest.to_owned()),
                "no" => expected.absent.push(rest.to_owned()),
                _ => match item.strip_prefix('~') {
                    Some(id) => expected.deviations.push(id.to_owned()),
                    None => expected.present.push(item.to_owned()),
                },
            }
        }
        Ok(expected)
    }
}

impl Failure {
    fn parse(text: &str) -> Result<Self> {
        let (code, text) = text.split_once(' ').unwrap_or((text, ""));
        let code = code.parse().with_context(|| format!("not the code of an error: {code}"))?;
        Ok(Self { code, text: text.to_owned() })
    }
}

impl Row {
    /// The version of its first config; `0.1.0` if it has none.
    pub(super) fn version(&self) -> String {
        let config: Value = serde_json::from_str(&self.plugins[0].1).unwrap_or_default();
        config["cniVersion"].as_str().filter(|version| !version.is_empty()).unwrap_or("0.1.0").to_owned()
    }

    /// Whether the peer has what the row is about.
    pub(super) fn is_comparable(&self, peer: &Peer) -> Result<bool> {
        if self.is_alone || self.is_long && !peer.is_chosen() {
            return Ok(false);
        }
        if self.version() == "1.1.0" && !peer.supports("1.1.0") {
            return Ok(false);
        }
        for (plugin, _) in &self.plugins {
            if !peer.has(plugin) {
                return Ok(false);
            }
        }
        let keyed = if self.plugins[0].0 == "flannel" { "bridge" } else { &self.plugins[0].0 };
        let knows = self.needs.iter().map(|key| peer.knows(keyed, key));
        Ok(knows.collect::<Result<Vec<_>>>()?.into_iter().all(|knows| knows))
    }

    /// Whether its plugins touch the network, not only files.
    pub(super) fn uses_network(&self) -> bool {
        self.plugins.iter().any(|(plugin, _)| plugin != "host-local")
    }

    /// Whether an ADD that fails may leave something that DEL removes.
    pub(super) fn leaves_state(&self) -> bool {
        self.plugins.len() > 1 || self.plugins[0].0 == "flannel"
    }

    /// The deviations that it names.
    pub(super) fn deviations(&self) -> impl Iterator<Item = &str> {
        self.expected.deviations.iter().map(String::as_str)
    }

    /// The row on a kernel that lacks features: what would succeed is refused.
    pub(super) fn without(&self, lacking: &[Feature]) -> Self {
        let mut row = self.clone();
        if self.kernel.is_some_and(|feature| lacking.contains(&feature)) && self.expected.add.is_none() {
            let add = Some(Failure { code: 999, text: "not supported".to_owned() });
            row.expected = Expected { add, ..Expected::default() };
        }
        row
    }
}

#[cfg(test)]
mod tests;
