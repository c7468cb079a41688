//! Each fault of a cluster is found by its id, on the real API server, with the rights of the manifest.

use anyhow::{Context, Result, ensure};
use integration::doctor::{Doctor, Finding};
use integration::kubernetes::component;
use integration::{Daemon, Service, lab, relay, wait};
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use super::fixture::{CONFIG, Fixture, NODES};

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/flannel";

/// Two nodes: faults are created on the first one, or in the API.
struct Ward {
    fixture: Fixture,
    daemons: [Daemon; 2],
    doctor: Doctor,
}

#[test]
fn faults_of_a_cluster_are_found() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        fixture.register(1)?;
        fixture.register(2)?;
        let other = fixture.flanneld(2).argument("--kube-annotation-prefix=org.example.com");
        let mut daemons = [fixture.run(1)?, fixture.cluster.nodes[1].start(&other)?];
        for daemon in &mut daemons {
            daemon.wait_ready()?;
        }
        let node = &fixture.cluster.nodes[0];
        Doctor::install_cni_config(node)?;
        let doctor = Doctor::of(node, &fixture.flanneld(1));
        let mut ward = Ward { fixture, daemons, doctor };
        ward.annotation_prefix()?;
        ward.doctor.expect(&[])?;
        ward.host()?;
        ward.kube_proxy()?;
        ward.rights()?;
        ward.network_unavailable()?;
        ward.subnets()?;
        ward.second_daemon()?;
        ward.api_server()
    });
}

impl Ward {
    /// Waits until the doctor finds a problem, whatever it finds besides; its JSON must contain these texts.
    fn finds(&self, id: &str, parts: &[&str]) -> Result<Finding> {
        wait::until(format!("the doctor finds {id}"), wait::LONG, || {
            let findings = self.doctor.findings()?;
            let found =
                findings.iter().find(|finding| finding.id == id).with_context(|| format!("{findings:#?}"))?;
            let text = found.value.to_string();
            for part in parts {
                ensure!(text.contains(part), "no {part:?} in {text}");
            }
            Ok(found.clone())
        })
    }

    /// The second node has another prefix, until it is started with that of the first one.
    fn annotation_prefix(&mut self) -> Result<()> {
        self.finds("annotation-prefix", &["n2", "org.example.com/", "flannel.alpha.coreos.com"])?;
        let same = self.fixture.flanneld(2);
        self.daemons[1].stop()?;
        self.daemons[1].set_flanneld(same);
        self.daemons[1].start()?;
        self.daemons[1].wait_ready()
    }

    fn host(&self) -> Result<()> {
        let node = &self.fixture.cluster.nodes[0];
        node.netns().set_sysctl("net/bridge/bridge-nf-call-iptables", "0")?;
        self.doctor.expect(&["br-netfilter"])?;
        node.netns().set_sysctl("net/bridge/bridge-nf-call-iptables", "1")?;
        let first = node.file("/etc/cni/net.d/05-other.conf")?;
        fs::write(&first, r#"{"cniVersion":"1.0.0","name":"other","type":"bridge"}"#)?;
        let found = self.doctor.expect(&["cni-config-shadowed"])?;
        ensure!(found[0].subject == "05-other.conf", "{found:?}");
        fs::remove_file(first)?;
        self.doctor.expect(&[]).map(drop)
    }

    /// A real kube-proxy with a cluster CIDR that is not that of the pods: by its process and by the rules that it leaves.
    fn kube_proxy(&self) -> Result<()> {
        let netns = self.fixture.cluster.nodes[0].netns();
        let file = self.fixture.cluster.nodes[0].file("/var/lib/flannel/proxy.json")?;
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": self.fixture.admin().kubeconfig()},
            "hostnameOverride": "n1",
            "mode": "nftables",
            "clusterCIDR": "10.99.0.0/16",
            "nftables": {"masqueradeAll": false},
            "conntrack": {"maxPerCore": 0, "min": 0},
        });
        let write = |config: &Value| fs::write(&file, config.to_string());
        write(&config)?;
        let arguments = vec!["--config=/var/lib/flannel/proxy.json".to_owned()];
        let proxy = Service::new(netns, "n1.kube-proxy", component("kube-proxy")?, arguments);
        proxy.start()?;
        self.finds("kube-proxy-masquerade", &["clusterCIDR", "10.99.0.0/16", "10.42.0.0/16", "proxy.json"])?;
        wait::until("kube-proxy has written its rules", wait::LONG, || {
            let rules = netns.run("nft list table ip kube-proxy")?;
            ensure!(rules.contains("10.99.0.0/16"), "{rules}");
            Ok(())
        })?;
        proxy.kill()?;
        self.finds("kube-proxy-masquerade", &["10.99.0.0/16", "its firewall rules"])?;
        for family in ["ip", "ip6"] {
            netns.run(&format!("nft delete table {family} kube-proxy"))?;
        }
        let mut good = config;
        good["clusterCIDR"] = json!("10.42.0.0/16");
        write(&good)?;
        proxy.start()?;
        self.doctor.expect(&[])?;
        proxy.kill()?;
        let mut other = good;
        other["detectLocalMode"] = json!("BridgeInterface");
        other["detectLocal"] = json!({"bridgeInterface": "br0"});
        other["nftables"]["masqueradeAll"] = json!(true);
        write(&other)?;
        proxy.start()?;
        let found = self.doctor.expect(&["kube-proxy-masquerade"])?;
        let subjects: Vec<&str> = found.iter().map(|finding| finding.subject.as_str()).collect();
        ensure!(subjects == ["masqueradeAll", "bridgeInterface"], "{found:#?}");
        proxy.kill()?;
        let tables = netns.run("nft list tables")?;
        for family in
            ["ip", "ip6"].iter().filter(|family| tables.contains(&format!("table {family} kube-proxy")))
        {
            netns.run(&format!("nft delete table {family} kube-proxy"))?;
        }
        fs::remove_file(file)?;
        self.doctor.expect(&[]).map(drop)
    }

    fn rights(&self) -> Result<()> {
        let admin = self.fixture.admin();
        let rules = admin.get(ROLE)?["rules"].clone();
        let only = |resource: &str, verbs: &[&str]| json!([{"apiGroups": [""], "resources": [resource], "verbs": verbs}]);
        admin.patch(ROLE, &json!({"rules": only("nodes", &["get", "list", "watch"])}))?;
        let found = self.doctor.expect(&["rbac-rule"])?;
        ensure!(found[0].subject == "nodes/status" && found.len() == 1, "{found:#?}");
        admin.patch(ROLE, &json!({"rules": only("nodes/status", &["patch"])}))?;
        let rule = "resources: [nodes], verbs: [get, list, watch]";
        let found = self.finds("rbac-rule", &[rule, "kubectl patch clusterrole flannel"])?;
        let all = self.doctor.findings()?;
        ensure!(!all.iter().any(|finding| finding.id == "store-unreachable"), "it is reachable: {all:#?}");
        // The command of the finding is the fix.
        let fix = found.value["fix"].as_str().context("no fix")?;
        let words = fix.strip_prefix("kubectl ").context("not a command of kubectl")?;
        let mut shell = Command::new("sh");
        self.fixture.control_plane.netns.checked(shell.arg("-c").arg(admin.kubectl_line(words)))?;
        self.doctor.expect(&[])?;
        admin.patch(ROLE, &json!({"rules": rules})).map(drop)
    }

    /// Someone sets the condition, and the daemon does not set it back.
    fn network_unavailable(&mut self) -> Result<()> {
        let passive = self.fixture.flanneld(1).argument("--set-node-network-unavailable=false");
        self.daemons[0].stop()?;
        self.daemons[0].set_flanneld(passive);
        self.daemons[0].start()?;
        self.daemons[0].wait_ready()?;
        self.fixture.set_unavailable(1)?;
        let found = self.doctor.expect(&["network-unavailable"])?;
        let text = found[0].value.to_string();
        ensure!(
            text.contains("reason Test") && text.contains("--set-node-network-unavailable=false"),
            "{text}"
        );
        self.daemons[0].stop()?;
        self.daemons[0].set_flanneld(self.fixture.flanneld(1));
        self.daemons[0].start()?;
        self.daemons[0].wait_ready()?;
        self.doctor.expect(&[]).map(drop)
    }

    fn subnets(&self) -> Result<()> {
        let (fixture, admin) = (&self.fixture, self.fixture.admin());
        fixture.volume.set(&CONFIG.replace("0/16\"", "0/16\",\"SubnetLen\":26"), "mask")?;
        let found = self.doctor.expect(&["node-cidr-mask"])?;
        let text = found[0].value.to_string();
        ensure!(text.contains("length 24") && text.contains("--node-cidr-mask-size-ipv4=26"), "{text}");
        fixture.volume.set(CONFIG, "good")?;
        self.doctor.expect(&[])?;

        let again = |cidrs: &[&str]| {
            admin.delete(&format!("{NODES}/n1"))?;
            fixture.register_with(1, cidrs).map(drop)
        };
        again(&["10.99.1.0/24"])?;
        self.finds("pod-cidr-outside", &["10.99.1.0/24", "10.42.0.0/16", "--cluster-cidr"])?;
        again(&[])?;
        self.finds("pod-cidr-missing", &["spec.podCIDRs of node n1: none", "--allocate-node-cidrs"])?;
        let all = self.doctor.findings()?;
        ensure!(!all.iter().any(|finding| finding.id == "lease-missing"), "the cause is known: {all:#?}");
        admin.delete(&format!("{NODES}/n1"))?;
        self.finds("pod-cidr-missing", &["the cluster has no node n1", "NODE_NAME"])?;
        fixture.register(1)?;
        self.doctor.expect(&[]).map(drop)
    }

    fn second_daemon(&self) -> Result<()> {
        let node = &self.fixture.cluster.nodes[0];
        node.netns().ip("addr add 192.168.50.77/24 dev eth0")?;
        let flanneld = self.fixture.flanneld(1).argument("--public-ip=192.168.50.77");
        let pod = flanneld
            .environment("POD_NAMESPACE", "kube-flannel")
            .environment("POD_NAME", "kube-flannel-ds-abcde");
        let mut second = node.start_beside(1, &pod)?;
        let parts = ["flannel in pod kube-flannel/kube-flannel-ds-abcde", "delete daemonset kube-flannel-ds"];
        self.finds("daemon-duplicate", &parts)?;
        second.kill()?;
        node.netns().ip("addr del 192.168.50.77/24 dev eth0").map(drop)
    }

    /// Slow for a client behind a relay, then away.
    fn api_server(&mut self) -> Result<()> {
        let node = &self.fixture.cluster.nodes[1];
        self.daemons[1].stop()?;
        let server: SocketAddr = "192.168.50.230:6443".parse()?;
        let at = relay::slow(node.netns(), Ipv4Addr::LOCALHOST.into(), server, Duration::from_millis(200))?;
        let flags = [
            format!("--kubeconfig={}", self.fixture.account.kubeconfig().display()),
            format!("--net-config-path={}", self.fixture.volume.file().display()),
            format!("--kube-api-url=https://localhost:{}", at.port()),
        ];
        let slow = node.flannelctl(&flags, &["doctor", "--check", "store-slow", "-o", "json"])?;
        slow.expect(3, &["store-slow", "median of three", "kubectl get --raw '/readyz?verbose'"])?;
        self.fixture.control_plane.api_server.kill()?;
        self.finds("store-unreachable", &["192.168.50.230", "kubectl get --raw /readyz"]).map(drop)
    }
}
