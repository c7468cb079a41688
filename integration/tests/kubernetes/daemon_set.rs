//! docs/kubernetes.md on real nodes: from an empty cluster to pods that reach each other, an update, and back to empty nodes.

use anyhow::{Context, Result, ensure};
use integration::image::PORT;
use integration::lab;
use integration::pages::walk;
use serde_json::json;

use super::ctl;
use super::site::{HOST_PORT, Pod, Site, State, ask, socket};

/// First by the manifest, in iptables mode with a node of each variant, then by Helm, in nftables mode.
#[test]
fn life_by_the_guide() {
    lab(|lab| {
        let site = Site::boot(lab, true, None)?;
        let before = site.states()?;
        let annotations = site.annotations()?;
        walk("kubernetes::daemon_set::life_by_the_guide", |guide| {
            let mut next = |beginning: &str| Ok::<_, anyhow::Error>(guide.next(beginning)?.text().to_owned());
            let readme = next("kubectl apply")?;
            let in_pod = next("kubectl --namespace kube-flannel exec")?;
            let (network, apply) = (next("sed -i")?, next("kubectl apply")?);
            let (values, helm) = (next("podCidr")?, next("kubectl create namespace")?);
            let restart = next("kubectl --namespace kube-flannel rollout restart")?;
            let dual_stack = next("\"Network\"")?;
            let stop = next("kubectl --namespace kube-flannel delete daemonset")?;
            let (cleanup, delete) = (next("for node in")?, next("kubectl delete")?);
            let uninstall = next("helm uninstall")?;

            site.shell(&network)?;
            site.set_networks(&dual_stack)?;
            site.shell(&apply)?;
            site.wait_nodes()?;
            let again = site.shell(&readme)?;
            ensure!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
            site.expect_rules(["-nft", "-legacy"])?;
            ctl::expect_in_pod(&site, &in_pod)?;
            ctl::expect_on_node(&site)?;
            let pods = site.run_pods()?;
            for v4 in [true, false] {
                site.expect_reach(&pods, v4)?;
            }
            site.expect_host_port_and_service(&pods)?;
            site.update(&pods, &restart)?;
            site.expect_reach(&pods, true)?;

            site.delete_pods()?;
            site.shell(&stop)?;
            site.wait_no_daemons()?;
            site.shell(&cleanup)?;
            site.shell(&delete)?;
            expect_same(&before, &site.states()?)?;
            ensure!(annotations == site.annotations()?, "{:?} were {annotations:?}", site.annotations()?);

            site.write("values.yaml", &values)?;
            site.shell(&helm)?;
            site.wait_nodes()?;
            for worker in &site.workers {
                let tables = worker.machine.netns().run("nft list tables")?;
                ensure!(tables.contains("flannel-ipv4") && tables.contains("flannel-ipv6"), "{tables}");
            }
            let pods = site.run_pods()?;
            for v4 in [true, false] {
                site.expect_reach(&pods, v4)?;
            }
            site.delete_pods()?;
            site.shell(&uninstall)?;
            site.wait_no_daemons()?;
            site.shell(&cleanup)?;
            expect_same(&before, &site.states()?)
        })
    });
}

fn expect_same(before: &[State], after: &[State]) -> Result<()> {
    for (number, (before, after)) in before.iter().zip(after).enumerate() {
        for (command, text) in before {
            let now = &after[command];
            ensure!(text == now, "on node {}, `{command}` printed\n{text}\nand now\n{now}", number + 1);
        }
    }
    Ok(())
}

impl Site {
    /// Replaces the network in the manifest by those of both families.
    fn set_networks(&self, lines: &str) -> Result<()> {
        const NETWORK: &str = r#""Network": "10.42.0.0/16","#;
        let manifest = self.read("kube-flannel.yml")?;
        ensure!(manifest.contains(NETWORK), "the manifest has another network");
        self.write("kube-flannel.yml", &manifest.replace(NETWORK, &lines.replace('\n', " ")))
    }

    /// Each node has the rules in its own variant of iptables.
    fn expect_rules(&self, variants: [&str; 2]) -> Result<()> {
        for (worker, expected) in self.workers.iter().zip(variants) {
            for variant in ["-nft", "-legacy"] {
                let rules = worker.machine.netns().run(&format!("iptables{variant}-save"))?;
                let has = rules
                    .contains("-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG");
                ensure!(has == (variant == expected), "{}: iptables{variant}:\n{rules}", worker.name);
            }
        }
        Ok(())
    }

    fn expect_host_port_and_service(&self, pods: &[Pod]) -> Result<()> {
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "pods"},
            "spec": {"selector": {"app": "pods"}, "ports": [{"port": 80, "targetPort": PORT}]},
        });
        let service = self.admin().create("/api/v1/namespaces/default/services", &service)?;
        let address = service["spec"]["clusterIP"].as_str().context("a service without address")?;
        // By the host ports of both, which the plugin forwards by the iptables of the node.
        for (worker, [from, to]) in [(0, [1, 0]), (1, [0, 1])] {
            let node = self.cluster.nics[worker].addresses[0].addr();
            let said = self.wait_ask(&pods[from], &socket(node, HOST_PORT))?;
            ensure!(said.starts_with(&format!("p{} ", to + 1)), "by the host port: {said}");
        }
        let said = self.wait_ask(&pods[0], &format!("{address}:80"))?;
        ensure!(said.starts_with('p'), "by the service: {said}");
        // The world outside reaches the pod by the host port, too.
        let node = self.cluster.nics[0].addresses[0].addr();
        let said = ask(self.cluster.nodes[1].netns(), &socket(node, HOST_PORT))?;
        ensure!(said.starts_with("p1 "), "from a node: {said}");
        Ok(())
    }

    /// Replaces all pods of the DaemonSet.
    fn update(&self, pods: &[Pod], commands: &str) -> Result<()> {
        let before = self.daemons()?;
        self.lossless(pods, || self.shell(commands).map(drop))?;
        let after = self.daemons()?;
        ensure!(before.iter().all(|pod| !after.contains(pod)), "before: {before:?}, after: {after:?}");
        Ok(())
    }

    /// The annotations of all nodes that are flannel's.
    fn annotations(&self) -> Result<Vec<String>> {
        let nodes = self.admin().get("/api/v1/nodes")?;
        let nodes = nodes["items"].as_array().context("a list without items")?;
        let all = nodes.iter().flat_map(|node| integration::kubernetes::annotations(node).into_keys());
        Ok(all.filter(|key| key.starts_with("flannel.")).collect())
    }
}
