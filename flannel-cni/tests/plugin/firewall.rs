//! Common code of the tests of masquerading and port mappings: a node with a choice of iptables programs, and calls of bridge and
//! portmap like those of a runtime.

use flannel_core::json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::support::{GO_PLUGINS, Netns, plugin};

/// Plugins: a directory of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugins {
    Go,
    Flannel,
}

pub(crate) const BOTH_WAYS: [(Plugins, Plugins); 3] =
    [(Plugins::Go, Plugins::Flannel), (Plugins::Flannel, Plugins::Go), (Plugins::Flannel, Plugins::Flannel)];

/// A node in a namespace.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    directory: tempfile::TempDir,
}

impl Node {
    /// A node with iptables of a variant, `nft` or `legacy`, or with the programs that a test puts into its directory.
    pub(crate) fn new(variant: &str) -> Self {
        let node = Self { netns: Netns::new("node"), directory: tempfile::tempdir().unwrap() };
        for directory in ["bin", "tools"] {
            fs::create_dir(node.path(directory)).unwrap();
        }
        for name in ["bridge", "host-local", "portmap"] {
            symlink(plugin(), node.path("bin").join(name)).unwrap();
        }
        for family in ["iptables", "ip6tables"] {
            for end in ["", "-restore", "-save"] {
                let program = format!("/usr/sbin/xtables-{variant}-multi");
                symlink(program, node.path("tools").join(format!("{family}{end}"))).unwrap();
            }
        }
        // Go's plugins need other programs as well.
        symlink("/usr/sbin/nft", node.path("tools").join("nft")).unwrap();
        symlink("/usr/sbin/conntrack", node.path("tools").join("conntrack")).unwrap();
        node.netns.sh(&["ip", "link", "set", "lo", "up"]);
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a program by a script; `REAL` in it is the directory of the real programs.
    pub(crate) fn replace_tool(&self, name: &str, script: &str) {
        let file = self.path("tools").join(name);
        let _ = fs::remove_file(&file);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Logs every start of an iptables program.
    pub(crate) fn log_starts(&self, variant: &str) {
        let (program, log) = (format!("xtables-{variant}-multi"), self.path("starts").display().to_string());
        self.replace_tool(&program, &format!("echo \"$1\" >> {log}\nexec /usr/sbin/{program} \"$@\""));
        for family in ["iptables", "ip6tables"] {
            let link = self.path("tools").join(family);
            fs::remove_file(&link).unwrap();
            symlink(self.path("tools").join(&program), link).unwrap();
        }
    }

    /// Returns what was started since the last call.
    pub(crate) fn starts(&self) -> String {
        let text = fs::read_to_string(self.path("starts")).unwrap_or_default();
        let _ = fs::remove_file(self.path("starts"));
        let mut starts: Vec<&str> = text.lines().collect();
        starts.sort_unstable();
        starts.join(" ")
    }

    /// Removes the programs of IPv6 temporarily.
    pub(crate) fn hide_v6(&self, hidden: bool) {
        let places = ["tools/ip6tables", "hidden"].map(|name| self.path(name));
        let [from, to] = if hidden { [&places[0], &places[1]] } else { [&places[1], &places[0]] };
        if from.symlink_metadata().is_ok() {
            fs::rename(from, to).unwrap();
        }
    }

    /// A node without any of these programs.
    pub(crate) fn remove_tools(&self) {
        fs::remove_dir_all(self.path("tools")).unwrap();
    }

    /// Runs a program of the chosen variant on the node.
    pub(crate) fn tool(&self, command: &[&str]) -> String {
        let program = self.path("tools").join(command[0]).display().to_string();
        self.netns.sh(&[&[program.as_str()], &command[1..]].concat())
    }

    /// Returns the rules of plugins in the `nat` tables of iptables, without counters and without permanent objects.
    pub(crate) fn rules(&self) -> String {
        let mut all = String::new();
        for save in ["iptables-save", "ip6tables-save"] {
            let text = self.tool(&[save, "-t", "nat"]);
            let ours = text.lines().filter(|line| line.contains("CNI-"));
            ours.for_each(|line| all.extend([line.split(" [").next().unwrap(), "\n"]));
        }
        all
    }

    pub(crate) fn bridge(&self, members: &str) -> String {
        let root = self.path("networks");
        let ipam = format!(
            r#"{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"10.244.1.0/24"}}],[{{"subnet":"2001:cafe:42:1::/64"}}]]}}"#,
            root.display()
        );
        format!(
            r#"{{"cniVersion":"0.4.0","name":"cbr0","type":"bridge","isDefaultGateway":true,"ipMasq":true,"ipam":{ipam}{members}}}"#
        )
    }

    #[expect(clippy::too_many_arguments, reason = "those of a call of a plugin")]
    pub(crate) fn run(
        &self,
        plugins: Plugins,
        plugin: &str,
        command: &str,
        id: &str,
        pod: &str,
        config: &str,
    ) -> Result<String, String> {
        self.run_for(plugins, plugin, command, (id, "eth0"), pod, config)
    }

    /// Runs a plugin; an error is what it printed.
    #[expect(clippy::too_many_arguments, reason = "those of a call of a plugin")]
    pub(crate) fn run_for(
        &self,
        plugins: Plugins,
        plugin: &str,
        command: &str,
        interface: (&str, &str),
        pod: &str,
        config: &str,
    ) -> Result<String, String> {
        let output = self.output(plugins, plugin, command, interface, pod, config, "");
        let stdout = String::from_utf8(output.stdout).unwrap();
        if output.status.success() {
            Ok(stdout)
        } else {
            Err(format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Runs the plugin with a fault; returns its output and whether the fault occurred.
    #[expect(clippy::too_many_arguments, reason = "those of a call of a plugin")]
    pub(crate) fn run_with_fault(
        &self,
        plugin: &str,
        command: &str,
        id: &str,
        pod: &str,
        config: &str,
        fault: &str,
    ) -> (Result<String, String>, bool) {
        let output = self.output(Plugins::Flannel, plugin, command, (id, "eth0"), pod, config, fault);
        let stdout = String::from_utf8(output.stdout).unwrap();
        let hit = String::from_utf8_lossy(&output.stderr).contains("fault: ");
        (if output.status.success() { Ok(stdout) } else { Err(stdout) }, hit)
    }

    #[expect(clippy::too_many_arguments, reason = "they are those of a call of a plugin")]
    pub(crate) fn output(
        &self,
        plugins: Plugins,
        plugin: &str,
        command: &str,
        (id, ifname): (&str, &str),
        pod: &str,
        config: &str,
        fault: &str,
    ) -> Output {
        let bin = match plugins {
            Plugins::Go => GO_PLUGINS.to_owned(),
            Plugins::Flannel => self.path("bin").display().to_string(),
        };
        let tools = self.path("tools").display().to_string();
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.netns.0, "/usr/bin/env", &format!("PATH={tools}")])
            .arg(format!("{bin}/{plugin}"))
            .envs([
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", id),
                ("CNI_NETNS", pod),
                ("CNI_IFNAME", ifname),
                ("CNI_ARGS", ""),
                ("CNI_PATH", &bin),
                ("FLANNEL_CNI_FAULT", fault),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin may fail before it reads.
        let _ = child.stdin.take().unwrap().write_all(config.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Returns the rules of plugins in nf_tables, except those of iptables.
    pub(crate) fn nftables(&self, table: &str) -> String {
        let family = table.split(' ').next().unwrap();
        self.netns.sh(&["nft", "list", "table", family, table.split(' ').nth(1).unwrap()])
    }

    /// Returns the allocated addresses.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let Ok(files) = fs::read_dir(self.path("networks/cbr0")) else { return Vec::new() };
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("10.") || name.contains(':')).collect();
        names.sort();
        names
    }
}

/// Returns a result on one line, for `prevResult`.
pub(crate) fn compact(result: &str) -> String {
    Value::parse(result.as_bytes()).unwrap().to_compact()
}
