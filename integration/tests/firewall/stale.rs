//! Rules of ours where the mode in use has none, made while flanneld runs.

use super::*;

/// What another program makes in the mode not in use, an older flannel beside us above all: the kernel tells, so it goes at
/// once, and without a program.
#[test]
fn rules_of_the_unused_mode_are_removed() {
    lab(|lab| {
        lab.require(&[Feature::Nft, Feature::Iptables, Feature::BridgeNetfilter])?;
        let (cluster, store) = node(lab, true)?;
        let node = &cluster.nodes[0];
        let others = add_foreign(node)?;
        let restore = |v4: bool, variant: &str| {
            let program = format!("{}{variant}-restore", if v4 { "iptables" } else { "ip6tables" });
            node.netns().feed(&[&program, "--noflush"], &go_rules(v4)).map(drop)
        };
        let path = programs(lab, &[])?;
        let mut daemon = node.start(&store.flanneld().environment("PATH", &path.display().to_string()))?;
        daemon.wait_ready()?;
        for v4 in [true, false] {
            restore(v4, "")?;
            repaired("iptables in nftables mode", || expect_no_iptables(node))?;
        }
        expect_nft(node, RANDOM, true)?;
        // In iptables mode.
        daemon.stop()?;
        store.set(&config(false, "alloc"))?;
        daemon.set_flanneld(store.flanneld());
        daemon.start()?;
        daemon.wait_ready()?;
        for v4 in [true, false] {
            let table = nft_table(v4, RANDOM, true).replace("\n\t\tcomment ", "\n\t\t# ");
            node.netns().feed(&["nft", "-f", "-"], &table)?;
            repaired("nftables in iptables mode", || expect_no_nft(node))?;
        }
        ensure!(foreign(node)? == others, "{}\nwere\n{others}", foreign(node)?);
        Ok(())
    });
}

/// The legacy variant tells nobody: its rules go with the next look, here one at the damage of others.
#[test]
fn legacy_rules_are_removed_in_nftables_mode() {
    lab(|lab| {
        lab.require(&[Feature::Nft, Feature::IptablesLegacy])?;
        let (cluster, store) = node(lab, true)?;
        let node = &cluster.nodes[0];
        let mine = "-A POSTROUTING -s 172.30.0.0/16 -j MINE";
        node.netns().feed(
            &["iptables-legacy-restore", "--noflush"],
            &format!("*nat\n:MINE - [0:0]\n{mine}\nCOMMIT\n"),
        )?;
        let restore = || -> Result<()> {
            node.netns().feed(&["iptables-legacy-restore", "--noflush"], &go_rules(true))?;
            node.netns().feed(&["ip6tables-legacy-restore", "--noflush"], &go_rules(false)).map(drop)
        };
        let gone = || -> Result<()> {
            for program in ["iptables-legacy-save", "ip6tables-legacy-save"] {
                let rules = node.netns().run(program)?;
                ensure!(!rules.contains("FLANNEL"), "{program}: {rules}");
            }
            Ok(())
        };
        restore()?;
        let mut daemon = node.start(&store.flanneld())?;
        daemon.wait_ready()?;
        repaired("legacy rules of an earlier run", gone)?;
        restore()?;
        node.netns().run("nft delete table ip flannel-ipv4")?;
        repaired("legacy rules beside us", gone)?;
        expect_nft(node, RANDOM, true)?;
        let rules = node.netns().run("iptables-legacy-save -t nat")?;
        ensure!(rules.contains(mine), "{rules}");
        // Without a program that could remove them it says so.
        restore()?;
        let path = programs(lab, &[])?;
        daemon.set_flanneld(store.flanneld().environment("PATH", &path.display().to_string()));
        daemon.restart()?;
        daemon.wait_log(&["iptables-legacy-save", "was not found in PATH", "Install the package iptables"])
    });
}
