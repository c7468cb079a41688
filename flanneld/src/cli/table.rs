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
    list("iface", "NAME|IP", "Name or address of the external interface; the first match is used"),
    list("iface-regex", "REGEX", "Expression that matches its name or address; evaluated after --iface"),
    text("iface-can-reach", "IP", "", "Address whose route determines the interface; evaluated last"),
    text(
        "subnet-file",
        "FILE",
        flannel_core::subnet_env::PATH,
        "File with the subnet of this node, for the CNI plugin",
    ),
    text("public-ip", "IPv4", "", "Address that other nodes send to; by default that of the interface"),
    text("public-ipv6", "IPv6", "", "IPv6 address that other nodes send to"),
    number(
        "subnet-lease-renew-margin",
        "MINUTES",
        "60",
        "Time before expiry at which the lease is renewed, 1 to 1439",
    ),
    switch("ip-masq", "false", "Masquerade traffic that leaves the pod network"),
    switch("ip-masq-fully-random-disable", "false", "Masquerade without --random-fully"),
    KUBERNETES[0],
    KUBERNETES[1],
    KUBERNETES[2],
    KUBERNETES[3],
    switch("version", "false", "Print the version"),
    text(
        "healthz-ip",
        "IP",
        "0.0.0.0",
        "Address of /healthz, /readyz and /metrics; 0.0.0.0 and :: listen on both families",
    ),
    number("healthz-port", "PORT", "0", "Port of /healthz, /readyz and /metrics; 0 disables them"),
    number("iptables-resync", "SECONDS", "5", "Interval of checks of the firewall rules, at least 1"),
    switch("iptables-forward-rules", "true", "Accept forwarded traffic of pods"),
    switch("ip-blackhole-route", "false", "Add a blackhole route for the subnet of this node"),
    KUBERNETES[4],
    KUBERNETES[5],
    text("v", "LEVEL", "0", "Log level: 0 for changes, 1 for each operation, 5 for everything")
        .with_kind(Kind::Level),
    text("vmodule", "LIST", "", "Accepted for compatibility, without effect"),
    text("log_backtrace_at", "FILE:LINE", "", "Accepted for compatibility, without effect"),
];

/// The flags of Kubernetes, which belong to the store.
const KUBERNETES: [Flag; 7] = store::KUBERNETES_FLAGS;

/// The others.
const EXTENSIONS: &[Flag] = &[
    KUBERNETES[6],
    text("state-dir", "DIR", "/var/lib/flannel", "Directory with data for a restart without the store")
        .extension(),
    text("lease-time", "DURATION", "24h", "Lifetime of a lease that is not renewed, at least 2s").extension(),
    text(
        "status-socket",
        "FILE",
        flannel_core::status::SOCKET,
        "Socket for flannelctl; an empty path disables it",
    )
    .extension(),
    number(
        "nexthop-objects-from",
        "PEERS",
        "2000",
        "Number of peers from which on routes refer to nexthop objects; 0 never uses them",
    )
    .extension(),
    text("log-format", "text|json", "text", "Format of log lines").extension(),
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
        "flanneld acquires a subnet for this node and keeps the kernel in sync with the leases of the cluster.

Usage: flanneld [flags]

-flag and --flag are equivalent. A value follows '=' or is the next word; switches take a
value only with '=' (--ip-masq=false). Every flag except --version has a variable, such as
FLANNELD_ETCD_PREFIX. The command line takes precedence; an empty variable is ignored.

Flags shared with Go flannel:
",
    );
    describe(&mut page, flags().filter(|flag| !flag.extension));
    page.push_str("\nAdditional flags:\n");
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
