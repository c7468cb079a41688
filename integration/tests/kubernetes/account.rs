//! The ground that all tests on Kubernetes stand on: the control plane, and the service account of the manifest with its rights.

use anyhow::{Context, Result, ensure};
use integration::kubernetes::{Client, Identity, NAMESPACE, annotations, node, pod_cidrs};
use integration::{ControlPlane, lab, wait};
use serde_json::json;
use std::collections::BTreeSet;

/// Every request that the account may send, and some that it must not send.
#[test]
fn account_has_the_rights_of_the_manifest_only() {
    lab(|lab| {
        let cluster = lab.cluster(0)?;
        let control_plane = cluster.control_plane(lab)?;
        control_plane.start_controllers()?;
        let admin = &control_plane.admin;
        admin.create("/api/v1/nodes", &node("n1", &["192.168.50.1", "fd50::1"]))?;
        let flannel = control_plane.install_account()?;

        let cidrs = wait::until("n1 has podCIDRs", wait::LONG, || {
            let found = pod_cidrs(&flannel.get("/api/v1/nodes/n1")?);
            ensure!(found.len() == 2, "{found:?}");
            Ok(found)
        })?;
        ensure!(cidrs[0].starts_with("10.42.") && cidrs[0].ends_with("/24"), "{cidrs:?}");
        ensure!(cidrs[1].starts_with("fd42:") && cidrs[1].ends_with("/64"), "{cidrs:?}");
        may_do(&flannel)?;
        must_not_do(&flannel)?;
        rights_are_those_of_the_manifest(&control_plane, &flannel)
    });
}

fn may_do(flannel: &Client) -> Result<()> {
    let list = flannel.get("/api/v1/nodes?limit=500&resourceVersion=0")?;
    ensure!(list["items"].as_array().is_some_and(|items| items.len() == 1), "{list}");
    // A streaming list needs etcd 3.5: the API server ends the listing with a bookmark.
    let stream = "/api/v1/nodes?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
        &allowWatchBookmarks=true&timeoutSeconds=1";
    let events = flannel.call("GET", stream)?;
    ensure!(events.status == 200, "{events:?}");
    let text = events.body.as_str().context("a stream of events is not one JSON value")?;
    ensure!(text.contains("k8s.io/initial-events-end"), "no end of the listing in {text}");

    let annotation = "flannel.alpha.coreos.com/public-ip";
    let change = json!({"metadata": {"annotations": {annotation: "192.168.50.1"}}});
    let patched = flannel.patch("/api/v1/nodes/n1/status", &change)?;
    ensure!(annotations(&patched).get(annotation).is_some_and(|ip| ip == "192.168.50.1"), "{patched}");
    // Which pod of which node it is, without NODE_NAME: the right is there, the pod is not.
    flannel.call("GET", "/api/v1/namespaces/kube-flannel/pods/none")?.rejected(404, "GET pod")
}

fn must_not_do(flannel: &Client) -> Result<()> {
    let change = json!({"metadata": {"annotations": {"a": "b"}}});
    flannel.try_patch("/api/v1/nodes/n1", &change)?.rejected(403, "PATCH node")?;
    for (method, path) in [
        ("DELETE", "/api/v1/nodes/n1"),
        ("GET", "/api/v1/pods"),
        ("GET", "/api/v1/namespaces/kube-flannel/configmaps/kube-flannel-cfg"),
        ("GET", "/api/v1/namespaces/kube-flannel/secrets"),
        ("GET", "/api/v1/namespaces"),
        ("GET", "/apis/networking.k8s.io/v1/networkpolicies"),
        ("GET", "/apis/coordination.k8s.io/v1/leases"),
    ] {
        flannel.call(method, path)?.rejected(403, &format!("{method} {path}"))?;
    }
    Ok(())
}

/// Beyond what every account may do, the account has exactly the rules of the manifest.
fn rights_are_those_of_the_manifest(control_plane: &ControlPlane, flannel: &Client) -> Result<()> {
    control_plane.admin.kubectl(&format!("create serviceaccount nobody --namespace {NAMESPACE}"))?;
    let nobody = control_plane.client("nobody", Identity::Token(control_plane.token("nobody")?))?;
    let (own, common) = (rules(flannel)?, rules(&nobody)?);
    let own: Vec<&String> = own.difference(&common).collect();
    let expected = [r#"nodes ["get","list","watch"]"#, r#"nodes/status ["patch"]"#, r#"pods ["get"]"#];
    ensure!(own == expected, "{own:?}");
    Ok(())
}

/// The rules for a client as the API server evaluates them: resource and verbs.
fn rules(client: &Client) -> Result<BTreeSet<String>> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": NAMESPACE},
    });
    let answer = client.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review)?;
    let rules = answer["status"]["resourceRules"].as_array().context("a review without rules")?;
    rules
        .iter()
        .flat_map(|rule| {
            let resources = rule["resources"].as_array().into_iter().flatten();
            resources.map(|resource| {
                Ok(format!("{} {}", resource.as_str().context("a resource without a name")?, rule["verbs"]))
            })
        })
        .collect()
}
