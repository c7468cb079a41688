//! The cluster of Kubernetes: podCIDRs, rights, annotations, conditions, and kube-proxy.

use flannel_core::family::Family;
use flannel_core::kubernetes::Node;
use flannel_core::lease::Subnets;
use flannel_core::ruleset::MASQUERADE_MARK;
use flanneld::store::{ClusterFacts, Rule};
use ipnet::IpNet;
use std::collections::BTreeMap;

use crate::doctor::catalog::{
    ANNOTATION_PREFIX, Check, KUBE_PROXY_MASQUERADE, LEASE_MISSING, NETWORK_UNAVAILABLE, NODE_CIDR_MASK,
    POD_CIDR_MISSING, POD_CIDR_OUTSIDE, RBAC_RULE, RESTART, STORE_SLOW, STORE_UNREACHABLE,
};
use crate::doctor::facts::{Facts, KubernetesFacts};
use crate::doctor::report::{Finding, Report};
use crate::node::daemon::DaemonAnswer;
use crate::node::kube_proxy::{KubeProxy, Local};
use crate::output::text::join;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    let Some(kubernetes) = &facts.kubernetes else { return };
    let cluster = &kubernetes.cluster;
    rights(cluster, report);
    match &cluster.node {
        Ok(Some(node)) => {
            subnets(facts, kubernetes, node, report);
            condition(facts, cluster, node, report);
        }
        Ok(None) => {
            let problem = format!("the cluster has no node {}", cluster.name);
            report
                .find(&POD_CIDR_MISSING, &cluster.name, problem)
                .seen(format!("GET /api/v1/nodes/{}: not found", cluster.name))
                .fix("start the kubelet of this host, or set NODE_NAME of flanneld to the name of its node: kubectl get nodes");
        }
        Err(reason) => {
            for check in [&POD_CIDR_MISSING, &POD_CIDR_OUTSIDE, &NODE_CIDR_MASK, &NETWORK_UNAVAILABLE] {
                report.skip(check, reason);
            }
        }
    }
    prefixes(facts, cluster, report);
    proxy(facts, kubernetes, report);
}

fn rights(cluster: &ClusterFacts, report: &mut Report) {
    let missing = match &cluster.missing {
        Ok(missing) => missing,
        Err(reason) => return report.skip(&RBAC_RULE, reason),
    };
    for rule in missing {
        let effect = match *rule {
            Rule::NODES => {
                "flanneld cannot read the other nodes; the other findings are based on the state directory"
            }
            Rule::STATUS => "flanneld cannot publish how this node is reached",
            _ => "flanneld cannot determine the name of its node",
        };
        let op = format!(r#"[{{"op":"add","path":"/rules/-","value":{}}}]"#, rule.to_json());
        report
            .find(&RBAC_RULE, rule.resource, effect)
            .seen(format!("SelfSubjectAccessReview: not allowed: {rule}"))
            .fix(format!("kubectl patch clusterrole flannel --type json --patch '{op}'"));
    }
}

/// The networks of the config that its families have.
fn networks(facts: &Facts) -> Vec<(Family, IpNet)> {
    let Some(view) = facts.view() else { return Vec::new() };
    view.node.config().networks().iter().map(|(family, network)| (family, *network)).collect()
}

fn subnets(facts: &Facts, kubernetes: &KubernetesFacts, node: &Node, report: &mut Report) {
    let name = &node.name;
    let seen = format!("spec.podCIDRs of node {name}: {}", shown(&node.pod_cidrs.0));
    let assigned = match node.pod_cidrs.subnets() {
        Ok(assigned) => assigned,
        Err(reason) => {
            report.find(&POD_CIDR_MISSING, name, format!("node {name} has unusable podCIDRs")).seen(reason);
            return;
        }
    };
    for (family, network) in networks(facts) {
        let Some(subnet) = assigned.get(family) else {
            let problem =
                format!("node {name} has no {family} podCIDR, and the network config has {network}");
            report.find(&POD_CIDR_MISSING, name, problem).seen(&seen).fix(format!(
                "kube-controller-manager --allocate-node-cidrs=true --cluster-cidr={network}; or kubectl patch node {name} \
                 --patch '{{\"spec\":{{\"podCIDR\":\"SUBNET\",\"podCIDRs\":[\"SUBNET\"]}}}}'"
            ));
            continue;
        };
        if !network.contains(&subnet) {
            let problem =
                format!("podCIDR {subnet} of node {name} is outside of the {family} network {network}");
            report
                .find(&POD_CIDR_OUTSIDE, subnet, problem)
                .seen(&seen)
                .seen(format!("network {network} in {}", facts.store.config_place))
                .fix(format!(
                    "set Network to --cluster-cidr of kube-controller-manager (kubectl edit configmap in {}); or set \
                     --cluster-cidr={network}, kubectl delete node {name}, and restart its kubelet",
                    kubernetes.cluster.config_map
                ));
        }
    }
    lengths(kubernetes, &assigned, &seen, report);
}

fn lengths(kubernetes: &KubernetesFacts, assigned: &Subnets, seen: &str, report: &mut Report) {
    for (family, len) in &kubernetes.subnet_lens {
        let Some(subnet) = assigned.get(*family).filter(|subnet| u64::from(subnet.prefix_len()) != *len)
        else {
            continue;
        };
        let actual = subnet.prefix_len();
        let (key, flag) = match family {
            Family::V4 => ("SubnetLen", "--node-cidr-mask-size-ipv4"),
            Family::V6 => ("IPv6SubnetLen", "--node-cidr-mask-size-ipv6"),
        };
        let problem = format!(
            "{key} is {len}, but Kubernetes assigns {family} subnets of length {actual}, which count"
        );
        report.find(&NODE_CIDR_MASK, key, problem).seen(seen).fix(format!(
            "remove {key} from the network config, or kube-controller-manager {flag}={len} before nodes are created"
        ));
    }
}

fn shown(cidrs: &[String]) -> String {
    if cidrs.is_empty() { "none".to_owned() } else { cidrs.join(", ") }
}

/// While the daemon is not ready, the condition is right, or other findings explain it.
fn condition(facts: &Facts, cluster: &ClusterFacts, node: &Node, report: &mut Report) {
    let Some(condition) = &node.network_unavailable else { return };
    if condition.status == "False" || facts.answer != DaemonAnswer::Ready {
        return;
    }
    let name = &node.name;
    let problem =
        format!("NetworkUnavailable of node {name} is {}, although pods can start", condition.status);
    let found = report.find(&NETWORK_UNAVAILABLE, name, problem);
    found.seen(format!("reason {}: {}", condition.reason, condition.message));
    if cluster.sets_available {
        found.fix(RESTART);
    } else {
        found.seen("flanneld runs with --set-node-network-unavailable=false").fix(format!(
            "start flanneld without --set-node-network-unavailable=false; or kubectl patch node {name} --subresource status \
             --patch '{{\"status\":{{\"conditions\":[{{\"type\":\"NetworkUnavailable\",\"status\":\"False\"}}]}}}}'"
        ));
    }
}

fn prefixes(facts: &Facts, cluster: &ClusterFacts, report: &mut Report) {
    if let Err(reason) = &facts.store.listing {
        return report.skip(&ANNOTATION_PREFIX, reason);
    }
    let mut by_prefix: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, prefix) in &cluster.others {
        by_prefix.entry(prefix).or_default().push(node);
    }
    for (prefix, nodes) in by_prefix {
        const SHOWN: usize = 5;
        let names = join(nodes.iter().take(SHOWN), ", ");
        let more =
            if nodes.len() > SHOWN { format!(" and {} more", nodes.len() - SHOWN) } else { String::new() };
        let own = &cluster.prefix;
        let problem = format!(
            "nodes with the prefix {prefix} are no peers of this node, which uses {own}: {names}{more}"
        );
        report
            .find(&ANNOTATION_PREFIX, prefix, problem)
            .seen(format!("annotation {prefix}kube-subnet-manager: true, and none with {own}"))
            .fix(format!(
                "start flanneld on every node with the same --kube-annotation-prefix, {} or {}",
                own.trim_end_matches(['/', '-']),
                prefix.trim_end_matches(['/', '-'])
            ));
    }
}

fn proxy(facts: &Facts, kubernetes: &KubernetesFacts, report: &mut Report) {
    let proxy = match &kubernetes.proxy {
        Ok(Some(proxy)) => proxy,
        Ok(None) => return,
        Err(reason) => return report.skip(&KUBE_PROXY_MASQUERADE, reason),
    };
    let mut find = |subject: &str, problem: String, fix: String| {
        let restart = "kubectl --namespace kube-system rollout restart daemonset kube-proxy";
        report.find(&KUBE_PROXY_MASQUERADE, subject, problem).seen(&proxy.source).fix(format!(
            "{fix} (kubectl --namespace kube-system edit configmap kube-proxy), then {restart}"
        ));
    };
    if proxy.masquerades_all {
        let problem = "kube-proxy masquerades all traffic to services: pods see the addresses of nodes";
        find("masqueradeAll", problem.to_owned(), "set masqueradeAll of kube-proxy to false".to_owned());
    }
    if let Some(bit) = proxy.masquerade_bit.filter(|bit| 1_u32.checked_shl(*bit) != Some(MASQUERADE_MARK)) {
        let own = MASQUERADE_MARK.trailing_zeros();
        let problem = format!(
            "kube-proxy marks packets by bit {bit}, and flannel leaves those with bit {own} to kube-proxy"
        );
        find("masqueradeBit", problem, format!("set masqueradeBit of kube-proxy to {own}"));
    }
    if proxy.mode == "userspace" {
        let problem = "mode userspace of kube-proxy replaces the source address of all traffic to services";
        find("mode", problem.to_owned(), "set mode of kube-proxy to nftables or iptables".to_owned());
    }
    for (subject, problem, fix) in local(facts, proxy) {
        find(subject, problem, fix);
    }
}

/// Why kube-proxy takes packets of pods for those of other hosts, which it masquerades.
fn local(facts: &Facts, proxy: &KubeProxy) -> Vec<(&'static str, String, String)> {
    let bridge = facts.cni.bridge();
    let is_other = |what: &str| {
        format!("kube-proxy expects packets of pods from {what}, but they come from the bridge {bridge}")
    };
    match &proxy.local {
        Local::Bridge(name) if name != bridge => vec![(
            "bridgeInterface",
            is_other(&format!("the bridge {name:?}")),
            format!("set detectLocal.bridgeInterface of kube-proxy to {bridge}"),
        )],
        Local::Prefix(prefix) if !bridge.starts_with(prefix.as_str()) => vec![(
            "interfaceNamePrefix",
            is_other(&format!("interfaces whose names begin with {prefix:?}")),
            format!("set detectLocalMode of kube-proxy to BridgeInterface, and detectLocal.bridgeInterface to {bridge}"),
        )],
        Local::ClusterCidr => networks(facts).into_iter().filter_map(|(family, network)| {
            let of_family = || proxy.cluster_cidrs.iter().filter(|cidr| Family::of_net(**cidr) == family);
            if of_family().next().is_none() || of_family().any(|cidr| cidr.contains(&network)) {
                return None;
            }
            let cidrs = join(of_family(), ", ");
            let problem = format!("clusterCIDR of kube-proxy is {cidrs}, which does not contain the network {network}: traffic of \
                                   pods to services is masqueraded");
            Some(("clusterCIDR", problem, format!("set clusterCIDR of kube-proxy to {network}")))
        }).collect(),
        _ => Vec::new(),
    }
}

/// Removes findings that others explain, and adapts commands to Kubernetes.
pub(super) fn settle(cluster: &ClusterFacts, report: &mut Report) {
    let has = |report: &Report, check: &Check, subject: Option<&str>| {
        let is_it = |finding: &&Finding| {
            finding.id == check.id && subject.is_none_or(|subject| finding.subject == subject)
        };
        report.findings.iter().any(|finding| is_it(&finding))
    };
    let is_forbidden = has(report, &RBAC_RULE, Some(Rule::NODES.resource));
    let has_no_subnet = has(report, &POD_CIDR_MISSING, None) || has(report, &POD_CIDR_OUTSIDE, None);
    report.findings.retain(|finding| {
        !(is_forbidden && finding.id == STORE_UNREACHABLE.id
            || has_no_subnet && finding.id == LEASE_MISSING.id)
    });
    for finding in &mut report.findings {
        if finding.id == STORE_UNREACHABLE.id {
            finding.fix("check the API server: kubectl get --raw /readyz; or correct --kubeconfig-file or --kube-api-url of flanneld");
        } else if finding.id == STORE_SLOW.id {
            finding.fix("check the load of the API server and the disk of its etcd: kubectl get --raw '/readyz?verbose'");
        }
        if let Some((namespace, pod)) = &cluster.pod {
            let restart = format!("kubectl --namespace {namespace} delete pod {pod}");
            let logs = format!("kubectl --namespace {namespace} logs {pod}");
            finding.fix = finding.fix.replace(RESTART, &restart).replace("journalctl -u flanneld", &logs);
        }
    }
}
