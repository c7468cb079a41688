//! The rules of both modes: as text, as others see them from outside, and repaired without touching what is not ours.

use anyhow::{Context, Result, ensure};
use integration::{Cluster, Feature, Flanneld, Lab, Netns, Node, Pod, lab, wait};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

mod stale;
mod variant;

const LIMIT: Duration = Duration::from_secs(10);
/// Promised is a second; the rest is for a machine that is busy with other tests.
const REPAIR: Duration = Duration::from_secs(3);

fn config(nftables: bool, backend: &str) -> String {
    format!(
        r#"{{"Network":"10.42.0.0/16","IPv6Network":"fd00:10:244::/56","IPv6SubnetLen":64,"EnableIPv6":true,"EnableNFTables":{nftables},"Backend":{{"Type":"{backend}"}}}}"#
    )
}

/// Leases in a directory: the config can be changed there, too.
struct Store {
    directory: PathBuf,
}

impl Store {
    fn new(lab: &Lab, config: &str) -> Result<Self> {
        let store = Self { directory: lab.directory("directory/leases")? };
        store.set(config)?;
        Ok(store)
    }

    fn set(&self, config: &str) -> Result<()> {
        // Renamed, so that nobody reads half of it.
        let new = self.directory.join("config.new");
        std::fs::write(&new, config).context("could not write the network config")?;
        std::fs::rename(new, self.directory.join("config")).context("could not replace the network config")
    }

    fn flanneld(&self) -> Flanneld {
        Flanneld::on_directory(&self.directory).argument("--ip-masq")
    }
}

/// One node with its own subnets known: 10.42.1.0/24 and fd00:10:244:1::/64 are reserved for it.
fn node(lab: &Lab, nftables: bool) -> Result<(Cluster, Store)> {
    let cluster = lab.cluster(1)?;
    let store = Store::new(lab, &config(nftables, "alloc"))?;
    let subnets = store.directory.join("subnets");
    std::fs::create_dir_all(&subnets)?;
    let record = r#"{"PublicIP":"192.168.50.1","PublicIPv6":"fd50::1"}"#;
    std::fs::write(subnets.join("10.42.1.0-24&fd00:10:244:1::-64"), record)?;
    Ok((cluster, store))
}

/// The table of a family as `nft list table` shows it.
fn nft_table(v4: bool, masquerade: Option<&str>, forward: bool) -> String {
    let (ip, name, cluster, pods, multicast) = parameters(v4);
    let mut chains = Vec::new();
    if let Some(masquerade) = masquerade {
        chains.push(format!(
            "\tchain postrtg {{\n\t\tcomment \"chain to manage traffic masquerading by flannel\"\n\
             \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
             \t\tmeta mark & 0x00004000 == 0x00004000 return\n\
             \t\t{ip} saddr {pods} {ip} daddr {cluster} return\n\
             \t\t{ip} saddr {cluster} {ip} daddr {pods} return\n\
             \t\t{ip} saddr != {cluster} {ip} daddr {pods} return\n\
             \t\t{ip} saddr {cluster} {ip} daddr != {multicast} {masquerade}\n\
             \t\t{ip} saddr != {cluster} {ip} daddr {cluster} {masquerade}\n\t}}\n"
        ));
    }
    if forward {
        chains.push(format!(
            "\tchain forward {{\n\t\tcomment \"chain to accept flannel traffic\"\n\
             \t\ttype filter hook forward priority filter; policy accept;\n\
             \t\t{ip} saddr {cluster} accept\n\t\t{ip} daddr {cluster} accept\n\t}}\n"
        ));
    }
    format!("table {ip} {name} {{\n\tcomment \"rules for {name}\"\n{}}}\n", chains.join("\n"))
}

const fn parameters(v4: bool) -> (&'static str, &'static str, &'static str, &'static str, &'static str) {
    if v4 {
        ("ip", "flannel-ipv4", "10.42.0.0/16", "10.42.1.0/24", "224.0.0.0/4")
    } else {
        ("ip6", "flannel-ipv6", "fd00:10:244::/56", "fd00:10:244:1::/64", "ff00::/8")
    }
}

/// What `-S` shows of a table, for one family.
fn iptables_table(v4: bool, table: &str, random: bool) -> String {
    let (_, _, cluster, pods, multicast) = parameters(v4);
    if table == "filter" {
        let comment = "-m comment --comment \"flanneld forward\"";
        return format!(
            "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n-N FLANNEL-FWD\n\
             -A FORWARD {comment} -j FLANNEL-FWD\n\
             -A FLANNEL-FWD -s {cluster} {comment} -j ACCEPT\n\
             -A FLANNEL-FWD -d {cluster} {comment} -j ACCEPT\n"
        );
    }
    let comment = "-m comment --comment \"flanneld masq\"";
    let masquerade = if random { "MASQUERADE --random-fully" } else { "MASQUERADE" };
    format!(
        "-P PREROUTING ACCEPT\n-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n-P POSTROUTING ACCEPT\n-N FLANNEL-POSTRTG\n\
         -A POSTROUTING {comment} -j FLANNEL-POSTRTG\n\
         -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {comment} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {pods} -d {cluster} {comment} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {cluster} -d {pods} {comment} -j RETURN\n\
         -A FLANNEL-POSTRTG ! -s {cluster} -d {pods} {comment} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {cluster} ! -d {multicast} {comment} -j {masquerade}\n\
         -A FLANNEL-POSTRTG ! -s {cluster} -d {cluster} {comment} -j {masquerade}\n"
    )
}

fn expect_nft(node: &Node, masquerade: Option<&str>, forward: bool) -> Result<()> {
    for v4 in [true, false] {
        let (ip, name, ..) = parameters(v4);
        let found = node.netns().run(&format!("nft list table {ip} {name}"))?;
        let expected = nft_table(v4, masquerade, forward);
        ensure!(found == expected, "found\n{found}\nexpected\n{expected}");
    }
    Ok(())
}

fn expect_iptables(node: &Node, variant: &str, random: bool) -> Result<()> {
    for (v4, program) in [(true, "iptables"), (false, "ip6tables")] {
        for table in ["nat", "filter"] {
            let found = node.netns().run(&format!("{program}{variant} -t {table} -S"))?;
            let expected = iptables_table(v4, table, random);
            ensure!(found == expected, "{program} {table}: found\n{found}\nexpected\n{expected}");
        }
    }
    Ok(())
}

const RANDOM: Option<&str> = Some("masquerade fully-random");

/// No trace of the nftables mode.
fn expect_no_nft(node: &Node) -> Result<()> {
    let tables = node.netns().run("nft list tables")?;
    ensure!(!tables.contains("flannel"), "{tables}");
    Ok(())
}

/// No trace of the iptables mode.
fn expect_no_iptables(node: &Node) -> Result<()> {
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = node.netns().run(program)?;
        ensure!(!rules.to_lowercase().contains("flannel"), "{rules}");
    }
    Ok(())
}

fn repaired(what: &str, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    wait::until(format!("{what} is repaired"), wait::LONG, &mut look)?;
    let took = started.elapsed();
    eprintln!("{what}: repaired after {took:?}");
    ensure!(took <= REPAIR, "{what}: the repair took {took:?}");
    Ok(())
}

#[test]
fn nftables_rules_match_the_specification_and_are_removed_when_disabled() {
    lab(|lab| {
        lab.require(&[Feature::Nft])?;
        let (cluster, store) = node(lab, true)?;
        let node = &cluster.nodes[0];
        let mut daemon = node.start(&store.flanneld())?;
        daemon.wait_ready()?;
        expect_nft(node, RANDOM, true)?;
        let mut again = |arguments: &str| -> Result<()> {
            daemon.set_flanneld(Flanneld::on_directory(&store.directory).arguments(arguments));
            daemon.restart()
        };
        again("--ip-masq --ip-masq-fully-random-disable")?;
        expect_nft(node, Some("masquerade"), true)?;
        again("")?;
        expect_nft(node, None, true)?;
        again("--ip-masq --iptables-forward-rules=false")?;
        expect_nft(node, RANDOM, false)?;
        again("--iptables-forward-rules=false")?;
        expect_no_nft(node)
    });
}

#[test]
fn iptables_rules_match_the_specification_and_are_removed_when_disabled() {
    lab(|lab| {
        lab.require(&[Feature::Iptables, Feature::BridgeNetfilter])?;
        let (cluster, store) = node(lab, false)?;
        let node = &cluster.nodes[0];
        let mut daemon = node.start(&store.flanneld())?;
        daemon.wait_ready()?;
        expect_iptables(node, "", true)?;
        daemon.set_flanneld(store.flanneld().argument("--ip-masq-fully-random-disable"));
        daemon.restart()?;
        expect_iptables(node, "", false)?;
        daemon.set_flanneld(Flanneld::on_directory(&store.directory));
        daemon.restart()?;
        let nat = node.netns().run("iptables -t nat -S")?;
        ensure!(!nat.contains("FLANNEL"), "--ip-masq is off: {nat}");
        let filter = node.netns().run("iptables -t filter -S")?;
        ensure!(filter == iptables_table(true, "filter", true), "{filter}");
        daemon.set_flanneld(
            Flanneld::on_directory(&store.directory).argument("--iptables-forward-rules=false"),
        );
        daemon.restart()?;
        expect_no_iptables(node)
    });
}

/// What a Go daemon feeds to `iptables-restore`.
fn go_rules(v4: bool) -> String {
    let of_table = |table| {
        let rules = iptables_table(v4, table, true);
        let chain = if table == "nat" { "FLANNEL-POSTRTG" } else { "FLANNEL-FWD" };
        let rules = rules.split_inclusive('\n').filter(|line| line.starts_with("-A"));
        format!("*{table}\n:{chain} - [0:0]\n{}COMMIT\n", rules.collect::<String>())
    };
    ["nat", "filter"].map(of_table).concat()
}

/// Rules that a Go daemon left are taken over as they are.
#[test]
fn rules_of_a_go_daemon_are_kept() {
    lab(|lab| {
        lab.require(&[Feature::Iptables, Feature::BridgeNetfilter])?;
        let (cluster, store) = node(lab, false)?;
        let node = &cluster.nodes[0];
        for (v4, program) in [(true, "iptables-restore"), (false, "ip6tables-restore")] {
            // Counters show whether a rule was made anew.
            let input = go_rules(v4).replace("-A ", "[7:700] -A ");
            node.netns().feed(&[program, "--noflush", "--counters"], &input)?;
        }
        let before = node.netns().run("iptables-save -c -t nat")?;
        // Not the jump, which everything passes.
        ensure!(before.matches("[7:700] -A FLANNEL").count() == 6, "{before}");
        let mut daemon = node.start(&store.flanneld())?;
        daemon.wait_ready()?;
        daemon.wait_log(&["firewall rules are up to date", "iptables"])?;
        expect_iptables(node, "", true)?;
        let after = node.netns().run("iptables-save -c -t nat")?;
        ensure!(after.matches("[7:700] -A FLANNEL").count() == 6, "{after}");
        Ok(())
    });
}

/// The address that a server sees when a client connects to it.
fn seen(client: &Netns, server: &Netns, address: IpAddr) -> Result<IpAddr> {
    let listener = server.enter(|| {
        TcpListener::bind((address, 0)).with_context(|| format!("could not listen on {address}"))
    })?;
    let to: SocketAddr = listener.local_addr().context("a socket without an address")?;
    let _stream = client.enter(|| {
        TcpStream::connect_timeout(&to, LIMIT).with_context(|| format!("could not connect to {to}"))
    })?;
    Ok(listener.accept().context("could not accept a connection")?.1.ip())
}

fn masquerade_from_outside(lab: &Lab, nftables: bool) -> Result<()> {
    let cluster = lab.cluster(2)?;
    let store = Store::new(lab, &config(nftables, "vxlan"))?;
    let mut daemons = cluster.start_all(&store.flanneld())?;
    let pods = cluster.nodes.iter().map(|node| node.add_pod("pod")).collect::<Result<Vec<Pod>>>()?;
    let outside = lab.outside()?;
    let look = |masqueraded: bool| -> Result<()> {
        for v4 in [true, false] {
            let (own, gateway) = (pods[0].address(v4)?, cluster.lan.gateway(v4)?);
            let node: IpAddr = if v4 { "192.168.50.1" } else { "fd50::1" }.parse()?;
            pods[0].netns.wait_ping(pods[1].address(v4)?)?;
            let by_peer = seen(&pods[0].netns, &pods[1].netns, pods[1].address(v4)?)?;
            ensure!(by_peer == own, "a pod of another node sees {by_peer} for {own}");
            if masqueraded {
                let by_world = seen(&pods[0].netns, &outside, gateway)?;
                ensure!(by_world == node, "the world sees {by_world} for {own}, not {node}");
            } else {
                // No way back to the address of a pod.
                let reached = seen(&pods[0].netns, &outside, gateway).is_ok();
                ensure!(!reached, "the world answers a pod although nothing translates its address");
            }
        }
        Ok(())
    };
    look(true)?;
    if nftables {
        // Without masquerade there is no answer: the look above can fail.
        daemons[0].set_flanneld(Flanneld::on_directory(&store.directory));
        daemons[0].restart()?;
        let ping = pods[0].netns.ping(cluster.lan.gateway(true)?, 1);
        ensure!(ping.is_ok_and(|ping| ping.received == 0), "the world answers the address of a pod");
    }
    Ok(())
}

#[test]
fn masquerade_is_effective_with_nftables() {
    lab(|lab| {
        lab.require(&[Feature::Nft, Feature::Vxlan])?;
        masquerade_from_outside(lab, true)
    });
}

#[test]
fn masquerade_is_effective_with_iptables() {
    lab(|lab| {
        lab.require(&[Feature::Iptables, Feature::BridgeNetfilter, Feature::Vxlan])?;
        masquerade_from_outside(lab, false)
    });
}

const FOREIGN_NFT: &str = "table inet mine {\n\tchain postrtg {\n\t\ttype nat hook postrouting priority 101; policy accept;\n\t\tip saddr 10.42.1.99 accept\n\t}\n}\n";
const FOREIGN_IPTABLES: &str = "*nat\n:MINE - [0:0]\n-A POSTROUTING -s 172.30.0.0/16 -j MINE\n-A MINE -j RETURN\nCOMMIT\n\
     *filter\n-A FORWARD -s 172.30.0.0/16 -j ACCEPT\nCOMMIT\n";

/// The rules that are not ours, of both modes.
fn foreign(node: &Node) -> Result<String> {
    let rules = node.netns().run("iptables-save")?;
    let rules: String = rules
        .split_inclusive('\n')
        .filter(|line| line.contains("MINE") || line.contains("172.30."))
        .collect();
    Ok(node.netns().run("nft list table inet mine")? + &rules)
}

fn add_foreign(node: &Node) -> Result<String> {
    node.netns().feed(&["nft", "-f", "-"], FOREIGN_NFT)?;
    node.netns().feed(&["iptables-restore", "--noflush"], FOREIGN_IPTABLES)?;
    let rules = foreign(node)?;
    ensure!(rules.matches("172.30.0.0/16").count() == 2 && rules.contains("10.42.1.99"), "{rules}");
    Ok(rules)
}

#[test]
fn nftables_rules_are_repaired_and_unmanaged_rules_kept() {
    lab(|lab| {
        lab.require(&[Feature::Nft, Feature::Iptables])?;
        let (cluster, store) = node(lab, true)?;
        let node = &cluster.nodes[0];
        let others = add_foreign(node)?;
        node.start(&store.flanneld())?.wait_ready()?;
        for damage in [
            "delete table ip flannel-ipv4",
            "flush table ip6 flannel-ipv6",
            "flush chain ip flannel-ipv4 postrtg",
            "insert rule ip flannel-ipv4 forward drop",
            "add chain ip flannel-ipv4 intruder",
            "delete table ip flannel-ipv4; delete table ip6 flannel-ipv6",
        ] {
            node.netns().feed(&["nft", "-f", "-"], &damage.replace("; ", "\n"))?;
            repaired(damage, || expect_nft(node, RANDOM, true))?;
        }
        ensure!(foreign(node)? == others, "{}", foreign(node)?);
        // What firewalld does when it is reloaded. The foreign rules go, and are not ours to bring back.
        node.netns().run("nft flush ruleset")?;
        repaired("flush ruleset", || expect_nft(node, RANDOM, true))
    });
}

#[test]
fn iptables_rules_are_repaired_and_unmanaged_rules_kept() {
    lab(|lab| {
        lab.require(&[Feature::Iptables, Feature::BridgeNetfilter])?;
        let (cluster, store) = node(lab, false)?;
        let node = &cluster.nodes[0];
        node.start(&store.flanneld())?.wait_ready()?;
        let jump = "-m comment --comment";
        for damage in [
            "iptables -t nat -F FLANNEL-POSTRTG".to_owned(),
            "ip6tables -t filter -F FLANNEL-FWD".to_owned(),
            "iptables -t nat -D FLANNEL-POSTRTG 1".to_owned(),
            "iptables -t nat -F POSTROUTING".to_owned(),
            "iptables -t filter -I FLANNEL-FWD -j DROP".to_owned(),
            // In another order.
            "iptables -t nat -I FLANNEL-POSTRTG 3 -s 10.42.1.0/24 -j ACCEPT".to_owned(),
            // A second jump, as Go leaves it when its check misses the first.
            format!("iptables -t filter -A FORWARD {jump} XX -j FLANNEL-FWD"),
        ] {
            let mut words: Vec<&str> = damage.split_whitespace().collect();
            words.iter_mut().filter(|word| **word == "XX").for_each(|word| *word = "flanneld forward");
            node.netns().feed(&words, "")?;
            repaired(&damage, || expect_iptables(node, "", true))?;
        }
        let others = add_foreign(node)?;
        for damage in ["iptables -t nat -D POSTROUTING 1", "iptables -t nat -F FLANNEL-POSTRTG"] {
            node.netns().run(damage)?;
            repaired(damage, || {
                let rules = node.netns().run("iptables -t nat -S")?;
                ensure!(rules.matches("FLANNEL-POSTRTG").count() == 8, "{rules}");
                Ok(())
            })?;
        }
        ensure!(foreign(node)? == others, "{}\nwere\n{others}", foreign(node)?);
        node.netns().run("nft flush ruleset")?;
        repaired("flush ruleset", || expect_iptables(node, "", true))
    });
}

#[test]
fn change_of_mode_removes_the_rules_of_the_previous_one() {
    lab(|lab| {
        lab.require(&[Feature::Nft, Feature::Iptables, Feature::BridgeNetfilter])?;
        let (cluster, store) = node(lab, true)?;
        let node = &cluster.nodes[0];
        let others = add_foreign(node)?;
        let mut daemon = node.start(&store.flanneld())?;
        daemon.wait_ready()?;
        let iptables = || -> Result<()> {
            expect_no_nft(node)?;
            for program in ["iptables-save", "ip6tables-save"] {
                let rules = node.netns().run(program)?;
                ensure!(rules.matches("-A FLANNEL-").count() == 8, "{rules}");
            }
            Ok(())
        };
        let nftables = || expect_no_iptables(node).and_then(|()| expect_nft(node, RANDOM, true));
        nftables()?;
        // While it runs: the same rules are in effect throughout.
        let readiness = daemon.watch_ready();
        for nft in [false, true] {
            store.set(&config(nft, "alloc"))?;
            wait::until("the mode is switched", wait::LONG, || if nft { nftables() } else { iptables() })?;
        }
        readiness.expect_always()?;
        // While it is down.
        for nft in [false, true] {
            daemon.stop()?;
            store.set(&config(nft, "alloc"))?;
            daemon.start()?;
            daemon.wait_ready()?;
            wait::until("the mode is switched", wait::LONG, || if nft { nftables() } else { iptables() })?;
        }
        ensure!(foreign(node)? == others, "{}\nwere\n{others}", foreign(node)?);
        Ok(())
    });
}

/// As on hosts with Docker: forwarding is denied unless a rule allows it.
#[test]
fn forward_rules_override_a_drop_policy() {
    lab(|lab| {
        lab.require(&[Feature::Iptables, Feature::BridgeNetfilter, Feature::Vxlan])?;
        let cluster = lab.cluster(2)?;
        let store = Store::new(lab, &config(false, "vxlan"))?;
        for program in ["iptables", "ip6tables"] {
            cluster.nodes[0].netns().run(&format!("{program} -P FORWARD DROP"))?;
        }
        let mut daemons = cluster.start_all(&store.flanneld())?;
        let pods = cluster.nodes.iter().map(|node| node.add_pod("pod")).collect::<Result<Vec<Pod>>>()?;
        for v4 in [true, false] {
            pods[0].netns.wait_ping(pods[1].address(v4)?)?;
            pods[1].netns.wait_ping(pods[0].address(v4)?)?;
        }
        let shown = cluster.nodes[0].netns().run("iptables -S FORWARD")?;
        ensure!(shown.contains("-P FORWARD DROP"), "the policy is not ours to change: {shown}");
        daemons[0].set_flanneld(store.flanneld().argument("--iptables-forward-rules=false"));
        daemons[0].restart()?;
        let ping = pods[0].netns.ping(pods[1].address(true)?, 1)?;
        ensure!(ping.received == 0, "a packet passed the policy without a rule");
        Ok(())
    });
}

/// A directory of programs, to be the whole PATH.
fn programs(lab: &Lab, pairs: &[(&str, &str)]) -> Result<PathBuf> {
    let directory = lab.directory("programs")?;
    for (name, target) in pairs {
        symlink(format!("/usr/sbin/{target}"), directory.join(name)).context("could not link a program")?;
    }
    Ok(directory)
}

#[test]
fn legacy_iptables_is_used_if_it_is_in_path() {
    lab(|lab| {
        lab.require(&[Feature::IptablesLegacy, Feature::BridgeNetfilter])?;
        let (cluster, store) = node(lab, false)?;
        let node = &cluster.nodes[0];
        let path = programs(
            lab,
            &[
                ("iptables", "iptables-legacy"),
                ("ip6tables", "ip6tables-legacy"),
                ("iptables-save", "iptables-legacy-save"),
                ("ip6tables-save", "ip6tables-legacy-save"),
                ("iptables-restore", "iptables-legacy-restore"),
                ("ip6tables-restore", "ip6tables-legacy-restore"),
            ],
        )?;
        let flanneld = store.flanneld().argument("--iptables-resync=1");
        let mut daemon = node.start(&flanneld.environment("PATH", &path.display().to_string()))?;
        daemon.wait_ready()?;
        expect_iptables(node, "-legacy", true)?;
        expect_no_iptables(node)?;
        // Nobody tells of changes here, so they are found with the next look.
        for damage in ["iptables-legacy -t nat -F POSTROUTING", "ip6tables-legacy -t filter -F FLANNEL-FWD"] {
            node.netns().run(damage)?;
            wait::until(format!("{damage} is repaired"), wait::LONG, || {
                expect_iptables(node, "-legacy", true)
            })?;
        }
        Ok(())
    });
}

#[test]
fn missing_iptables_is_reported_with_the_fix() {
    lab(|lab| {
        lab.require(&[Feature::Nft, Feature::BridgeNetfilter])?;
        let (cluster, store) = node(lab, false)?;
        let node = &cluster.nodes[0];
        let path = programs(lab, &[])?;
        let mut daemon = node.start(&store.flanneld().environment("PATH", &path.display().to_string()))?;
        daemon.wait_log(&["was not found in PATH", "Install the package iptables", "EnableNFTables"])?;
        ensure!(daemon.get("/readyz")?.status == 503, "ready without rules");
        // The second fix needs no restart.
        store.set(&config(true, "alloc"))?;
        daemon.wait_ready()?;
        expect_nft(node, RANDOM, true)
    });
}

#[test]
fn missing_bridge_netfilter_is_reported_with_the_fix() {
    lab(|lab| {
        lab.require(&[Feature::Nft, Feature::BridgeNetfilter])?;
        let (cluster, store) = node(lab, false)?;
        let node = &cluster.nodes[0];
        // Without the module this directory is empty, too.
        node.netns().run("mount -t tmpfs tmpfs /proc/sys/net/bridge")?;
        let mut daemon = node.start(&store.flanneld())?;
        let status = daemon.wait_end()?;
        ensure!(status.code() == Some(1), "{status}");
        let fix = "run `modprobe br_netfilter`";
        daemon.wait_log(&["ERROR", "bridge-nf-call-iptables does not exist", fix])?;
        store.set(&config(true, "alloc"))?;
        daemon.start()?;
        daemon.wait_ready()?;
        daemon.wait_log(&["WARN", "bridge-nf-call-iptables does not exist", fix])
    });
}
