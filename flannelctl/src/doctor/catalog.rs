//! All checks of the doctor. `docs/doctor.md`, `doctor --list` and the findings are made from this list.

use serde::Serialize;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Pods do not work, or will not after the next change.
    Error,
    /// Pods work, but slowly, partly or not for long.
    Warning,
}

impl Severity {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A check.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// Stable, because scripts and runbooks refer to it.
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    /// The problem that a finding reports.
    pub(crate) problem: &'static str,
    /// How to fix it. A finding may have a more specific command.
    pub(crate) fix: &'static str,
}

/// The fix of a check that states none: at its start, the daemon repairs the node.
pub(crate) const RESTART: &str = "systemctl restart flanneld";

macro_rules! checks {
    ($($name:ident $id:literal $severity:ident $problem:literal $($fix:literal)?)*) => {
        $(pub(crate) const $name: Check =
            Check { id: $id, severity: Severity::$severity, problem: $problem, fix: [$($fix,)? RESTART][0] };)*
        /// All checks, in the order of the output.
        pub(crate) const CHECKS: &[Check] = &[$($name),*];
    };
}

checks! {
    KERNEL_FEATURE "kernel-feature" Error
        "The kernel lacks a feature, or a program is missing, that the network config requires."
        "load the module or install the package, or choose another backend"
    IPV4_FORWARDING "ipv4-forwarding" Error
        "The node does not forward IPv4 packets of pods."
        "sysctl -w net.ipv4.ip_forward=1"
    IPV6_FORWARDING "ipv6-forwarding" Error
        "The node does not forward IPv6 packets of pods."
        "sysctl -w net.ipv6.conf.all.forwarding=1"
    ACCEPT_RA "accept-ra" Error
        "An interface that forwards ignores router advertisements, so this host loses its routes from them, mostly the IPv6 default route."
        "sysctl -w net.ipv6.conf.IF.accept_ra=2"
    IPV6_DISABLED "ipv6-disabled" Error
        "IPv6 is enabled in the network config and disabled on an interface."
        "sysctl -w net.ipv6.conf.IF.disable_ipv6=0"
    BR_NETFILTER "br-netfilter" Warning
        "Traffic between pods of this node bypasses the firewall, so service addresses may fail. Severity error in iptables mode without the module: flanneld does not start."
        "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1"
    RP_FILTER "rp-filter" Warning
        "The kernel drops overlay packets that arrive on an asymmetric path, such as replies of services and of hosts outside the cluster."
        "sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.IF.rp_filter=2"
    INTERFACE_MISSING "interface-missing" Error
        "No interface is suitable for traffic between nodes."
        "specify an interface with --iface, or add an address or a default route"
    NETWORK_OVERLAP "network-overlap" Error
        "Addresses or routes of this host overlap the pod network."
        "choose another Network, or change the addresses of the host"
    MTU_PATH "mtu-path" Error
        "The largest packets that flanneld sends do not reach another node, so large packets are lost."
        "set MTU of the backend, or of the interface, to the size that passes"
    PORT_CLOSED "port-closed" Error
        "The packet filter of this node drops tunnel packets of other nodes."
        "accept udp dport 8472 (or the configured port) before the rule that drops"
    FORWARD_DROP "forward-drop" Error
        "The packet filter of this node drops forwarded packets of pods, by a rule or by a policy."
        "accept the pod network before the rule or policy that drops"
    CHECKSUM_OFFLOAD "checksum-offload" Warning
        "Checksum offload of the tunnel device is off, which costs a fifth of the throughput, or packets with invalid checksums arrive."
        "ethtool -K flannel.1 tx-checksum-ip-generic on"

    STORE_UNREACHABLE "store-unreachable" Error
        "The store is unreachable. Traffic continues, but changes of the cluster do not arrive."
        "start the store, or correct --etcd-endpoints or --lease-dir"
    STORE_SLOW "store-slow" Warning
        "The store responds slowly: changes of the cluster arrive late, and renewals may time out."
        "check disk and network of etcd: etcdctl check perf"
    CLOCK_SKEW "clock-skew" Warning
        "The clocks of this host and of etcd differ, which affects certificates and times in logs."
        "timedatectl set-ntp true"
    CONFIG_MISSING "config-missing" Error
        "The store has no network config."
        "flannelctl config set FILE"
    CONFIG_INVALID "config-invalid" Error
        "The network config in the store is invalid."
        "flannelctl config set FILE"
    CONFIG_UNFIT "config-unfit" Error
        "The network config is valid, but unsupported on this host."
        "change the network config with flannelctl config edit, or the host"
    RECORD_MALFORMED "record-malformed" Error
        "A lease record is malformed, so its node is unreachable."
        "restart flanneld on its node, or delete the record: flannelctl lease release KEY"
    LEASE_MISSING "lease-missing" Error
        "This node runs flannel, but has no lease in the store, so another node may acquire its subnet."
    LEASE_EXPIRING "lease-expiring" Error
        "The lease expires soon and was not renewed in time."
    LEASE_OVERLAP "lease-overlap" Error
        "Two leases overlap; the older one takes precedence."
        "flannelctl lease release SUBNET, for the newer lease"
    DUPLICATE_PUBLIC_ADDRESS "duplicate-public-address" Error
        "Two nodes publish the same address, so packets for one of them reach the other."
        "set a different --public-ip on each node, and release the incorrect lease"
    DUPLICATE_VTEP_MAC "duplicate-vtep-mac" Error
        "Two nodes publish the same VTEP MAC, for example clones of a disk, so only one of them is reachable."
        "on the clone, remove /var/lib/flannel/vtep-*.json and the device, then restart flanneld"
    PEER_UNUSABLE "peer-unusable" Error
        "The lease of another node lacks the data to reach it, or with host-gw the node is not on the link of this one."
        "correct the configuration of flanneld on that node, or the route that the finding names"

    POD_CIDR_MISSING "pod-cidr-missing" Error
        "The Kubernetes node of this host does not exist, or has no podCIDR of a family of the network config, so pods cannot start."
        "run kube-controller-manager with --allocate-node-cidrs=true and --cluster-cidr equal to the network; see the finding"
    POD_CIDR_OUTSIDE "pod-cidr-outside" Error
        "The podCIDR of the Kubernetes node of this host is outside of the network, so pods cannot start."
        "set --cluster-cidr of kube-controller-manager or Network to the same prefix; a node keeps its podCIDR until it is created again"
    NODE_CIDR_MASK "node-cidr-mask" Warning
        "SubnetLen of the network config differs from the length of the podCIDRs, which Kubernetes determines."
        "remove SubnetLen, or set --node-cidr-mask-size of kube-controller-manager to the same length"
    RBAC_RULE "rbac-rule" Error
        "The identity of flanneld lacks a rule of its ClusterRole: it cannot list nodes, or not publish its own."
        "add the rule that the finding names to the ClusterRole flannel"
    ANNOTATION_PREFIX "annotation-prefix" Error
        "Other nodes use another prefix of annotations, so they and this node do not know each other."
        "set the same --kube-annotation-prefix on every node, or roll out one DaemonSet for all nodes"
    NETWORK_UNAVAILABLE "network-unavailable" Error
        "The condition NetworkUnavailable of the Kubernetes node is not False although pods can start, so none is scheduled."
        "restart flanneld, without --set-node-network-unavailable=false"
    KUBE_PROXY_MASQUERADE "kube-proxy-masquerade" Warning
        "kube-proxy masquerades traffic of pods that flannel does not masquerade, so its source addresses are lost; or its mark differs."
        "set clusterCIDR of kube-proxy to the network, and restart kube-proxy"

    DAEMON_DOWN "daemon-down" Error
        "flanneld is not running, although it ran before: nothing is repaired, renewed or updated."
        "systemctl start flanneld"
    DAEMON_STUCK "daemon-stuck" Error
        "flanneld is stopped or does not respond."
    DAEMON_NOT_READY "daemon-not-ready" Error
        "flanneld is running but not ready."
        "journalctl -u flanneld"
    DAEMON_DUPLICATE "daemon-duplicate" Error
        "Two daemons with the same store run in one network namespace and revert each other's changes."
        "stop one of them"
    FIREWALL_CONTESTED "firewall-contested" Error
        "Several daemons with different stores run in one network namespace and set their own firewall rules in the same tables or chains."
        "stop one of them, or run it in a network namespace of its own"
    STATE_UNWRITABLE "state-unwritable" Error
        "flanneld cannot write its files, so pods may fail to start, or state is missing after a restart."
        "remount the file system writable, or specify other paths with --state-dir and --subnet-file"

    VTEP_MISSING "vtep-missing" Error
        "The tunnel device does not exist."
    VTEP_BLOCKED "vtep-blocked" Error
        "An object of another program has what the tunnel device needs: its name, VNI, address or UDP port."
        "remove the object that the finding names, or choose another VNI or Port; flanneld then continues by itself"
    VTEP_WRONG "vtep-wrong" Error
        "The tunnel device is incompatible: its VNI, port, local address or interface differs."
    VTEP_MAC "vtep-mac" Error
        "The MAC of the tunnel device differs from the published one."
    VTEP_MTU "vtep-mtu" Error
        "The MTU of the tunnel device differs from the expected one."
    VTEP_DOWN "vtep-down" Error
        "The tunnel device is down."
    VTEP_ADDRESS "vtep-address" Error
        "The tunnel device lacks its address, or has an unexpected one."
    VTEP_LEARNING "vtep-learning" Warning
        "The learning setting of the tunnel device differs from the config. With learning, a forged packet can divert traffic."
    VTEP_LEFTOVER "vtep-leftover" Warning
        "A tunnel device of an earlier config still exists."
    FDB_MISSING "fdb-missing" Error
        "The FDB entry of a node is missing, so the node is unreachable."
    FDB_STALE "fdb-stale" Error
        "An FDB entry leads to an address that is not that of the node."
    NEIGHBOUR_WRONG "neighbour-wrong" Error
        "The neighbour entry of a node is missing or out of sync."
    NEIGHBOUR_STALE "neighbour-stale" Warning
        "A neighbour entry belongs to a node that no longer exists."
    ROUTE_MISSING "route-missing" Error
        "The route to the subnet of a node is missing."
    ROUTE_WRONG "route-wrong" Error
        "The route to the subnet of a node is out of sync."
    ROUTE_SHADOWED "route-shadowed" Error
        "An unmanaged route takes traffic for the subnet of a node, or for a part of it."
        "ip route del DESTINATION"
    ROUTE_STALE "route-stale" Warning
        "An owned route leads to a subnet without a lease."
    FIREWALL_RULES "firewall-rules" Error
        "Firewall rules are missing, changed or out of order."
    FIREWALL_LEFTOVER "firewall-leftover" Warning
        "Stale rules of the other firewall mode are in effect, too."

    SUBNET_ENV_MISSING "subnet-env-missing" Error
        "subnet.env does not exist, so no pod can start."
    SUBNET_ENV_MISMATCH "subnet-env-mismatch" Error
        "subnet.env does not match lease and config, so new pods get invalid addresses."
    CNI_CONFIG_MISSING "cni-config-missing" Error
        "No CNI config uses flannel, so pods get no network."
        "write /etc/cni/net.d/10-flannel.conflist"
    CNI_CONFIG_INVALID "cni-config-invalid" Error
        "A CNI config file is invalid; a runtime may reject all of them."
        "correct or remove it"
    CNI_CONFIG_SHADOWED "cni-config-shadowed" Error
        "Another CNI config sorts before that of flannel, so the runtime uses it."
        "remove it, or rename it to sort after that of flannel"
    CNI_PLUGIN_MISSING "cni-plugin-missing" Error
        "A CNI plugin in the config is not installed."
        "install it in /opt/cni/bin"
    RUNTIME_CONFIG_IGNORED "runtime-config-ignored" Warning
        "A CNI setting of the container runtime is in a table that the runtime ignores."
        "move it to the table of the CNI settings, then restart the runtime"
    RUNTIME_CONFIG_INVALID "runtime-config-invalid" Error
        "A configuration file of the container runtime is not TOML, so the runtime does not start again."
        "correct the line that the finding names"
    RUNTIME_NOT_RESTARTED "runtime-not-restarted" Warning
        "The configuration of the container runtime changed after its start, so the change is not in effect."
        "systemctl restart containerd"
    RUNTIME_NETWORK_NOT_LOADED "runtime-network-not-loaded" Error
        "The container runtime could not load the CNI config, or has not loaded its latest version."
        "correct the file that the runtime names, or restart the runtime"
    RUNTIME_NETWORK_OTHER "runtime-network-other" Error
        "The container runtime uses the config of another network, so pods are not in the network of flannel."
        "remove that config, or rename it to sort after that of flannel"
    RUNTIME_PLUGIN_MISSING "runtime-plugin-missing" Error
        "A CNI plugin is installed, but not where the container runtime looks for it."
        "ln -s it into the directory of the runtime"
    BRIDGE_ADDRESS "bridge-address" Error
        "The bridge has an address outside of the subnet of this node, so new pods fail."
        "ip link del cni0, after its pods are removed"
    BRIDGE_MISSING "bridge-missing" Error
        "The bridge of running pods does not exist, so they have no network."
        "replace the pods: the next one creates the bridge"
    BRIDGE_GATEWAY "bridge-gateway" Error
        "The bridge lacks the gateway of its pods, or is down."
    BRIDGE_DETACHED "bridge-detached" Error
        "Pods are not attached to the bridge, so they have no network."
        "ip link set VETH master cni0 up"
    BRIDGE_MTU "bridge-mtu" Warning
        "The MTU of the bridge exceeds that of the path to other nodes."
        "ip link set cni0 mtu N, then restart the pods"
    ADDRESS_LEAKED "address-leaked" Warning
        "Addresses of pods that no longer exist are still allocated."
        "flannelctl ipam release --leaked"
    ADDRESSES_EXHAUSTED "addresses-exhausted" Error
        "The subnet of this node has no free address, so no pod can start."
        "flannelctl ipam release --leaked; move pods to other nodes, or use larger subnets (SubnetLen)"
}

#[cfg(test)]
mod tests;
