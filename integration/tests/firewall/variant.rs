//! Programs of both variants of iptables and no default, as in the image: flanneld uses the variant of the host.

use super::*;

/// Of both variants, without those of the default.
fn path(lab: &Lab) -> Result<String> {
    let mut names = Vec::new();
    for program in ["iptables", "ip6tables"] {
        for variant in ["nft", "legacy"] {
            names.extend(["", "-save", "-restore"].map(|end| format!("{program}-{variant}{end}")));
        }
    }
    let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    Ok(programs(lab, &pairs)?.display().to_string())
}

fn variant_of_host_is_used(before: &[&str], variant: &str) {
    lab(|lab| {
        lab.require(&[Feature::Iptables, Feature::IptablesLegacy, Feature::BridgeNetfilter])?;
        let (cluster, store) = node(lab, false)?;
        let node = &cluster.nodes[0];
        for line in before {
            node.netns().run(line)?;
        }
        let mut daemon = node.start(&store.flanneld().environment("PATH", &path(lab)?))?;
        daemon.wait_ready()?;
        daemon.wait_log(&["iptables variant of this host selected", &format!("tables-{variant}")])?;
        for (program, rule) in [("iptables", "10.42.0.0/16"), ("ip6tables", "fd00:10:244::/56")] {
            for one in ["nft", "legacy"] {
                let rules = node.netns().run(&format!("{program}-{one}-save"))?;
                let has = rules.contains("FLANNEL-POSTRTG") && rules.contains(rule);
                ensure!(has == (one == variant), "{program}-{one}:\n{rules}");
            }
        }
        Ok(())
    });
}

#[test]
fn nftables_is_the_default() {
    variant_of_host_is_used(&[], "nft");
}

#[test]
fn chains_of_the_kubelet_decide_for_legacy() {
    variant_of_host_is_used(
        &["iptables-nft -A FORWARD -j ACCEPT", "iptables-legacy -t mangle -N KUBE-IPTABLES-HINT"],
        "legacy",
    );
}

#[test]
fn chains_of_the_kubelet_decide_for_nftables() {
    variant_of_host_is_used(
        &["iptables-legacy -A FORWARD -j ACCEPT", "ip6tables-nft -t mangle -N KUBE-KUBELET-CANARY"],
        "nft",
    );
}

#[test]
fn more_rules_decide_for_legacy() {
    variant_of_host_is_used(
        &[
            "iptables-nft -A FORWARD -j ACCEPT",
            "iptables-legacy -N MINE",
            "iptables-legacy -A FORWARD -j MINE",
            "iptables-legacy -A MINE -j ACCEPT",
        ],
        "legacy",
    );
}
