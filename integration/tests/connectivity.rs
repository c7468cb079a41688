//! `flannelctl connectivity`: loss, round trip and largest packet between nodes, and the whole matrix.

use anyhow::{Context, Result, ensure};
use integration::golden::Stack;
use integration::{Cluster, Feature, Flanneld, Lab, LeaseDirectory, Node, lab};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

mod browser;

fn nodes(lab: &Lab, stack: Stack, backend: &str) -> Result<(Cluster, Vec<String>)> {
    lab.require(&[Feature::Vxlan, Feature::Nft, Feature::CniPlugins])?;
    let cluster = lab.cluster(3)?;
    let config = stack.config(backend).replacen('{', "{\"EnableNFTables\":true,", 1);
    let leases = LeaseDirectory::new(lab, &config)?;
    cluster.start_all(&Flanneld::on_directory(leases.path()))?;
    Ok((cluster, vec![format!("--lease-dir={}", leases.path().display())]))
}

/// The paths of a run on a node.
fn paths(node: &Node, store: &[String], code: i32, flags: &[&str]) -> Result<Vec<Value>> {
    let arguments = [&["connectivity", "test", "-o", "json", "--timeout", "300"], flags].concat();
    let answer = node.flannelctl(store, &arguments)?;
    let result = answer.clone().expect(code, &[])?.json()?;
    result["paths"].as_array().cloned().with_context(|| format!("no paths in {answer:?}"))
}

fn to<'a>(paths: &'a [Value], node: &Node, v4: bool) -> Result<&'a Value> {
    let subnet = node.subnet(v4)?;
    let target = |path: &&Value| {
        let address = path["target"].as_str().and_then(|text| text.parse::<std::net::IpAddr>().ok());
        address.is_some_and(|address| subnet.contains(&address))
    };
    paths.iter().find(target).with_context(|| format!("no path to {subnet} in {paths:?}"))
}

#[test]
fn healthy_vxlan_network() {
    lab(|lab| {
        let (cluster, store) = nodes(lab, Stack::Dual, r#"{"Type":"vxlan"}"#)?;
        // With bridges, whose network has the address of the tunnel device as anycast address.
        cluster.pods("a")?;
        for node in &cluster.nodes {
            let paths = paths(node, &store, 0, &[])?;
            ensure!(paths.len() == 4, "{paths:?}");
            for path in &paths {
                let expected = if path["family"] == "IPv4" { 1450 } else { 1430 };
                ensure!(path["received"] == path["sent"] && path["sent"] == 5, "{path}");
                ensure!(path["largestPacketBytes"] == expected && path["via"] == "vtep", "{path}");
                ensure!(
                    path["roundTripMilliseconds"]["median"].as_f64().is_some_and(|time| time > 0.0),
                    "{path}"
                );
            }
        }
        let table = cluster.nodes[0]
            .flannelctl(&store, &["connectivity", "test"])?
            .expect(0, &["192.168.50.2", "0%"])?;
        ensure!(table.stdout.lines().all(|line| line.chars().count() <= 80), "{}", table.stdout);
        ensure!(!table.stderr.contains("paths"), "progress without a terminal: {}", table.stderr);
        Ok(())
    });
}

/// With host-gw the bridge answers, and before there is one the node itself.
#[test]
fn targets_of_host_gw() {
    lab(|lab| {
        let (cluster, store) = nodes(lab, Stack::V4, r#"{"Type":"host-gw"}"#)?;
        cluster.nodes[1].add_pod("a")?;
        let paths = paths(&cluster.nodes[0], &store, 0, &["--count", "1"])?;
        let bridge = to(&paths, &cluster.nodes[1], true)?;
        ensure!(bridge["via"] == "bridge" && bridge["largestPacketBytes"] == 1500, "{bridge}");
        let other = paths.iter().find(|path| path["target"] == "192.168.50.3").context("no third node")?;
        ensure!(other["via"] == "underlay" && other["received"] == 1, "{other}");
        Ok(())
    });
}

#[test]
fn unreachable_node_and_smaller_path_mtu() {
    lab(|lab| {
        let (cluster, store) = nodes(lab, Stack::V4, r#"{"Type":"vxlan"}"#)?;
        cluster.nodes[1].netns().run("nft add table inet guard")?;
        cluster.nodes[1]
            .netns()
            .run("nft add chain inet guard in { type filter hook input priority 0 ; }")?;
        cluster.nodes[1].netns().run("nft add rule inet guard in udp dport 8472 drop")?;
        cluster.nics[2].set_switch_mtu(1400)?;
        let paths = paths(&cluster.nodes[0], &store, 3, &["--count", "2"])?;
        let cut = to(&paths, &cluster.nodes[1], true)?;
        ensure!(cut["received"] == 0 && cut["largestPacketBytes"].is_null(), "{cut}");
        let narrow = to(&paths, &cluster.nodes[2], true)?;
        // The switch leaves room for a VLAN tag, the tunnel takes 50 bytes.
        ensure!(narrow["received"] == 2 && narrow["largestPacketBytes"] == 1404 - 50, "{narrow}");
        Ok(())
    });
}

/// From one place by a command, and from files that were made on each node: the same matrix, and a page.
#[test]
fn complete_matrix() {
    lab(|lab| {
        let (cluster, store) = nodes(lab, Stack::V4, r#"{"Type":"vxlan"}"#)?;
        let directory = lab.directory("connectivity")?;
        let file = |name: &str| directory.join(name).display().to_string();
        let mut files = Vec::new();
        for node in &cluster.nodes {
            let flags = ["connectivity", "test", "-o", "json", "--count=2"];
            let answer = node.flannelctl(&store, &flags)?.expect(0, &[])?;
            fs::write(file(node.name()), answer.stdout)?;
            files.push(file(node.name()));
        }
        let merge =
            [&["connectivity", "merge"], &*files.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        let matrix = cluster.nodes[0].flannelctl(&[], &merge)?.expect(0, &["6 paths: 6 fine", "IPv4"])?;
        ensure!(matrix.stdout.lines().all(|line| line.chars().count() <= 80), "{}", matrix.stdout);

        // What ssh is to an administrator.
        let enter = directory.join("enter");
        fs::write(&enter, "#!/bin/sh\nname=n${1##*.}\nshift\nexec ip netns exec \"$name\" \"$@\"\n")?;
        fs::set_permissions(&enter, fs::Permissions::from_mode(0o755))?;
        cluster.nics[2].cut_off()?;
        let program = std::env::current_exe()?;
        let program = program.ancestors().nth(2).context("no directory of programs")?.join("flannelctl");
        let exec = format!("{} {{node}} {}", enter.display(), program.display());
        let page = file("page.html");
        let flags =
            ["connectivity", "test", "--count=2", "--timeout=300", "--exec", &exec, "--output-html", &page];
        let answer = cluster.nodes[0].flannelctl(&store, &flags)?;
        answer.expect(3, &["6 paths: 2 fine, 4 with loss", "LOST", "wrote "])?;
        let html = fs::read_to_string(&page)?;
        // In the list of problems and in the matrix.
        ensure!(html.contains("<svg") && html.matches("<td class=\"bad\"").count() == 2 * 4, "{html}");
        for foreign in ["http://", "https://", "src="] {
            ensure!(!html.contains(foreign), "the page has {foreign}");
        }
        // A host that cannot be entered is named, and the others are measured.
        let exec = format!("{} {{node}} /nowhere/flannelctl", enter.display());
        let answer = cluster.nodes[0].flannelctl(&store, &["connectivity", "test", "--exec", &exec])?;
        answer.expect(3, &["not measured from", "/nowhere/flannelctl"])?;
        let answer = cluster.nodes[0].flannelctl(&store, &["connectivity", "test", "--exec", "ssh host"])?;
        answer.expect(2, &["{node}"])?;
        Ok(())
    });
}

#[test]
fn errors_of_impossible_tests() {
    lab(|lab| {
        let (cluster, store) = nodes(lab, Stack::V4, r#"{"Type":"vxlan"}"#)?;
        // Neither a raw nor a ping socket.
        let program = std::env::current_exe()?;
        let program = program.ancestors().nth(2).context("no directory of programs")?.join("flannelctl");
        let mut command = std::process::Command::new("setpriv");
        command.args(["--bounding-set=-net_raw", "--inh-caps=-net_raw"]).arg(program);
        command.args(&store).args(["connectivity", "test"]);
        let output = cluster.nodes[0].netns().output(&mut command)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && said.contains("CAP_NET_RAW"), "{output:?}");
        // A ping socket will do.
        cluster.nodes[0].netns().set_sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
        let output = cluster.nodes[0].netns().output(&mut command)?;
        ensure!(output.status.code() == Some(0), "{output:?}");
        let broken = lab.directory("broken")?.join("result");
        fs::write(&broken, "{}")?;
        let answer =
            cluster.nodes[0].flannelctl(&[], &["connectivity", "merge", &broken.display().to_string()])?;
        answer.expect(1, &["is not a result of a connectivity test"])?;
        Ok(())
    });
}
