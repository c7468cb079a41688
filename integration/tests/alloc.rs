//! The alloc backend, from outside.

use anyhow::{Result, ensure};
use integration::{Feature, Node, Stack, lab, wait};

/// Leases and `subnet.env`, and nothing in the kernel.
#[test]
fn alloc_touches_nothing() {
    lab(|lab| {
        lab.require(&[Feature::Nft])?;
        let cluster = lab.cluster(2)?;
        let before = state(&cluster.nodes[0])?;
        let (leases, _daemons) =
            cluster.start_on_directory(lab, &Stack::Dual.config(r#"{"Type":"alloc"}"#))?;
        wait::until("both nodes have published", wait::LONG, || {
            let records = leases.records()?;
            ensure!(records.len() == 2, "{records:?}");
            for (key, record) in records {
                let mut keys: Vec<&String> = record.as_object().into_iter().flat_map(|r| r.keys()).collect();
                keys.sort();
                ensure!(keys == ["PublicIP", "PublicIPv6"], "{key}: {record}");
            }
            Ok(())
        })?;
        ensure!(cluster.nodes[0].subnet_env()?["FLANNEL_MTU"] == "1500");
        let after = state(&cluster.nodes[0])?;
        ensure!(before == after, "before:\n{before}\nafter:\n{after}");
        Ok(())
    });
}

fn state(node: &Node) -> Result<String> {
    let questions =
        ["-o link show", "-4 route show table all", "-6 route show table all", "neigh show nud permanent"];
    questions.iter().map(|question| node.netns().ip(question)).collect()
}
