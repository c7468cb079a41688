//! The host-gw backend, from outside: records, `subnet.env`, routes, packets of full size.

use anyhow::ensure;
use integration::cni::all_reach_all;
use integration::golden::{self, Known, Peer, Stack};
use integration::{Feature, Flanneld, lab};
use std::fs;

const UNDERLAY_MTU: u32 = 1500;

fn three_nodes(stack: Stack) {
    lab(|lab| {
        lab.require(&[Feature::CniPlugins])?;
        let cluster = lab.cluster(3)?;
        let leases = lab.lease_directory(&stack.config(r#"{"Type":"host-gw"}"#))?;
        cluster.start_all(&Flanneld::on_directory(&leases))?;
        for node in &cluster.nodes {
            for &v4 in stack.families() {
                let peers = Peer::others(&cluster.nodes, node, v4)?;
                golden::expect(node.netns(), v4, &golden::host_gw(&peers))?;
            }
            let known = Known::of(node, stack)?;
            let (found, expected) = (node.subnet_env_text()?, known.subnet_env(UNDERLAY_MTU));
            ensure!(found == expected, "subnet.env of {} is\n{found}not\n{expected}", node.name());
            let found = fs::read_to_string(leases.join("subnets").join(known.key()))?;
            ensure!(found == known.record("host-gw"), "the record of {} is {found}", node.name());
        }
        let pods = cluster.pods("a")?;
        for &v4 in stack.families() {
            all_reach_all(&pods, v4, UNDERLAY_MTU)?;
        }
        Ok(())
    });
}

#[test]
fn ipv4() {
    three_nodes(Stack::V4);
}

#[test]
fn ipv6() {
    three_nodes(Stack::V6);
}

#[test]
fn dual_stack() {
    three_nodes(Stack::Dual);
}
