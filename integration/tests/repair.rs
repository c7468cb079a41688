//! The kernel matches the leases: every kind of damage, one after another in random order, is repaired in under a
//! second while pods talk, and what is not ours is never touched.
//!
//! The measure is everything that the kernel of a node holds, ours and that of others, as text: after each repair it
//! must be what it was before the damage, line by line.
//!
//! The order of the damages comes from a seed that is printed; `FLANNEL_E2E_SEED=N` repeats one.

use anyhow::{Context, Result, ensure};
use integration::golden::{Peer, vxlan_device};
use integration::random;
use integration::traffic::{Connection, Datagrams};
use integration::{Cluster, Feature, Flanneld, Netns, Pod, kernel_state, lab, wait};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

/// Promised is a second; the rest is for looking, and for a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(4);
const INTERVAL: Duration = Duration::from_millis(10);
const VXLAN: &str = r#"{"Type":"vxlan"}"#;

#[test]
fn vxlan_v4() {
    vxlan(true);
}

#[test]
fn vxlan_v6() {
    vxlan(false);
}

fn vxlan(v4: bool) {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let site = Site::build(lab, VXLAN)?;
        let (own, peer) = site.ends(v4)?;
        let mut damages = on_device(v4, &own, &peer)?;
        damages.extend(on_route(v4, &own, &peer, vxlan_device(v4)));
        damages.extend(on_firewall(v4));
        damages.extend(on_host(v4));
        site.damage_and_watch(damages)
    });
}

#[test]
fn host_gw_v4() {
    host_gw(true);
}

#[test]
fn host_gw_v6() {
    host_gw(false);
}

fn host_gw(v4: bool) {
    lab(|lab| {
        lab.require(&[Feature::Nft])?;
        let site = Site::build(lab, r#"{"Type":"host-gw"}"#)?;
        let (own, peer) = site.ends(v4)?;
        let mut damages = on_route(v4, &own, &peer, "eth0");
        damages.extend(on_host(v4));
        site.damage_and_watch(damages)
    });
}

/// The nodes are on one link: plain routes, beside a tunnel device that no peer needs.
#[test]
fn vxlan_with_direct_routing() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let site = Site::build(lab, r#"{"Type":"vxlan","DirectRouting":true}"#)?;
        let (own, peer) = site.ends(true)?;
        let mut damages = on_device(true, &own, &peer)?;
        for v4 in [true, false] {
            let (own, peer) = site.ends(v4)?;
            damages.extend(on_route(v4, &own, &peer, "eth0"));
        }
        damages.retain(|damage| {
            let entry = ["neighbour", "FDB entry"].iter().any(|of_peer| damage.name.starts_with(of_peer));
            !entry && !damage.name.starts_with("all ")
        });
        site.damage_and_watch(damages)
    });
}

/// Damage that is done while no daemon runs is repaired by the time that the next one says it is ready.
#[test]
fn changes_while_the_daemon_is_stopped() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let mut site = Site::build(lab, VXLAN)?;
        let mut damages = Vec::new();
        for v4 in [true, false] {
            let (own, peer) = site.ends(v4)?;
            damages.extend(on_device(v4, &own, &peer)?);
            damages.extend(on_route(v4, &own, &peer, vxlan_device(v4)));
            damages.extend(on_firewall(v4));
        }
        // With any other damage to the same device nothing shows any more whose it was.
        damages.retain(|damage| !["alias changed", "device renamed"].contains(&damage.name.as_str()));
        let mut rng = random::from_environment()?;
        let before = site.prepare()?;
        for _ in 0..8 {
            rng.shuffle(&mut damages);
            site.daemons[0].kill()?;
            let mut done = Vec::new();
            for damage in &damages[..10] {
                for line in &damage.commands {
                    // Some cannot be done after others.
                    if site.damaged().run(line).is_ok() {
                        done.push(line.as_str());
                    }
                }
            }
            site.daemons[0].start()?;
            site.daemons[0].wait_ready()?;
            let after = state(site.damaged())?;
            ensure!(after == before, "after {}:{}", done.join("; "), difference(&before, &after));
        }
        Ok(())
    });
}

/// Thousands of stale objects at once go, and no packet of those that talk is lost over it.
#[test]
fn stress() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let site = Site::build(lab, VXLAN)?;
        let before = site.prepare()?;
        let (mut ip, mut bridge) = (String::new(), String::new());
        for number in 0..3000_u32 {
            let [_, _, high, low] = number.to_be_bytes();
            let (address, mac) =
                (format!("172.20.{high}.{low}"), format!("0a:00:00:00:{high:02x}:{low:02x}"));
            ip += &format!("route add {address}/32 via {address} dev flannel.1 onlink\n");
            ip += &format!("neigh add {address} lladdr {mac} dev flannel.1 nud permanent\n");
            bridge += &format!("fdb add {mac} dev flannel.1 dst {address} self permanent\n");
        }
        let (from, to) = (&site.pods[0].netns, &site.pods[1]);
        let flow = Datagrams::start(from, &to.netns, to.address(true)?, INTERVAL)?;
        // Some go while others come: that is as it should be.
        site.damaged().ip_batch(&ip)?;
        site.damaged().feed(&["bridge", "-batch", "-"], &bridge)?;
        let took = site.wait_repaired("storm", &before)?;
        eprintln!("the last one of 9000 was gone {took:?} after it came");
        flow.stop()?.expect_none_lost()
    });
}

/// What bears our mark and is not wanted goes, and what is in the way of our device is waited for, both at once and
/// not with the next look at everything.
#[test]
fn unmanaged_devices() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let site = Site::build(lab, VXLAN)?;
        let before = site.prepare()?;
        let netns = site.damaged();
        netns.ip("link add vx7 type vxlan id 7 dstport 4791 local 192.168.50.1")?;
        // Up, or the kernel tells nobody of the mark.
        netns.feed(
            &["ip", "-batch", "-"],
            "link set vx7 up\nlink set vx7 alias \"flannel 10.42.0.0/16 fd00:42::/48\"\n",
        )?;
        let took = site.wait_repaired("device under our mark", &before)?;
        ensure!(took <= LIMIT, "gone after {took:?}");

        // One of the same VNI and port, made while ours is away, which is not ours to remove.
        let daemon = &site.daemons[0];
        daemon.signal(Signal::SIGSTOP)?;
        netns.ip("link del flannel.1")?;
        netns.ip("link add vx7 type vxlan id 1 dstport 8472 local 192.168.50.1")?;
        daemon.signal(Signal::SIGCONT)?;
        // The pause between two tries has doubled often enough to show.
        wait::until("the device is tried 7 times", wait::LONG, || {
            let tries = daemon.log()?.matches("reason=retry").count();
            ensure!(tries >= 6, "{tries} tries");
            Ok(())
        })?;
        netns.ip("link del vx7")?;
        let took = site.wait_repaired("device in the way", &before)?;
        ensure!(took < Duration::from_millis(2500), "made anew after {took:?}");
        Ok(())
    });
}

/// ```text
///   pod ── n1 ── lan ── n2 ── pod
///          └ damaged
/// ```
struct Site {
    cluster: Cluster,
    daemons: Vec<integration::Daemon>,
    pods: Vec<Pod>,
    /// The hardware address of `eth0`, which it keeps when its driver is loaded anew.
    mac: String,
}

/// One damage.
struct Damage {
    name: String,
    commands: Vec<String>,
    /// What else has to be done, as the system around us would.
    after: After,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Nothing,
    /// The kernel has taken objects of others along; whoever set them sets them again.
    Others,
    /// The underlay device is gone and comes back as a new one.
    Underlay,
}

fn damage(name: &str, commands: &[&str]) -> Damage {
    let commands = commands.iter().map(|line| (*line).to_owned()).collect();
    Damage { name: name.to_owned(), commands, after: After::Nothing }
}

impl Site {
    fn build(lab: &integration::Lab, backend: &str) -> Result<Self> {
        let cluster = lab.cluster(2)?;
        let leases = lab.directory("directory/leases")?;
        // Objects of others and wrong ones are in what is left of the networks.
        let config = format!(
            r#"{{"Network":"10.42.0.0/16","SubnetMin":"10.42.100.0","SubnetMax":"10.42.199.0",
                "IPv6Network":"fd00:42::/48","IPv6SubnetMin":"fd00:42:0:1000::","IPv6SubnetMax":"fd00:42:0:ff00::",
                "EnableIPv6":true,"EnableNFTables":true,"Backend":{backend}}}"#
        );
        fs::write(leases.join("config"), config).context("could not write the network config")?;
        let flanneld = Flanneld::on_directory(&leases).arguments("--ip-masq --ip-blackhole-route");
        let daemons = cluster.start_all(&flanneld)?;
        let pods = cluster.nodes.iter().map(|node| node.add_pod("pod")).collect::<Result<Vec<_>>>()?;
        let mac = kernel_state::mac(cluster.nodes[0].netns(), "eth0")?;
        Ok(Self { cluster, daemons, pods, mac })
    }

    fn damaged(&self) -> &Netns {
        self.cluster.nodes[0].netns()
    }

    fn ends(&self, v4: bool) -> Result<(Peer, Peer)> {
        Ok((Peer::of(&self.cluster.nodes[0], v4)?, Peer::of(&self.cluster.nodes[1], v4)?))
    }

    /// Sets objects of others, and waits until pods reach each other; answers with the state that must stay.
    fn prepare(&self) -> Result<Vec<String>> {
        self.damaged().ip("rule add from 203.0.113.0/24 lookup 100 pref 1000")?;
        self.damaged().ip("link add vx9 type vxlan id 9 dstport 4790 local 192.168.50.1")?;
        self.set_others()?;
        for v4 in [true, false] {
            self.pods[0].netns.wait_ping(self.pods[1].address(v4)?)?;
        }
        state(self.damaged())
    }

    /// Waits until everything is as before; how long that took.
    fn wait_repaired(&self, what: &str, before: &[String]) -> Result<Duration> {
        let started = Instant::now();
        wait::until(format!("`{what}` is repaired"), wait::LONG, || {
            let now = state(self.damaged())?;
            ensure!(now == before, "{}", difference(before, &now));
            Ok(())
        })?;
        Ok(started.elapsed())
    }

    /// Does one damage after another; each must be repaired, and nothing else changed, before the next.
    fn damage_and_watch(mut self, mut damages: Vec<Damage>) -> Result<()> {
        random::from_environment()?.shuffle(&mut damages);
        let before = self.prepare()?;
        let (from, to) = (&self.pods[0], &self.pods[1]);
        let mut flows = Vec::new();
        for v4 in [true, false] {
            flows.push(Datagrams::start(&from.netns, &to.netns, to.address(v4)?, INTERVAL)?);
        }
        let connection = Connection::start(&from.netns, &to.netns, to.address(true)?)?;
        let pid = self.daemons[0].pid()?;
        let mut times = Vec::new();
        for damage in &damages {
            self.inflict(damage).with_context(|| damage.name.clone())?;
            let started = Instant::now();
            let repaired = self.wait_repaired(&damage.name, &before)?;
            flows.iter().try_for_each(|flow| flow.wait_answered(1)).with_context(|| damage.name.clone())?;
            times.push((repaired, started.elapsed(), &damage.name));
        }
        times.sort();
        eprintln!("repaired and traffic flows, after milliseconds:");
        for (repaired, flows, name) in &times {
            eprintln!("{:>6}{:>6}  {name}", repaired.as_millis(), flows.as_millis());
        }
        eprintln!("TCP: {:?}", connection.stop()?);
        for flow in flows {
            let report = flow.stop()?;
            eprintln!("{} datagrams, {} lost", report.sent, report.lost.len());
        }
        ensure!(self.daemons[0].running()? && self.daemons[0].pid()? == pid, "the daemon was restarted");
        let (took, _, name) = times.last().context("no damage was done")?;
        ensure!(*took <= LIMIT, "the repair of `{name}` took {took:?}");
        Ok(())
    }

    fn inflict(&self, damage: &Damage) -> Result<()> {
        // It would repair what the first of several commands did before the next one comes.
        let asleep = damage.commands.len() > 1 && damage.after == After::Nothing;
        if asleep {
            self.daemons[0].signal(Signal::SIGSTOP)?;
        }
        for line in &damage.commands {
            self.damaged().run(line)?;
        }
        if asleep {
            self.daemons[0].signal(Signal::SIGCONT)?;
        }
        if damage.after == After::Underlay {
            let addresses = &self.cluster.nics[0].addresses;
            self.cluster.lan.attach(self.damaged(), "eth0", addresses)?;
            self.damaged().ip(&format!("link set eth0 address {}", self.mac))?;
        }
        if damage.after != After::Nothing {
            self.set_others()?;
        }
        Ok(())
    }

    /// What the administrator and other programs have on the node. Some of it looks much like ours.
    fn set_others(&self) -> Result<()> {
        let netns = self.damaged();
        netns.ip_batch(
            "addr replace 203.0.113.5/32 dev eth0
             addr replace fd50::1/64 dev eth0 nodad
             route replace default via 192.168.50.254 dev eth0
             route replace default via fd50::254 dev eth0
             route replace 198.51.100.0/24 via 192.168.50.254 dev eth0 proto static
             route replace 10.42.200.0/24 via 192.168.50.77 dev eth0
             route replace fd00:42:0:c8::/64 via fd50::77 dev eth0
             route replace default via 192.168.50.254 dev eth0 table 100
             neigh replace 192.168.50.77 lladdr 0a:00:00:00:00:77 dev eth0 nud permanent
             link set vx9 up
             addr replace 10.99.0.1/24 dev vx9
             neigh replace 10.99.0.2 lladdr 0a:00:00:00:00:02 dev vx9 nud permanent
             route replace 10.98.0.0/16 via 10.99.0.2 dev vx9\n",
        )?;
        netns.run("bridge fdb replace 0a:00:00:00:00:02 dev vx9 dst 192.168.50.99 self permanent")?;
        netns
            .feed(
                &["nft", "-f", "-"],
                "table ip others\ndelete table ip others\n\
                 table ip others { chain c { type filter hook forward priority 5; ip daddr 192.0.2.1 drop; }; }\n",
            )
            .map(drop)
    }
}

/// Damage of the tunnel device and of what lives on it.
#[expect(clippy::too_many_lines, reason = "one scenario")]
fn on_device(v4: bool, own: &Peer, peer: &Peer) -> Result<Vec<Damage>> {
    let device = vxlan_device(v4);
    let host = if v4 { 32 } else { 128 };
    let own_address = format!("{}/{host}", own.subnet.addr());
    let (wrong_address, stale, elsewhere) = if v4 {
        ("10.42.99.9/32", "10.42.77.0", "192.168.50.99")
    } else {
        ("fd00:42:0:99::9/128", "fd00:42:0:77::", "fd50::99")
    };
    let (zero, public) = (peer.subnet.addr(), peer.public);
    let mac = peer.mac.as_deref().context("the peer has no tunnel device")?;
    let wrong_mac = "0a:de:ad:00:00:01";
    let neighbour = format!("ip neigh replace {zero} dev {device}");
    let entry = format!("bridge fdb replace {mac} dev {device} self permanent");
    Ok(vec![
        damage("device deleted", &[&format!("ip link del {device}")]),
        damage("device set down", &[&format!("ip link set {device} down")]),
        damage("MTU changed", &[&format!("ip link set {device} mtu 1290")]),
        damage("MAC changed", &[&format!("ip link set {device} address {wrong_mac}")]),
        damage("learning turned on", &[&format!("ip link set {device} type vxlan learning")]),
        damage(
            "local address changed",
            &[&format!("ip link set {device} type vxlan id 1 local {elsewhere}")],
        ),
        damage("alias changed", &[&format!("ip link set {device} alias mine")]),
        damage("device renamed", &[&format!("ip link set {device} name mine")]),
        damage(
            "bridge under the device's name",
            &[&format!("ip link del {device}"), &format!("ip link add {device} type bridge")],
        ),
        damage(
            "device with another VNI and port",
            &[
                &format!("ip link del {device}"),
                &format!("ip link add {device} type vxlan id 3 dstport 4791 local {}", own.public),
            ],
        ),
        damage("address removed", &[&format!("ip addr del {own_address} dev {device}")]),
        damage("wrong address", &[&format!("ip addr add {wrong_address} dev {device}")]),
        damage("neighbour deleted", &[&format!("ip neigh del {zero} dev {device}")]),
        damage("neighbour with a wrong MAC", &[&format!("{neighbour} lladdr {wrong_mac} nud permanent")]),
        damage("neighbour not permanent", &[&format!("{neighbour} lladdr {mac} nud stale")]),
        damage(
            "stale neighbour",
            &[&format!("ip neigh add {stale} dev {device} lladdr {wrong_mac} nud permanent")],
        ),
        damage("FDB entry deleted", &[&format!("bridge fdb del {mac} dev {device} dst {public} self")]),
        damage("FDB entry points elsewhere", &[&format!("{entry} dst {elsewhere}")]),
        damage(
            "FDB entry not permanent",
            &[&format!("bridge fdb replace {mac} dev {device} dst {public} self dynamic")],
        ),
        damage(
            "stale FDB entry",
            &[&format!("bridge fdb add {wrong_mac} dev {device} dst {elsewhere} self permanent")],
        ),
        damage(
            "flooding to two destinations",
            &[
                &format!("bridge fdb append 00:00:00:00:00:00 dev {device} dst {public} self permanent"),
                &format!("bridge fdb append 00:00:00:00:00:00 dev {device} dst {elsewhere} self permanent"),
            ],
        ),
        damage("all FDB entries flushed", &[&format!("bridge fdb flush dev {device}")]),
        damage(
            "all neighbours flushed",
            &[&format!("ip {} neigh flush dev {device} nud permanent", family(v4))],
        ),
    ])
}

const fn family(v4: bool) -> &'static str {
    if v4 { "-4" } else { "-6" }
}

/// Damage of routes; `device` is where those of ours lead.
fn on_route(v4: bool, own: &Peer, peer: &Peer, device: &str) -> Vec<Damage> {
    let family = family(v4);
    let number = flannel_core::dataplane::PROTOCOL;
    let (router, stale, metric, of_blackhole) = if v4 {
        ("192.168.50.254", "10.42.77.0", "0", "4294967295")
    } else {
        ("fd50::254", "fd00:42:0:77::", "1024", "1024")
    };
    let prefix = peer.subnet.prefix_len();
    let via = if device == "eth0" { router } else { stale };
    let subnet = format!("{} metric {metric}", peer.subnet);
    let blackhole = format!("{} metric {of_blackhole}", own.subnet);
    let route = format!("ip {family} route");
    vec![
        damage("route deleted", &[&format!("{route} del {subnet}")]),
        damage("route by another gateway", &[&format!("{route} replace {subnet} via {router} dev eth0")]),
        damage("second route of the same key", &[&format!("{route} append {subnet} via {router} dev eth0")]),
        damage(
            "route of another protocol number",
            &[
                &format!("{route} del {subnet}"),
                &format!(
                    "{route} add {subnet} via {} dev {device} onlink proto static",
                    next_hop(peer, device)
                ),
            ],
        ),
        damage("route made a blackhole", &[&format!("{route} replace blackhole {subnet}")]),
        damage(
            "route made unreachable",
            &[&format!("{route} del {subnet}"), &format!("{route} add unreachable {subnet}")],
        ),
        damage(
            "stale route",
            &[&format!("{route} add {stale}/{prefix} via {via} dev {device} onlink proto {number}")],
        ),
        damage("blackhole of our own subnet deleted", &[&format!("{route} del blackhole {blackhole}")]),
        damage("all our routes flushed", &[&format!("{route} flush proto {number}")]),
    ]
}

fn next_hop(peer: &Peer, device: &str) -> std::net::IpAddr {
    if device == "eth0" { peer.public } else { peer.subnet.addr() }
}

fn on_firewall(v4: bool) -> Vec<Damage> {
    let (table, net) = if v4 {
        ("ip flannel-ipv4", "ip saddr 192.0.2.0/24")
    } else {
        ("ip6 flannel-ipv6", "ip6 saddr 2001:db8::/32")
    };
    vec![
        damage("nft table deleted", &[&format!("nft delete table {table}")]),
        damage("nft table flushed", &[&format!("nft flush table {table}")]),
        damage("nft chain flushed", &[&format!("nft flush chain {table} postrtg")]),
        damage("foreign rule in our nft chain", &[&format!("nft insert rule {table} forward {net} drop")]),
    ]
}

fn on_host(v4: bool) -> Vec<Damage> {
    let mut down_and_up =
        damage("external interface down and up", &["ip link set eth0 down", "ip link set eth0 up"]);
    down_and_up.after = After::Others;
    let family = if v4 { "-4" } else { "-6" };
    let flush = format!("ip {family} addr flush dev cni0");
    let mut damages = vec![
        down_and_up,
        damage("gateway of pods removed", &[&flush]),
        damage("link-local address of the bridge removed", &["ip -6 addr flush dev cni0 scope link"]),
        damage("bridge of pods down", &["ip link set cni0 down"]),
    ];
    // The two families share the interface: once is enough.
    if v4 {
        let mut anew = damage("external interface deleted and made anew", &["ip link del eth0"]);
        anew.after = After::Underlay;
        damages.push(anew);
    }
    damages
}

/// All that the kernel of a node holds, one object a line, without what changes by itself.
fn state(netns: &Netns) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let links: Value =
        serde_json::from_str(&netns.ip("-d -j addr show")?).context("ip did not answer JSON")?;
    for link in links.as_array().into_iter().flatten() {
        lines.extend(link_lines(link));
    }
    for (what, command) in [
        ("route", "ip -4 route show table all"),
        ("route", "ip -6 route show table all"),
        ("rule", "ip -4 rule show"),
        ("rule", "ip -6 rule show"),
        ("neigh", "ip -4 neigh show nud permanent"),
        ("neigh", "ip -6 neigh show nud permanent"),
        ("fdb", "bridge fdb show"),
    ] {
        let shown = netns.run(command)?;
        let kept = shown.lines().filter(|line| what != "fdb" || line.contains(" dst "));
        lines.extend(
            kept.map(|line| format!("{what} {}", line.split_whitespace().collect::<Vec<_>>().join(" "))),
        );
    }
    let ruleset = kernel_state::ruleset(netns)?;
    lines.extend(
        ruleset
            .split("\ntable ")
            .map(|table| format!("table {}", table.trim_start_matches("table ").trim_end())),
    );
    // Link-local addresses come and go with interfaces, and are random where a MAC was changed. The kernel needs that of
    // the pods' bridge for packets from outside.
    lines.retain(|line| !line.contains("fe80::") || line.starts_with("addr \"cni0\""));
    lines.sort();
    Ok(lines)
}

/// An interface and its addresses.
fn link_lines(link: &Value) -> Vec<String> {
    let kind = &link["linkinfo"]["info_kind"];
    // Those of a bridge count timers.
    let parameters = if kind == "vxlan" { link["linkinfo"]["info_data"].to_string() } else { String::new() };
    let up = link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
    let name = &link["ifname"];
    let mut lines = vec![format!(
        "link {name} {kind} mtu {} mac {} up {up} alias {} {parameters}",
        link["mtu"], link["address"], link["ifalias"]
    )];
    for address in link["addr_info"].as_array().into_iter().flatten() {
        lines.push(format!("addr {name} {}/{} {}", address["local"], address["prefixlen"], address["scope"]));
    }
    lines
}

fn difference(before: &[String], now: &[String]) -> String {
    let missing = before.iter().filter(|line| !now.contains(line)).map(|line| format!("\n  missing: {line}"));
    let extra = now.iter().filter(|line| !before.contains(line)).map(|line| format!("\n  extra:   {line}"));
    missing.chain(extra).collect()
}
