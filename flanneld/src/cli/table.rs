//! The flags of flanneld as data: parsing, the environment and `--help` all read this table.

use crate::flag::{Flag, Kind};
use crate::store;
use std::fmt::Write as _;

/// All flags: those of the Go flanneld in its order, then the others.
pub fn flags() -> impl Iterator<Item = &'static Flag> {
    let (extensions, go): (Vec<_>, Vec<_>) = store::FLAGS.iter().partition(|flag| flag.extension);
    go.into_iter().chain(GO).chain(extensions).chain(EXTENSIONS)
}

/// The flags of the Go flanneld that do not concern the store.
const GO: &[Flag] = &[
    list("iface", "NAME|IP", "interface for traffic between nodes; the first of several that exists"),
    list("iface-regex", "REGEX", "interface whose address or name matches; tried after --iface"),
    text("iface-can-reach", "IP", "", "interface of the route to this address; tried last"),
    text(
        "subnet-file",
        "FILE",
        flannel_core::subnet_env::PATH,
        "where the subnet of this node is written for the CNI plugin",
    ),
    text("public-ip", "IPv4", "", "address that other nodes send to; without it that of the interface"),
    text("public-ipv6", "IPv6", "", "the same for IPv6"),
    number(
        "subnet-lease-renew-margin",
        "MINUTES",
        "60",
        "renew the lease this long before it ends, 1 to 1439",
    ),
    switch("ip-masq", "false", "masquerade traffic that leaves the network of the pods"),
    switch("ip-masq-fully-random-disable", "false", "masquerade without --random-fully"),
    switch("kube-subnet-mgr", "false", "leases from Kubernetes nodes instead of etcd (not in this build)"),
    text("kube-api-url", "URL", "", "Kubernetes API server"),
    text(
        "kube-annotation-prefix",
        "PREFIX",
        "flannel.alpha.coreos.com",
        "prefix of the annotations of nodes",
    ),
    text("kubeconfig-file", "FILE", "", "kubeconfig of the Kubernetes API"),
    switch("version", "false", "print the version and exit"),
    text("healthz-ip", "IP", "0.0.0.0", "address of /healthz and /readyz; 0.0.0.0 and :: mean both families"),
    number("healthz-port", "PORT", "0", "port of /healthz and /readyz; 0 turns them off"),
    number("iptables-resync", "SECONDS", "5", "how often firewall rules are checked, at least 1"),
    switch("iptables-forward-rules", "true", "accept forwarded traffic of the pods"),
    switch("ip-blackhole-route", "false", "keep a blackhole route for the subnet of this node"),
    text("net-config-path", "FILE", "/etc/kube-flannel/net-conf.json", "network config in Kubernetes mode"),
    switch("set-node-network-unavailable", "true", "clear NetworkUnavailable of the Kubernetes node"),
    text("v", "LEVEL", "0", "0 logs what changed, 1 each operation, 5 everything").with_kind(Kind::Level),
    text("vmodule", "LIST", "", "accepted for compatibility, has no effect"),
    text("log_backtrace_at", "FILE:LINE", "", "accepted for compatibility, has no effect"),
];

/// The others.
const EXTENSIONS: &[Flag] = &[
    text("state-dir", "DIR", "/var/lib/flannel", "what must survive a restart while the store is away")
        .extension(),
    text("lease-time", "DURATION", "24h", "life of a lease that is not renewed, at least 2s").extension(),
    text(
        "status-socket",
        "FILE",
        flannel_core::status::SOCKET,
        "socket that flannelctl asks; an empty path turns it off",
    )
    .extension(),
    text("log-format", "text|json", "text", "form of the log lines").extension(),
];

const fn text(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag::text(name, value, default, help)
}

const fn list(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    text(name, value, "", help).with_kind(Kind::List)
}

const fn number(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Flag {
    text(name, value, default, help).with_kind(Kind::Integer)
}

const fn switch(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    text(name, "", default, help).with_kind(Kind::Switch)
}

/// The text of `--help`.
pub(super) fn help() -> String {
    let mut page = String::from(
        "flanneld gives this node a subnet and keeps the kernel as the leases of the cluster say.

Usage: flanneld [flags]

-flag and --flag are the same. A value follows '=' or is the next word; for true and false
only '=' works (--ip-masq=false). Every flag has a variable, such as FLANNELD_ETCD_PREFIX;
the command line wins, and an empty variable counts as not set.

Flags of every flannel:
",
    );
    describe(&mut page, flags().filter(|flag| !flag.extension));
    page.push_str("\nFlags of this implementation only:\n");
    describe(&mut page, flags().filter(|flag| flag.extension));
    page
}

fn describe<'a>(page: &mut String, flags: impl Iterator<Item = &'a Flag>) {
    for flag in flags {
        let usage = format!("{} {}", flag.dashed(), flag.value);
        let repeat = if flag.kind == Kind::List { ", may be repeated" } else { "" };
        let default = match flag.default {
            "" | "false" => String::new(),
            default => format!(" (default {default})"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(page, "  {:<37} {}{repeat}{default}", usage.trim_end(), flag.help);
    }
}
