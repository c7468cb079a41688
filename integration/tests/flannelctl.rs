//! flannelctl beside real daemons and a real etcd, with the daemon up and down.

use anyhow::{Context, Result, ensure};
use integration::etcd::PREFIX;
use integration::gateway::Gateway;
use integration::{Cluster, Conflist, Daemon, Etcd, Feature, Flanneld, Lab, Netns, Node, lab, wait};
use std::fs;
use std::path::Path;

const NFTABLES: &str = r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
const IPTABLES: &str =
    r#"{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:42::/48","Backend":{"Type":"vxlan"}}"#;

fn start(lab: &Lab, nodes: usize, config: &str) -> Result<(Cluster, Etcd)> {
    lab.require(&[Feature::Etcd, Feature::Vxlan])?;
    let cluster = lab.cluster(nodes)?;
    let etcd = cluster.etcd(lab)?;
    etcd.set_config(config)?;
    Ok((cluster, etcd))
}

fn run(node: &Node, etcd: &Etcd) -> Result<Daemon> {
    let mut daemon = node.start(&Flanneld::on_etcd(etcd))?;
    daemon.wait_ready()?;
    Ok(daemon)
}

/// Waits until the node tells its CNI plugin this subnet.
fn wait_subnet(node: &Node, subnet: &str) -> Result<()> {
    wait::until(format!("{} has {subnet}", node.name()), wait::LONG, || {
        let found = node.subnet(true)?.to_string();
        ensure!(found == subnet, "it has {found}");
        Ok(())
    })
}

/// The etcd lease that a record lives by; 0 for a reservation.
fn lease_of(etcd: &Etcd, key: &str) -> Result<String> {
    let shown = etcd.ctl(&["get", "--write-out=fields", "--", &format!("{PREFIX}/subnets/{key}")])?;
    let lease = shown.lines().find_map(|line| line.strip_prefix("\"Lease\" : "));
    Ok(lease.with_context(|| format!("no record {key}: {shown}"))?.to_owned())
}

#[test]
fn node_acquires_its_reserved_subnet_and_keeps_it() {
    lab(|lab| {
        let (cluster, etcd) = start(lab, 2, NFTABLES)?;
        let (admin, node) = (&cluster.nodes[0], &cluster.nodes[1]);
        let ctl = |arguments: &[&str]| admin.flannelctl(&etcd.flags(), arguments);
        ctl(&["lease", "reserve", "192.168.50.2", "--subnet", "10.42.77.0/24"])?.expect(0, &["reserved"])?;
        // Nobody is there yet, which hurts no other node.
        let first = run(admin, &etcd)?;
        ensure!(!first.log()?.contains("10.42.77.0"), "a reservation is no faulty peer: {}", first.log()?);

        let mut daemon = run(node, &etcd)?;
        wait_subnet(node, "10.42.77.0/24")?;
        daemon.restart()?;
        wait_subnet(node, "10.42.77.0/24")?;
        ensure!(lease_of(&etcd, "10.42.77.0-24")? == "0", "the reservation has become a lease");
        let shown = ctl(&["lease", "get", "10.42.77.9", "-o", "json"])?.expect(0, &[])?.json()?;
        ensure!(shown["state"] == "reserved, in use" && shown["record"]["BackendType"] == "vxlan", "{shown}");

        // And back: the daemon renews what is an ordinary lease again.
        ctl(&["lease", "unreserve", "192.168.50.2"])?.expect(0, &["unreserved"])?;
        let listed = ctl(&["lease", "list", "-o", "json"])?.expect(0, &[])?.json()?;
        ensure!(
            listed
                .as_array()
                .is_some_and(|all| all.iter().all(|one| one["remainingSeconds"].as_u64() > Some(80_000))),
            "{listed}"
        );
        ensure!(daemon.running()?, "{}", daemon.log()?);
        wait_subnet(node, "10.42.77.0/24")
    });
}

#[test]
fn running_node_moves_at_once_and_stopped_node_when_it_starts() {
    lab(|lab| {
        let (cluster, etcd) = start(lab, 2, NFTABLES)?;
        let mut daemons = [run(&cluster.nodes[0], &etcd)?, run(&cluster.nodes[1], &etcd)?];
        let (admin, node) = (&cluster.nodes[0], &cluster.nodes[1]);
        let ctl = |arguments: &[&str]| admin.flannelctl(&etcd.flags(), arguments);
        let before = node.subnet(true)?.to_string();
        ctl(&["lease", "move", "192.168.50.2", "--subnet", "10.42.88.0/24"])?.expect(1, &["--yes"])?;
        ctl(&["lease", "move", "192.168.50.2", "--subnet", "10.42.88.0/24", "--yes", "--dry-run"])?
            .expect(0, &["dry run"])?;
        wait_subnet(node, &before)?;
        ctl(&["lease", "move", "192.168.50.2", "--subnet", "10.42.88.0/24", "--yes"])?
            .expect(0, &["moved"])?;
        wait_subnet(node, "10.42.88.0/24")?;
        ensure!(daemons[1].running()?, "{}", daemons[1].log()?);
        wait::until("the other node routes to the new subnet only", wait::LONG, || {
            let routes = admin.netns().ip("-4 route show dev flannel.1")?;
            ensure!(routes.contains("10.42.88.0/24") && !routes.contains(&before), "{routes}");
            Ok(())
        })?;

        daemons[1].stop()?;
        ctl(&["lease", "move", "10.42.88.0/24", "--subnet", "10.42.99.0/24", "--yes"])?
            .expect(0, &["moved"])?;
        daemons[1].start()?;
        daemons[1].wait_ready()?;
        wait_subnet(node, "10.42.99.0/24")?;
        ensure!(lease_of(&etcd, "10.42.99.0-24")? == "0", "a move reserves the new subnet");
        ensure!(etcd.get(&format!("{PREFIX}/subnets/10.42.88.0-24"))?.is_none(), "the old record is left");
        Ok(())
    });
}

#[test]
fn lease_of_a_removed_node_is_released() {
    lab(|lab| {
        let (cluster, etcd) = start(lab, 2, NFTABLES)?;
        let (node, other) = (&cluster.nodes[0], &cluster.nodes[1]);
        let ctl = |node: &Node, arguments: &[&str]| node.flannelctl(&etcd.flags(), arguments);
        let mut daemons = [run(node, &etcd)?, run(other, &etcd)?];
        let (own, theirs) = (node.subnet(true)?.to_string(), other.subnet(true)?.to_string());
        let listed = ctl(node, &["lease", "list"])?.expect(0, &[&format!("{own} *"), &theirs, "23h59m"])?;
        ensure!(listed.stdout.lines().all(|line| line.chars().count() <= 80), "{}", listed.stdout);
        ctl(node, &["lease", "release", &own, "--yes"])?.expect(1, &["flanneld runs on this node"])?;
        ctl(node, &["lease", "release", &theirs, "--yes"])?
            .expect(1, &["its node may be running", "--force"])?;
        daemons[0].kill()?;
        ctl(node, &["lease", "release", &own, "--yes"])?.expect(0, &["released"])?;
        daemons[1].kill()?;
        // From elsewhere a lease of a day shows nothing of its node for a long time.
        ctl(node, &["lease", "release", &theirs, "--yes"])?.expect(1, &["expires in 23h59m"])?;
        ctl(node, &["lease", "release", &theirs, "--force"])?.expect(0, &["released"])?;
        ctl(node, &["lease", "list"])?.expect(0, &["has no leases"])?;
        etcd.members[0].kill()?;
        let answer = ctl(node, &["lease", "list", "-o", "json"])?.expect(4, &[])?;
        ensure!(answer.json()?["error"]["kind"] == "unreachable", "{answer:?}");
        Ok(())
    });
}

/// etcd tells the time left of one lease at a time.
#[test]
fn many_leases_are_listed_with_one_request() {
    lab(|lab| {
        let (cluster, etcd) = start(lab, 1, NFTABLES)?;
        let node = &cluster.nodes[0];
        let mut gateway = Gateway::connect(node.netns(), etcd.members[0].address())?;
        let grant = gateway.grant(86_400)?;
        let keys = || (0..4).flat_map(|a| (0..=255).map(move |b| format!("10.{}.{b}.0-24", 42 + a)));
        let record = r#"{"PublicIP":"192.168.50.9","PublicIPv6":null,"BackendType":"host-gw"}"#;
        let records: Vec<_> =
            keys().take(501).map(|key| (format!("{PREFIX}/subnets/{key}"), record.to_owned())).collect();
        gateway.put_all(&records, &grant)?;
        let ctl = |arguments: &[&str]| -> Result<_> {
            let before = etcd.requests()?;
            let answer = node.flannelctl(&etcd.flags(), arguments)?.expect(0, &[])?;
            Ok((answer, etcd.requests()? - before))
        };
        let (listed, requests) = ctl(&["lease", "list"])?;
        ensure!(listed.stdout.lines().count() == 502 && !listed.stdout.contains("23h"), "{listed:?}");
        ensure!(listed.stderr.contains("--expiry") && requests <= 3, "{requests}: {}", listed.stderr);
        let (listed, requests) = ctl(&["lease", "list", "--expiry"])?;
        ensure!(listed.stdout.matches("23h59m").count() == 501 && listed.stderr.is_empty(), "{listed:?}");
        ensure!(requests > 501, "{requests}");
        let (listed, requests) = ctl(&["lease", "list", "--address", "10.42.9.9"])?;
        ensure!(listed.stdout.contains("23h59m") && requests <= 4, "{requests}: {listed:?}");
        let (_, requests) = ctl(&["support", "bundle", "--file", "/run/flannel/bundle.tar.gz"])?;
        // The doctor of the bundle lists a few times.
        ensure!(requests <= 20, "{requests}");
        // One fewer, and it is shown as ever.
        gateway.delete(&records[0].0)?;
        let (listed, _) = ctl(&["lease", "list"])?;
        ensure!(listed.stdout.matches("23h59m").count() == 500 && listed.stderr.is_empty(), "{listed:?}");
        Ok(())
    });
}

/// All of a node that flannel could touch, as text: links, addresses, routes, rules, firewall, settings, files.
fn state(netns: &Netns) -> Result<String> {
    let mut text = String::new();
    for command in [
        "ip -d link show",
        "ip addr show",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip -4 rule show",
        "ip -6 rule show",
        "bridge fdb show",
        "nft -s list ruleset",
    ] {
        // Times that run.
        let shown = netns.run(command)?;
        let steady: Vec<&str> = shown
            .lines()
            .filter(|line| !line.contains("valid_lft"))
            .map(|line| line.split(" hello_timer").next().unwrap_or(line))
            .collect();
        let steady = steady.join("\n");
        text += &format!("# {command}\n{steady}\n");
    }
    for name in [
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
        "net/ipv4/conf/all/rp_filter",
        "net/ipv4/conf/default/rp_filter",
        "net/ipv4/conf/all/arp_ignore",
        "net/ipv4/conf/eth0/proxy_arp",
        "net/ipv6/conf/default/accept_ra",
    ] {
        text += &format!("# {name}\n{}\n", netns.sysctl(name)?);
    }
    text += "# files\n";
    text += &netns.run("find /run/flannel /var/lib/flannel /etc/cni/net.d /var/lib/cni -mindepth 1")?;
    Ok(text)
}

/// What others have on a node, also where flannel is.
fn foreign(netns: &Netns) -> Result<()> {
    netns.ip_batch(
        "link add br9 type bridge\n\
         addr add 198.51.100.1/24 dev br9\n\
         link set br9 up\n\
         link add vxlan7 type vxlan id 7 dev eth0 dstport 4789\n\
         route add 203.0.113.0/24 via 192.168.50.254\n\
         route add blackhole 203.0.114.0/24 proto boot\n\
         route add 2001:db8:7::/48 via fd50::254\n\
         rule add from 198.51.100.0/24 lookup 77\n\
         route add default via 192.168.50.254 table 77\n",
    )?;
    netns.feed(
        &["nft", "-f", "-"],
        "table inet site {\n chain forward {\n type filter hook forward priority 0; policy accept;\n ip daddr 10.42.0.0/16 accept\n }\n }\n",
    )?;
    for (tool, address) in [("iptables-restore", "192.0.2.1/32"), ("ip6tables-restore", "2001:db8::1/128")] {
        let rules = format!(
            "*nat\n:SITE - [0:0]\n-A POSTROUTING -s {address} -j SITE\n-A SITE -j RETURN\nCOMMIT\n\
             *filter\n-A FORWARD -s {address} -j ACCEPT\n-A FORWARD -d {address} -m comment --comment \"not flanneld\" -j ACCEPT\nCOMMIT\n"
        );
        netns.feed(&[tool, "--noflush"], &rules)?;
    }
    wait::until("addresses are no more tentative", wait::LONG, || {
        let shown = netns.ip("-6 addr show")?;
        ensure!(!shown.contains("tentative"), "{shown}");
        Ok(())
    })
}

fn expect_same(before: &str, after: &str) -> Result<()> {
    let without = |one: &str, other: &str| -> String {
        one.lines()
            .filter(|line| !other.lines().any(|same| same == *line))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    ensure!(before == after, "gone:\n{}new:\n{}", without(before, after), without(after, before));
    Ok(())
}

fn cleaned_after_a_run(lab: &Lab, config: &str) -> Result<()> {
    lab.require(&[Feature::Iptables])?;
    let (cluster, etcd) = start(lab, 2, config)?;
    let node = &cluster.nodes[0];
    let ctl = |arguments: &[&str]| node.flannelctl(&etcd.flags(), arguments);
    foreign(node.netns())?;
    let before = state(node.netns())?;
    run(&cluster.nodes[1], &etcd)?;
    let mut daemon = run(node, &etcd)?;
    // Once more with a route of the blackhole kind, and with masquerading.
    daemon.set_flanneld(Flanneld::on_etcd(&etcd).arguments("--ip-masq --ip-blackhole-route"));
    daemon.restart()?;
    let running = state(node.netns())?;
    ensure!(running.contains("flannel.1") && running.contains("lease.json"), "{running}");

    ctl(&["node", "cleanup"])?.expect(1, &["flanneld is running on this node", "systemctl stop flanneld"])?;
    daemon.stop()?;
    let stopped = state(node.netns())?;
    ctl(&["node", "cleanup", "--dry-run"])?.expect(0, &["flannel.1", "would be removed", "subnet.env"])?;
    expect_same(&stopped, &state(node.netns())?)?;
    let done = ctl(&["node", "cleanup"])?.expect(0, &["flannel.1", "removed"])?;
    ensure!(done.stdout.lines().all(|line| line.chars().count() <= 80), "{}", done.stdout);
    expect_same(&before, &state(node.netns())?)?;
    ctl(&["node", "cleanup"])?.expect(0, &["nothing to remove"])?;
    // And flannel can come back.
    daemon.start()?;
    daemon.wait_ready()
}

#[test]
fn cleanup_restores_the_node_with_nftables() {
    lab(|lab| cleaned_after_a_run(lab, NFTABLES));
}

#[test]
fn cleanup_restores_the_node_with_iptables() {
    lab(|lab| cleaned_after_a_run(lab, IPTABLES));
}

/// The chains of Go's daemon in one variant of iptables.
fn go_chains(netns: &Netns, variant: &str) -> Result<()> {
    for (stem, cluster) in [("iptables", "10.42.0.0/16"), ("ip6tables", "fd00:42::/48")] {
        let rules = format!(
            "*nat\n:FLANNEL-POSTRTG - [0:0]\n\
             -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
             -A FLANNEL-POSTRTG -s {cluster} -m comment --comment \"flanneld masq\" -j MASQUERADE\nCOMMIT\n\
             *filter\n:FLANNEL-FWD - [0:0]\n\
             -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n\
             -A FLANNEL-FWD -s {cluster} -m comment --comment \"flanneld forward\" -j ACCEPT\nCOMMIT\n"
        );
        netns.feed(&[&format!("{stem}{variant}-restore"), "--noflush"], &rules)?;
    }
    Ok(())
}

/// What Go flannel leaves: devices without alias, protocol `boot`, chains, tables.
fn go_state(node: &Node) -> Result<()> {
    let netns = node.netns();
    netns.ip_batch(
        "link add flannel.1 type vxlan id 1 dev eth0 local 192.168.50.1 dstport 8472 nolearning\n\
         addr add 10.42.1.0/32 dev flannel.1\n\
         link set flannel.1 up\n\
         neigh add 10.42.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1 nud permanent\n\
         route add 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink proto boot\n\
         link add flannel-v6.1 type vxlan id 1 dev eth0 local fd50::1 dstport 8472 nolearning\n\
         route add 10.42.3.0/24 via 192.168.50.3 dev eth0 proto boot\n\
         route add blackhole 10.42.1.0/24 proto boot\n\
         link add cni0 type bridge\n\
         addr add 10.42.1.1/24 dev cni0\n",
    )?;
    go_chains(netns, "")?;
    netns.feed(
        &["nft", "-f", "-"],
        "table ip flannel-ipv4 {\n chain postrtg {\n type nat hook postrouting priority 100;\n ip saddr 10.42.0.0/16 masquerade\n }\n }\n\
         table ip6 flannel-ipv6 {\n chain forward {\n type filter hook forward priority 0;\n accept\n }\n }\n",
    )?;
    let write = |path: &str, text: &str| -> Result<()> {
        let file = node.file(path)?;
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        Ok(fs::write(file, text)?)
    };
    write(
        "/run/flannel/subnet.env",
        "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
    )?;
    write("/var/lib/cni/flannel/0123456789abcdef", r#"{"name":"cbr0","type":"bridge"}"#)
}

#[test]
fn cleanup_removes_the_state_of_go_flannel() {
    lab(|lab| {
        lab.require(&[Feature::Iptables])?;
        let (cluster, etcd) = start(lab, 1, NFTABLES)?;
        let node = &cluster.nodes[0];
        let ctl = |arguments: &[&str]| node.flannelctl(&etcd.flags(), arguments);
        let record = r#"{"PublicIP":"192.168.50.3","PublicIPv6":null,"BackendType":"host-gw"}"#;
        etcd.put(&format!("{PREFIX}/subnets/10.42.3.0-24"), record)?;
        foreign(node.netns())?;
        // The administrator's, though it is in the network of the pods.
        node.netns().ip("route add 10.42.200.0/24 via 192.168.50.254 dev eth0 proto boot")?;
        node.netns().ip("link add flannel9 type bridge")?;
        let before = state(node.netns())?;
        go_state(node)?;
        let with_go = state(node.netns())?;
        let said = ctl(&["node", "cleanup", "--dry-run", "--cni"])?.expect(0, &["10.42.3.0/24", "cni0"])?;
        ensure!(said.stderr.contains("10.42.200.0/24") && said.stderr.contains("flannel9"), "{said:?}");
        expect_same(&with_go, &state(node.netns())?)?;
        ctl(&["node", "cleanup"])?.expect(0, &[])?;
        let without_cni = state(node.netns())?;
        ensure!(
            without_cni.contains("cni0") && without_cni.contains("/var/lib/cni/flannel"),
            "{without_cni}"
        );
        ctl(&["node", "cleanup", "--cni"])?.expect(0, &["cni0"])?;
        expect_same(&before, &state(node.netns())?)
    });
}

/// Rules in the old tables of iptables, beside those of others.
#[test]
fn cleanup_removes_legacy_iptables_rules() {
    lab(|lab| {
        lab.require(&[Feature::IptablesLegacy])?;
        let cluster = lab.cluster(1)?;
        let node = &cluster.nodes[0];
        let netns = node.netns();
        let saved = || -> Result<String> {
            let mut text = String::new();
            for tool in ["iptables-legacy-save", "ip6tables-legacy-save"] {
                let shown = netns.run(tool)?;
                let steady = shown.lines().filter(|line| !line.starts_with('#'));
                text.extend(steady.map(|line| format!("{}\n", line.split(" [").next().unwrap_or(line))));
            }
            Ok(text)
        };
        for tool in ["iptables-legacy-restore", "ip6tables-legacy-restore"] {
            let site = "*filter\n:SITE - [0:0]\n-A FORWARD -m comment --comment \"not flanneld\" -j SITE\nCOMMIT\n*nat\nCOMMIT\n";
            netns.feed(&[tool, "--noflush"], site)?;
        }
        let before = saved()?;
        go_chains(netns, "-legacy")?;
        let with_go = saved()?;
        ensure!(with_go.contains("FLANNEL-POSTRTG") && with_go.contains("FLANNEL-FWD"), "{with_go}");
        let ctl = |arguments: &[&str]| node.flannelctl(&[], arguments);
        ctl(&["node", "cleanup", "--dry-run"])?.expect(0, &["would be removed", "of iptables"])?;
        expect_same(&with_go, &saved()?)?;
        ctl(&["node", "cleanup"])?.expect(0, &["removed", "of iptables"])?;
        expect_same(&before, &saved()?)?;
        ctl(&["node", "cleanup"])?.expect(0, &["nothing to remove"]).map(drop)
    });
}

/// The devices of the backends other than vxlan, and devices of others with names or kinds like theirs.
fn cleanup_removes_devices(lab: &Lab, ours: &str, theirs: &str) -> Result<()> {
    let cluster = lab.cluster(1)?;
    let node = &cluster.nodes[0];
    let links = || node.netns().ip("-d link show");
    node.netns().ip_batch(theirs)?;
    let before = links()?;
    node.netns().ip_batch(ours)?;
    let ctl = |arguments: &[&str]| node.flannelctl(&[], arguments);
    let names: Vec<&str> = ours.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    ctl(&["node", "cleanup", "--dry-run"])?.expect(0, &names)?;
    ctl(&["node", "cleanup"])?.expect(0, &names)?;
    expect_same(&before, &links()?)?;
    ctl(&["node", "cleanup"])?.expect(0, &["nothing to remove"]).map(drop)
}

#[test]
fn cleanup_removes_the_devices_of_udp() {
    lab(|lab| {
        lab.require(&[Feature::Tun])?;
        let ours = "tuntap add flannel0 mode tun\ntuntap add flannel12 mode tun\n";
        cleanup_removes_devices(lab, ours, "tuntap add tun0 mode tun\ntuntap add flannelx mode tun\n")
    });
}

#[test]
fn cleanup_removes_the_devices_of_wireguard() {
    lab(|lab| {
        lab.require(&[Feature::Wireguard])?;
        let ours = "link add flannel-wg type wireguard\nlink add flannel-wg-v6 type wireguard\n";
        cleanup_removes_devices(lab, ours, "link add wg0 type wireguard\n")
    });
}

#[test]
fn cleanup_removes_the_device_of_ipip() {
    lab(|lab| {
        lab.require(&[Feature::Ipip])?;
        let ours = "link add flannel.ipip type ipip local 192.168.50.1\n";
        cleanup_removes_devices(
            lab,
            ours,
            "link add site.ipip type ipip local 192.168.50.1 remote 192.168.50.9\n",
        )
    });
}

/// Addresses, and what the flannel plugin saves of containers, where the CNI config says that they are kept.
#[test]
fn ipam_and_cleanup_use_the_directories_of_the_cni_config() {
    lab(|lab| {
        let (cluster, etcd) = start(lab, 1, NFTABLES)?;
        let node = &cluster.nodes[0];
        let ctl = |arguments: &[&str]| node.flannelctl(&etcd.flags(), arguments);
        let mut daemon = run(node, &etcd)?;
        let plugin = serde_json::json!({
            "type": "flannel",
            "dataDir": "/var/lib/cni/saved",
            "ipam": {"dataDir": "/var/lib/cni/given"},
            "delegate": {"isDefaultGateway": true, "bridge": "br-pods"},
        });
        let list = serde_json::json!({"name": "cluster", "cniVersion": "0.3.1", "plugins": [plugin]});
        fs::write(node.file("/etc/cni/net.d/10-flannel.conflist")?, list.to_string())?;
        // Of others, at the same places.
        for (file, text) in [("saved/notes", "{}"), ("given/other/198.51.100.7", "somebody")] {
            let file = node.file(&format!("/var/lib/cni/{file}"))?;
            fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
            fs::write(file, text)?;
        }
        let pod = node.add_pod_with("a", &Conflist::new("cluster", "0.3.1", vec![plugin]))?;
        let address = pod.address(true)?.to_string();
        ctl(&["ipam", "list"])?.expect(0, &[&address, "cluster", "alive"])?;
        daemon.stop()?;
        ctl(&["node", "cleanup", "--cni"])?.expect(1, &["pods are running on this node", "n1-a"])?;
        pod.netns.delete()?;
        ctl(&["node", "cleanup", "--cni", "--dry-run"])?.expect(0, &[&address, "/var/lib/cni/saved/n1-a"])?;
        ctl(&["node", "cleanup", "--cni"])?.expect(0, &["br-pods", "ip link del br-pods"])?;
        let left = node.netns().run("find /var/lib/cni/given /var/lib/cni/saved -type f")?;
        let mut left: Vec<&str> = left.lines().collect();
        left.sort_unstable();
        ensure!(left == ["/var/lib/cni/given/other/198.51.100.7", "/var/lib/cni/saved/notes"], "{left:?}");
        node.netns().ip("link show br-pods").map(drop)
    });
}

#[test]
fn leaked_addresses_are_found_and_released() {
    lab(|lab| {
        let (cluster, etcd) = start(lab, 1, NFTABLES)?;
        let node = &cluster.nodes[0];
        let ctl = |arguments: &[&str]| node.flannelctl(&etcd.flags(), arguments);
        let mut daemon = run(node, &etcd)?;
        let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
        let (kept, lost) = (a.address(true)?.to_string(), b.address(true)?.to_string());
        let listed = ctl(&["ipam", "list"])?.expect(0, &[&kept, &lost, "alive"])?;
        ensure!(listed.stdout.lines().all(|line| line.chars().count() <= 80), "{}", listed.stdout);
        ctl(&["ipam", "check"])?.expect(0, &["2 addresses"])?;
        ctl(&["ipam", "release", &kept, "--yes"])?.expect(1, &["is used by container n1-a"])?;
        // Nobody says DEL.
        b.netns.delete()?;
        ctl(&["ipam", "check"])?.expect(3, &["ipam-leaked", "flannelctl ipam release --leaked"])?;
        ctl(&["ipam", "release", "--leaked", "--yes"])?.expect(0, &[&format!("{lost} released")])?;
        ctl(&["ipam", "check"])?.expect(0, &["1 address in 1 network"])?;

        daemon.stop()?;
        ctl(&["node", "cleanup", "--cni"])?.expect(1, &["pods are running on this node", "n1-a"])?;
        a.netns.delete()?;
        ctl(&["node", "cleanup", "--cni"])?.expect(0, &["cni0", &kept])?;
        let after = state(node.netns())?;
        ensure!(!after.contains("cni0") && !after.contains("/var/lib/cni/networks/"), "{after}");
        daemon.start()?;
        daemon.wait_ready()
    });
}
