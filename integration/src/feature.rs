//! What a machine may lack, and how to find out.

use anyhow::Result;
use std::fmt;
use std::path::Path;

use crate::netns::Netns;
use crate::topology::Lab;

/// Something that a test needs and that not every kernel or machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// VXLAN devices.
    Vxlan,
    /// IP-in-IP devices.
    Ipip,
    /// `WireGuard` devices.
    Wireguard,
    /// TUN devices.
    Tun,
    /// nftables and its program.
    Nft,
    /// iptables on nftables, both families.
    Iptables,
    /// iptables on its old kernel interface.
    IptablesLegacy,
    /// Bridged packets pass iptables, with settings in every namespace.
    BridgeNetfilter,
    /// Bridges that heed VLANs.
    BridgeVlan,
    /// Queueing that delays and loses packets.
    Netem,
    /// Queueing that limits a rate.
    Tbf,
    /// Devices that what a link receives is sent through.
    Ifb,
    /// The programs of etcd.
    Etcd,
    /// The reference CNI plugins.
    CniPlugins,
    /// containerd with what it starts containers by.
    Containerd,
    /// The low-level runtime of containers.
    Runc,
    /// Podman with its CNI backend, which version 5 has no more.
    Podman,
    /// The low-level runtime that podman can tell to do without cgroups.
    Crun,
    /// `openssl`, to make certificates.
    Openssl,
    /// `conntrack`, to look at translated connections.
    Conntrack,
    /// `tcpdump`, to look at packets.
    Tcpdump,
    /// `strace`, to count system calls.
    Strace,
    /// `curl`, by which the pages ask endpoints.
    Curl,
    /// `faketime`, for a program whose clock is wrong.
    Faketime,
    /// `promtool`, to check metrics and alert rules.
    Promtool,
    /// A browser, for pages.
    Chromium,
    /// systemd, to boot a host.
    Systemd,
    /// The package manager of Debian.
    Dpkg,
    /// The package manager of Fedora.
    Rpm,
    /// The program that Fedora's administrators use.
    Dnf,
    /// What makes repositories for it.
    Createrepo,
    /// What the runner builds for another processor.
    CrossBuild,
    /// That processor, for single programs.
    Emulator,
    /// Debian's packages, from which the runner takes iptables for the image.
    ImageIptables,
    /// etcd, the components of Kubernetes and helm, which the runner builds from Go modules.
    Kubernetes,
    /// The client of Kubernetes.
    Kubectl,
}

/// How a feature shows.
enum Probe {
    /// This command succeeds in a fresh namespace.
    Command(&'static str),
    /// This command succeeds, and says this.
    Says(&'static str, &'static str),
    /// One of these files exists.
    File(&'static [&'static str]),
    /// The runner has no reason against it in this variable.
    Runner(&'static str),
}

impl Feature {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Vxlan,
        Self::Ipip,
        Self::Wireguard,
        Self::Tun,
        Self::Nft,
        Self::Iptables,
        Self::IptablesLegacy,
        Self::BridgeNetfilter,
        Self::BridgeVlan,
        Self::Netem,
        Self::Tbf,
        Self::Ifb,
        Self::Etcd,
        Self::CniPlugins,
        Self::Containerd,
        Self::Runc,
        Self::Podman,
        Self::Crun,
        Self::Openssl,
        Self::Conntrack,
        Self::Tcpdump,
        Self::Strace,
        Self::Curl,
        Self::Faketime,
        Self::Promtool,
        Self::Chromium,
        Self::Systemd,
        Self::Dpkg,
        Self::Rpm,
        Self::Dnf,
        Self::Createrepo,
        Self::CrossBuild,
        Self::Emulator,
        Self::ImageIptables,
        Self::Kubernetes,
        Self::Kubectl,
    ];

    const fn describe(self) -> (&'static str, Probe) {
        match self {
            Self::Vxlan => ("vxlan", Probe::Command("ip link add probe type vxlan id 1 dstport 8472")),
            Self::Ipip => ("ipip", Probe::Command("ip link add probe type ipip local 127.0.0.1")),
            Self::Wireguard => ("wireguard", Probe::Command("ip link add probe type wireguard")),
            Self::Tun => ("tun", Probe::Command("ip tuntap add probe mode tun")),
            Self::Nft => ("nft", Probe::Command("nft add table inet probe")),
            Self::Iptables => ("iptables", Probe::Command("ip6tables -t nat -S")),
            Self::IptablesLegacy => ("iptables-legacy", Probe::Command("ip6tables-legacy -t nat -S")),
            Self::BridgeNetfilter => {
                ("bridge-netfilter", Probe::File(&["/proc/sys/net/bridge/bridge-nf-call-iptables"]))
            }
            Self::BridgeVlan => {
                ("bridge-vlan", Probe::Command("ip link add probe type bridge vlan_filtering 1"))
            }
            Self::Netem => ("netem", Probe::Command("tc qdisc add dev lo root netem loss 1%")),
            Self::Tbf => {
                ("tbf", Probe::Command("tc qdisc add dev lo root tbf rate 1mbit burst 16k latency 50ms"))
            }
            Self::Ifb => ("ifb", Probe::Command("ip link add probe type ifb")),
            Self::Etcd => ("etcd", Probe::Command("etcd --version")),
            Self::CniPlugins => ("cni-plugins", Probe::File(&["/usr/lib/cni/bridge", "/opt/cni/bin/bridge"])),
            Self::Containerd => ("containerd", Probe::Command("containerd-shim-runc-v2 -v")),
            Self::Runc => ("runc", Probe::Command("runc --version")),
            Self::Podman => ("podman", Probe::Says("podman --version", "version 4.")),
            Self::Crun => ("crun", Probe::Command("crun --version")),
            Self::Openssl => ("openssl", Probe::Command("openssl version")),
            Self::Conntrack => ("conntrack", Probe::Command("conntrack -C")),
            Self::Tcpdump => ("tcpdump", Probe::Command("tcpdump --version")),
            Self::Strace => ("strace", Probe::Command("strace --version")),
            Self::Curl => ("curl", Probe::Command("curl --version")),
            Self::Faketime => ("faketime", Probe::Command("faketime --version")),
            Self::Promtool => ("promtool", Probe::Command("promtool --version")),
            Self::Chromium => ("chromium", Probe::Command("chromium-headless-shell --version")),
            Self::Systemd => ("systemd", Probe::File(&["/lib/systemd/systemd"])),
            Self::Dpkg => ("dpkg", Probe::Command("dpkg --version")),
            Self::Rpm => ("rpm", Probe::Command("rpm --version")),
            Self::Dnf => ("dnf", Probe::Command("dnf --version")),
            Self::Createrepo => ("createrepo", Probe::Command("createrepo_c --version")),
            Self::CrossBuild => ("cross-build", Probe::Runner("FLANNEL_E2E_NOT_EMULATED")),
            Self::Emulator => ("emulator", Probe::Command("qemu-aarch64-static --version")),
            Self::ImageIptables => ("image-iptables", Probe::Runner("FLANNEL_E2E_NO_IMAGE_IPTABLES")),
            Self::Kubernetes => ("kubernetes", Probe::Runner("FLANNEL_E2E_NO_KUBERNETES")),
            Self::Kubectl => ("kubectl", Probe::Command("kubectl version --client")),
        }
    }

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.describe().0
    }

    /// Looks whether it is there; the reason if not. `scratch` is a namespace that nothing else uses.
    pub fn probe(self, scratch: &Netns) -> Result<(), String> {
        match self.describe().1 {
            Probe::Command(line) => {
                let result = scratch.run(line).map(drop);
                // Whether or not a device was made: the next probe uses the same name.
                let _ = scratch.ip("link del probe");
                result.map_err(|error| error.root_cause().to_string().replace('\n', " "))
            }
            Probe::Says(line, words) => match scratch.run(line) {
                Ok(said) if said.contains(words) => Ok(()),
                Ok(said) => Err(format!("`{line}` says {:?}, not {words:?}", said.trim())),
                Err(error) => Err(error.root_cause().to_string()),
            },
            Probe::File(files) if files.iter().any(|file| Path::new(file).exists()) => Ok(()),
            Probe::File(files) => Err(format!("{} is missing", files[0])),
            Probe::Runner(variable) => match std::env::var(variable) {
                Ok(reason) if reason.is_empty() => Ok(()),
                Ok(reason) => Err(reason),
                Err(_) => Err(format!("{variable} is not set: `cargo xtask e2e` sets it")),
            },
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a test cannot run here.
#[derive(Debug)]
pub(crate) struct Skip {
    feature: Feature,
    reason: String,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {}: {}", self.feature, self.reason)
    }
}

impl std::error::Error for Skip {}

impl Lab {
    /// Ends the test as skipped, with the reason, where one of these features is missing; as failed, if
    /// it was asked for with `--require`.
    pub fn require(&self, features: &[Feature]) -> Result<()> {
        let scratch = Netns::create("probe")?;
        let required = std::env::var("FLANNEL_E2E_REQUIRE").unwrap_or_default();
        for &feature in features {
            let Err(reason) = feature.probe(&scratch) else { continue };
            if required.split(',').any(|name| name == feature.name()) {
                anyhow::bail!("{feature} was required and is missing: {reason}");
            }
            return Err(Skip { feature, reason }.into());
        }
        scratch.delete()
    }
}
