//! Every check by its id: the table of `docs/doctor.md`, of `doctor --list` and of the findings.

use serde::Serialize;
use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Pods do not work, or will not after the next change.
    Error,
    /// It works, but not as it should, or not for long.
    Warning,
    /// Good to know; no reason for another exit code.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// One check.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// Stable: scripts and runbooks name it.
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    /// What a finding of it means.
    pub(crate) meaning: &'static str,
    /// What mends it, in general; a finding names the command.
    pub(crate) mend: &'static str,
}

macro_rules! checks {
    ($($name:ident $id:literal $severity:ident $meaning:literal $mend:literal)*) => {
        $(pub(crate) const $name: Check =
            Check { id: $id, severity: Severity::$severity, meaning: $meaning, mend: $mend };)*
        /// All of them, in the order in which they are shown.
        pub(crate) const CHECKS: &[Check] = &[$($name),*];
    };
}

checks! {
    KERNEL_FEATURE "kernel-feature" Error
        "The kernel, or a program that is needed, cannot do what the network config asks for."
        "load the module or install the package; or choose another backend"
    IPV4_FORWARDING "ipv4-forwarding" Error
        "The node does not forward IPv4 packets to and from pods."
        "sysctl -w net.ipv4.ip_forward=1"
    IPV6_FORWARDING "ipv6-forwarding" Error
        "The node does not forward IPv6 packets to and from pods."
        "sysctl -w net.ipv6.conf.all.forwarding=1"
    IPV6_DISABLED "ipv6-disabled" Error
        "IPv6 is on in the network config and off on an interface that carries it."
        "sysctl -w net.ipv6.conf.IF.disable_ipv6=0"
    BR_NETFILTER "br-netfilter" Warning
        "Traffic between pods of this node bypasses the firewall: service addresses may fail. An error in iptables mode where the module is missing: flanneld does not start."
        "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1"
    RP_FILTER "rp-filter" Warning
        "The kernel drops overlay packets whose way back is another one: answers of services and of hosts outside the cluster."
        "sysctl -w net.ipv4.conf.IF.rp_filter=2 (and of `all`)"
    INTERFACE_MISSING "interface-missing" Error
        "No interface of this node can carry the traffic between nodes."
        "name one with --iface, or give it an address or the default route"
    NETWORK_OVERLAP "network-overlap" Error
        "Addresses or routes of this host are inside the network of the pods."
        "choose another Network, or move the host's"
    MTU_PATH "mtu-path" Error
        "Packets of the size that flanneld reckons with do not reach another node: large packets vanish."
        "set MTU of the backend, or of the interface, to what passes"
    PORT_CLOSED "port-closed" Error
        "The packet filter of this node drops what the tunnels of other nodes send."
        "accept udp dport 8472 (or the configured port) before the rule that drops"
    FORWARD_DROP "forward-drop" Error
        "The packet filter of this node drops forwarded traffic of pods: a rule, or a policy that no rule of flannel gets around."
        "accept the cluster's network before the rule or policy that drops"
    CHECKSUM_OFFLOAD "checksum-offload" Warning
        "Checksum offload of the tunnel is off (a fifth of the throughput), or packets with wrong checksums arrive."
        "ethtool -K flannel.1 tx-checksum-ip-generic on"

    STORE_UNREACHABLE "store-unreachable" Error
        "The store of leases does not answer. Traffic goes on; nothing new is learned."
        "start the store, or correct --etcd-endpoints or --lease-dir"
    STORE_SLOW "store-slow" Warning
        "The store answers slowly: changes of the cluster arrive late, and renewals come close to failing."
        "look at disk and network of etcd: etcdctl check perf"
    CLOCK_SKEW "clock-skew" Warning
        "The clock of this host and that of etcd differ: certificates and times in logs are off."
        "timedatectl set-ntp true"
    CONFIG_MISSING "config-missing" Error
        "The store has no network config."
        "flannelctl config set FILE"
    CONFIG_INVALID "config-invalid" Error
        "The network config of the store cannot be used."
        "flannelctl config set FILE"
    CONFIG_UNFIT "config-unfit" Error
        "The network config is sound, but cannot work on this host."
        "change the config, or the host"
    RECORD_MALFORMED "record-malformed" Error
        "A record cannot be read, so its node is not reached."
        "restart flanneld on its node, or delete the record"
    LEASE_MISSING "lease-missing" Error
        "This node runs flannel and the store has no lease of it: another node may get its subnet."
        "systemctl restart flanneld"
    LEASE_EXPIRING "lease-expiring" Error
        "The lease ends soon and was not renewed in time."
        "systemctl restart flanneld"
    LEASE_OVERLAP "lease-overlap" Error
        "Two leases share addresses; the older one counts."
        "flannelctl lease release SUBNET, of the younger"
    DUPLICATE_PUBLIC_ADDRESS "duplicate-public-address" Error
        "Two nodes publish one address, so packets for one of them reach the other."
        "give each node its own with --public-ip, release the wrong lease"
    DUPLICATE_VTEP_MAC "duplicate-vtep-mac" Error
        "Two nodes publish one VTEP MAC, as clones of a disk do: only one of them is reached."
        "remove /var/lib/flannel/vtep-*.json and the device on the clone, restart flanneld there"
    PEER_UNUSABLE "peer-unusable" Error
        "The lease of another node says nothing that this node can reach it by."
        "correct the config of flanneld on that node"

    DAEMON_DOWN "daemon-down" Error
        "flanneld does not run on this node, though it has: nothing is repaired, renewed or learned."
        "systemctl start flanneld"
    DAEMON_STUCK "daemon-stuck" Error
        "flanneld runs, but is stopped or does not answer."
        "systemctl restart flanneld"
    DAEMON_NOT_READY "daemon-not-ready" Error
        "flanneld runs and says that pods cannot be served."
        "journalctl -u flanneld"
    DAEMON_DUPLICATE "daemon-duplicate" Error
        "Two daemons of one store work on one network namespace: they undo each other's changes."
        "stop one of them"
    STATE_UNWRITABLE "state-unwritable" Error
        "flanneld cannot write its state: after a restart it knows less, or pods get no network."
        "mount it writable, or name another with --state-dir and --subnet-file"

    VTEP_MISSING "vtep-missing" Error
        "The tunnel device is not there."
        "start or restart flanneld"
    VTEP_WRONG "vtep-wrong" Error
        "A device has the name of the tunnel and cannot be it (VNI, port, local address, interface)."
        "start or restart flanneld, which makes it anew"
    VTEP_MAC "vtep-mac" Error
        "The tunnel device has another MAC than the one other nodes send to."
        "start or restart flanneld"
    VTEP_MTU "vtep-mtu" Error
        "The tunnel device has another MTU than follows from interface and config."
        "start or restart flanneld"
    VTEP_DOWN "vtep-down" Error
        "The tunnel device is down."
        "start or restart flanneld"
    VTEP_ADDRESS "vtep-address" Error
        "The tunnel device lacks its address, or has another one."
        "start or restart flanneld"
    VTEP_LEARNING "vtep-learning" Warning
        "The tunnel device learns addresses (or does not) against the config: a forged packet can divert traffic."
        "start or restart flanneld"
    VTEP_LEFTOVER "vtep-leftover" Warning
        "A tunnel device of an earlier config is left."
        "start or restart flanneld"
    FDB_MISSING "fdb-missing" Error
        "A node is not reached: the address of its tunnel end is not in the forwarding table."
        "start or restart flanneld"
    FDB_STALE "fdb-stale" Error
        "The forwarding table sends to an address that is not that of the node."
        "start or restart flanneld"
    NEIGHBOUR_WRONG "neighbour-wrong" Error
        "The MAC of a node's tunnel end is missing or wrong in the neighbour table."
        "start or restart flanneld"
    NEIGHBOUR_STALE "neighbour-stale" Warning
        "The neighbour table has an entry of a node that is gone."
        "start or restart flanneld"
    ROUTE_MISSING "route-missing" Error
        "There is no route to the subnet of a node."
        "start or restart flanneld"
    ROUTE_WRONG "route-wrong" Error
        "The route to the subnet of a node leads elsewhere."
        "start or restart flanneld"
    ROUTE_SHADOWED "route-shadowed" Error
        "A route of somebody else takes the traffic for the subnet of a node, or for a part of it."
        "ip route del DESTINATION"
    ROUTE_STALE "route-stale" Warning
        "A route of ours leads to a subnet that nobody holds."
        "start or restart flanneld"
    FIREWALL_RULES "firewall-rules" Error
        "The rules for masquerading and forwarding are missing, changed or in another order."
        "start or restart flanneld"
    FIREWALL_LEFTOVER "firewall-leftover" Warning
        "Rules of the firewall mode that is not in use are left, and act as well."
        "start or restart flanneld"

    SUBNET_ENV_MISSING "subnet-env-missing" Error
        "subnet.env is not there: no pod can be started."
        "start or restart flanneld"
    SUBNET_ENV_MISMATCH "subnet-env-mismatch" Error
        "subnet.env does not say what lease and config say (it is older, or was edited): new pods get wrong addresses."
        "start or restart flanneld"
    CNI_CONFIG_MISSING "cni-config-missing" Error
        "No CNI config uses flannel: the runtime gives pods no network."
        "write /etc/cni/net.d/10-flannel.conflist"
    CNI_CONFIG_INVALID "cni-config-invalid" Error
        "A CNI config file cannot be read; a runtime may refuse all of them."
        "correct or remove it"
    CNI_CONFIG_SHADOWED "cni-config-shadowed" Error
        "A CNI config of something else sorts first, and the runtime takes that one."
        "remove it, or rename it to sort behind flannel's"
    CNI_PLUGIN_MISSING "cni-plugin-missing" Error
        "A CNI plugin that the config names is not installed."
        "install it below /opt/cni/bin"
    BRIDGE_ADDRESS "bridge-address" Error
        "The pods' bridge has an address that is not of this node's subnet: new pods fail."
        "ip link del cni0, after the pods are gone from it"
    BRIDGE_MTU "bridge-mtu" Warning
        "The pods' bridge carries larger packets than fit the way to other nodes."
        "ip link set cni0 mtu N, and restart the pods"
    ADDRESS_LEAKED "address-leaked" Warning
        "Addresses are kept for pods that are gone."
        "flannelctl ipam release --leaked"
    ADDRESSES_EXHAUSTED "addresses-exhausted" Error
        "The subnet of this node has no free address: no pod can be started."
        "flannelctl ipam release --leaked, move pods, or give nodes larger subnets (SubnetLen)"
}

#[cfg(test)]
mod tests;
