//! Faults of a cluster that are hard to create. For the others, see `integration/tests/kubernetes/doctor.rs`.

use super::*;
use crate::doctor::facts::KubernetesFacts;
use crate::node::kube_proxy::{KubeProxy, Local};
use flannel_core::kubernetes::{Condition, Node};
use flanneld::store::{ClusterFacts, Rule};

/// A healthy cluster without kube-proxy.
fn cluster() -> ClusterFacts {
    let condition = Condition { status: "False".to_owned(), ..Condition::default() };
    let node = Node { name: "n1".to_owned(), network_unavailable: Some(condition), ..Node::default() };
    ClusterFacts {
        node: Ok(Some(node)),
        name: "n1".to_owned(),
        pod: Some(("kube-flannel".to_owned(), "kube-flannel-ds-x1x2x".to_owned())),
        prefix: "flannel.alpha.coreos.com/".to_owned(),
        others: Vec::new(),
        missing: Ok(Vec::new()),
        sets_available: true,
        proxy: Ok(None),
        config_map: "kube-flannel/kube-flannel-cfg".to_owned(),
    }
}

fn facts(cluster: ClusterFacts, proxy: Option<KubeProxy>) -> Facts {
    let kubernetes = KubernetesFacts { cluster, proxy: Ok(proxy), subnet_lens: Vec::new() };
    Facts { kubernetes: Some(kubernetes), answer: DaemonAnswer::Ready, ..bare() }
}

#[test]
fn healthy_cluster_has_no_findings() {
    assert!(ids(&facts(cluster(), Some(KubeProxy::default()))).is_empty());
}

/// While the daemon is not ready, the condition is as it should be.
#[test]
fn condition_is_stuck_only_if_pods_can_start() {
    let mut stuck = cluster();
    let condition = Condition { status: "True".to_owned(), ..Condition::default() };
    stuck.node.as_mut().unwrap().as_mut().unwrap().network_unavailable = Some(condition);
    let mut facts = facts(stuck, None);
    let found = run(&facts).findings.into_iter().find(|finding| finding.id == "network-unavailable").unwrap();
    assert_eq!(found.fix, "kubectl --namespace kube-flannel delete pod kube-flannel-ds-x1x2x");
    facts.answer = DaemonAnswer::NotReady("no route".to_owned());
    assert_eq!(ids(&facts), ["daemon-not-ready"]);
}

#[test]
fn nodes_with_another_prefix_are_counted() {
    let mut other = cluster();
    other.others = (1..=7).map(|number| (format!("w{number}"), "org.com/".to_owned())).collect();
    let report = run(&facts(other, None));
    let found = report.findings.iter().find(|finding| finding.id == "annotation-prefix").unwrap();
    assert!(found.problem.ends_with(": w1, w2, w3, w4, w5 and 2 more"), "{}", found.problem);
}

/// What is only forbidden is not unreachable.
#[test]
fn missing_rule_explains_that_nodes_cannot_be_listed() {
    let mut forbidden = cluster();
    forbidden.missing = Ok(vec![Rule::NODES, Rule::PODS]);
    let mut facts = facts(forbidden, None);
    facts.store.listing = Err("denied".to_owned());
    assert_eq!(ids(&facts), ["rbac-rule", "rbac-rule"]);
    let unknown = ClusterFacts { missing: Err("no answer".to_owned()), ..cluster() };
    facts.kubernetes.as_mut().unwrap().cluster = unknown;
    assert_eq!(ids(&facts), ["store-unreachable"]);
    assert!(run(&facts).findings[0].fix.contains("kubectl get --raw /readyz"));
}

#[test]
fn settings_of_kube_proxy() {
    let found = |proxy: KubeProxy| -> Vec<String> {
        let findings = run(&facts(cluster(), Some(proxy))).findings.into_iter();
        findings.filter(|one| one.id == "kube-proxy-masquerade").map(|one| one.subject).collect()
    };
    let default = KubeProxy::default;
    assert_eq!(found(KubeProxy { masquerade_bit: Some(15), ..default() }), ["masqueradeBit"]);
    assert_eq!(found(KubeProxy { masquerade_bit: Some(200), ..default() }), ["masqueradeBit"]);
    assert!(found(KubeProxy { masquerade_bit: Some(14), ..default() }).is_empty());
    assert_eq!(found(KubeProxy { mode: "userspace".to_owned(), ..default() }), ["mode"]);
    let local = |local| found(KubeProxy { local, ..default() });
    assert_eq!(local(Local::Prefix("veth".to_owned())), ["interfaceNamePrefix"]);
    assert!(local(Local::Prefix("cni".to_owned())).is_empty());
    assert!(local(Local::Bridge("cni0".to_owned())).is_empty());
    assert!(local(Local::NodeCidr).is_empty());
}

#[test]
fn what_a_pod_does_not_see_is_not_checked() {
    let mut facts = facts(cluster(), None);
    let reason = || Some("this pod does not mount it".to_owned());
    facts.hidden = Hidden {
        cni_configs: reason(),
        cni_plugins: reason(),
        pods: reason(),
        runtimes: reason(),
        processes: reason(),
    };
    let report = run(&facts);
    assert!(report.findings.is_empty(), "{report:#?}");
    for id in ["cni-config-missing", "cni-config-shadowed", "daemon-duplicate", "runtime-plugin-missing"] {
        assert!(report.skipped.iter().any(|skipped| skipped.id == id), "{id} in {report:#?}");
    }
}
