//! How a daemon identifies itself to the API server, what it requests with which rights, and what happens if a token or a right is taken away.

use anyhow::{Context, Result, ensure};
use integration::kubernetes::{ControlPlaneOptions, Identity, MANIFEST, NAMESPACE, address, documents};
use integration::{Daemon, Flanneld, Lab, Service, lab, relay, wait};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::fixture::{Fixture, NODES, Traffic, logs, mark, wait_status};

/// Where a pod finds the token of its service account.
const SECRETS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const POD: &str = "kube-flannel-ds-x7k2p";
/// Users with a certificate of this group have the rights of the account.
const GROUP: &str = "flannel-nodes";
const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/flannel";
/// Every request about nodes and pods is logged.
const AUDIT: &str = r#"{
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "resources": [{"group": "", "resources": ["nodes", "nodes/status", "pods"]}]}, {"level": "None"}]
}"#;

/// A daemon for each kind of identity, on one control plane.
struct Identities {
    fixture: Fixture,
    /// Files that contain the token of the account.
    tokens: Vec<PathBuf>,
    audit: PathBuf,
}

impl Identities {
    fn start(lab: &Lab) -> Result<Self> {
        let directory = lab.directory("identities")?;
        let (policy, audit) = (directory.join("audit.json"), directory.join("audit.log"));
        fs::write(&policy, AUDIT)?;
        let api_server = vec![
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", audit.display()),
        ];
        let options = ControlPlaneOptions { api_server, ..ControlPlaneOptions::default() };
        let fixture = Fixture::start_with(lab, 5, &options)?;
        let admin = fixture.admin();
        (1..=5).try_for_each(|number| fixture.register(number).map(drop))?;
        let binding = format!("create clusterrolebinding {GROUP} --clusterrole=flannel --group={GROUP}");
        admin.kubectl(&binding)?;
        fs::create_dir_all(SECRETS)?;
        fs::write(Path::new(SECRETS).join("namespace"), NAMESPACE)?;
        fs::copy(fixture.control_plane.ca(), Path::new(SECRETS).join("ca.crt"))?;
        let tokens = vec![Path::new(SECRETS).join("token"), directory.join("token")];
        let identities = Self { fixture, tokens, audit };
        identities.write_tokens()?;
        Ok(identities)
    }

    /// Writes a new token of the account to all files, as the kubelet and people do it.
    fn write_tokens(&self) -> Result<()> {
        let token = self.fixture.control_plane.token("flannel")?;
        for (file, end) in self.tokens.iter().zip(["", "\n"]) {
            fs::write(file, format!("{token}{end}"))?;
        }
        Ok(())
    }

    fn flanneld(&self, number: u8) -> Flanneld {
        let config = self.fixture.volume.file();
        Flanneld::bare()
            .argument("--kube-subnet-mgr")
            .argument(format!("--net-config-path={}", config.display()))
            .environment("NODE_NAME", &format!("n{number}"))
    }

    fn start_with(&self, number: u8, flanneld: &Flanneld) -> Result<Daemon> {
        let mut daemon = self.fixture.cluster.nodes[usize::from(number) - 1].start(flanneld)?;
        daemon.wait_ready()?;
        self.fixture.wait_condition(number, "False", "FlannelIsUp")?;
        Ok(daemon)
    }

    /// In a pod: its token, and the name of its node from the API server.
    fn in_cluster(&self) -> Result<Daemon> {
        let pod = json!({
            "metadata": {"name": POD},
            "spec": {
                "nodeName": "n1",
                "serviceAccountName": "flannel",
                "hostNetwork": true,
                "containers": [{"name": "kube-flannel", "image": "flannel"}],
            },
        });
        self.fixture.admin().create(&format!("/api/v1/namespaces/{NAMESPACE}/pods"), &pod)?;
        let flanneld = self
            .flanneld(1)
            .environment("NODE_NAME", "")
            .environment("POD_NAME", POD)
            .environment("POD_NAMESPACE", NAMESPACE)
            .environment("KUBERNETES_SERVICE_HOST", &address(true)?.to_string())
            .environment("KUBERNETES_SERVICE_PORT", "6443");
        self.start_with(1, &flanneld)
    }

    /// A kubeconfig like that of the account, with another user.
    fn kubeconfig(&self, name: &str, user: Value) -> Result<PathBuf> {
        let text = fs::read_to_string(self.fixture.account.kubeconfig())?;
        let mut config: Value = serde_json::from_str(&text).context("not JSON")?;
        config["users"][0]["user"] = user;
        let file = self.tokens[1].with_file_name(format!("{name}.conf"));
        fs::write(&file, config.to_string())?;
        Ok(file)
    }

    fn with_kubeconfig(&self, number: u8, file: &Path) -> Result<Daemon> {
        self.start_with(
            number,
            &self.flanneld(number).argument(format!("--kubeconfig-file={}", file.display())),
        )
    }

    fn with_plugin(&self, number: u8) -> Result<Daemon> {
        let script = self.tokens[1].with_file_name("plugin");
        let credential = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}"#;
        let line = format!("#!/bin/sh\nprintf '{credential}' \"$(cat {})\"\n", self.tokens[1].display());
        fs::write(&script, line)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let plugin = json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": script,
            "interactiveMode": "Never",
        });
        let file = self.kubeconfig("plugin", json!({"exec": plugin}))?;
        self.with_kubeconfig(number, &file)
    }

    /// A client certificate, by a forward proxy.
    fn with_certificate(&self, number: u8) -> Result<Daemon> {
        let (certificate, key) = self.certificate("certificate")?;
        let user = json!({"client-certificate": certificate, "client-key": key});
        let file = self.kubeconfig("certificate", user)?;
        let server = address(true)?;
        let proxy = relay::tunnel(&self.fixture.control_plane.netns, server, (server, 6443).into())?;
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&file)?).context("not JSON")?;
        config["clusters"][0]["cluster"]["proxy-url"] = format!("http://{proxy}").into();
        // Without the proxy, nothing is reached.
        config["clusters"][0]["cluster"]["server"] = "https://kubernetes.default.svc".into();
        fs::write(&file, config.to_string())?;
        self.with_kubeconfig(number, &file)
    }

    fn certificate(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        self.fixture.control_plane.user_certificate(name, &format!("/O={GROUP}/CN={name}"))
    }

    /// Without an identity, by a proxy that has one and passes on no protocol buffers.
    fn by_proxy(&self, number: u8) -> Result<Daemon> {
        let control_plane = &self.fixture.control_plane;
        let user = control_plane.client("proxy", Identity::certificate(self.certificate("proxy")?))?;
        let words = format!(
            "proxy --port=8001 --kubeconfig={} --address=127.0.0.1 --accept-hosts=.*",
            user.kubeconfig().display()
        );
        let words = words.split(' ').map(str::to_owned).collect();
        let proxy = Service::new(&control_plane.netns, "kubectl-proxy", "kubectl", words);
        proxy.start()?;
        wait::until("the proxy answers", wait::LONG, || {
            control_plane.netns.run("curl --silent --fail http://127.0.0.1:8001/version")
        })?;
        let server = SocketAddr::new([127, 0, 0, 1].into(), 8001);
        let relay = relay::damaging(&control_plane.netns, address(true)?, server, (b"k8s\0", b"K8S\0"))?;
        self.start_with(number, &self.flanneld(number).argument(format!("--kube-api-url=http://{relay}")))
    }

    /// The requests of a node up to now, each with its number, and none denied.
    fn requests(&self, number: u8) -> Result<BTreeMap<String, usize>> {
        let mut requests = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        let from = format!("192.168.50.{number}");
        for line in fs::read_to_string(&self.audit)?.lines() {
            let event: Value = serde_json::from_str(line).context("a line of the audit log is not JSON")?;
            if event["sourceIPs"][0] != from.as_str() {
                continue;
            }
            ensure!(event["responseStatus"]["code"] == 200, "{line}");
            let uri = event["requestURI"].as_str().context("no URI")?;
            // An end of the same request.
            if !seen.insert(event["auditID"].to_string()) {
                continue;
            }
            let verb = event["verb"].as_str().context("no verb")?;
            let kind = if uri.contains("sendInitialEvents") { "list" } else { verb };
            *requests.entry(format!("{kind} {}", event["objectRef"]["resource"])).or_default() += 1;
        }
        Ok(requests)
    }
}

/// Service account of a pod, token file, exec plugin, client certificate by a forward proxy, and a reverse proxy with JSON only. A token that is replaced costs nothing, and
/// a start sends no more requests than that of Go.
#[test]
fn every_identity_works_and_may_change() {
    lab(|lab| {
        let it = Identities::start(lab)?;
        let file = it.kubeconfig("token-file", json!({"tokenFile": it.tokens[1]}))?;
        let daemons = [
            it.in_cluster()?,
            it.with_kubeconfig(2, &file)?,
            it.with_plugin(3)?,
            it.with_certificate(4)?,
            it.by_proxy(5)?,
        ];
        let expected =
            [(r#"get "nodes""#, 2), (r#"list "nodes""#, 1), (r#"patch "nodes""#, 2), (r#"watch "nodes""#, 1)];
        let mut expected = BTreeMap::from(expected.map(|(request, count)| (request.to_owned(), count)));
        let requests = it.requests(2)?;
        ensure!(requests == expected, "{requests:?}");
        expected.insert(r#"get "pods""#.to_owned(), 1);
        let requests = it.requests(1)?;
        ensure!(requests == expected, "{requests:?}");
        all_see_a_new_peer(&it.fixture, 77)?;

        let since = daemons.iter().map(mark).collect::<Result<Vec<_>>>()?;
        revoke(&it.fixture)?;
        restore_account(&it.fixture)?;
        it.write_tokens()?;
        (1..=5).try_for_each(|number| it.fixture.set_unavailable(number))?;
        for (number, (daemon, since)) in (1..).zip(daemons.iter().zip(since)) {
            it.fixture.wait_condition(number, "False", "FlannelIsUp")?;
            let log = daemon.log()?;
            ensure!(!log[since..].contains("rejects the identity"), "n{number}: {}", &log[since..]);
        }
        all_see_a_new_peer(&it.fixture, 78)
    });
}

fn all_see_a_new_peer(fixture: &Fixture, number: u8) -> Result<()> {
    fixture.admin().create(NODES, &super::fixture::peer(number))?;
    (1..=5).try_for_each(|node| fixture.wait_route(node, &format!("10.42.{number}.0/24"), true))
}

/// Deletes the account, and waits until the API server no longer accepts its tokens.
fn revoke(fixture: &Fixture) -> Result<()> {
    fixture.admin().delete(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/flannel"))?;
    wait::until("the token is rejected", wait::LONG, || {
        fixture.account.call("GET", NODES)?.rejected(401, "GET")
    })
}

fn restore_account(fixture: &Fixture) -> Result<()> {
    fixture.admin().apply(&documents(MANIFEST, &["ServiceAccount"])?, &[]).map(drop)
}

/// A token that is rejected and rights that are missing: the error names the right and the rule, and the daemon continues when they return.
#[test]
fn tokens_and_rights_are_taken_away() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 3)?;
        let mut daemons = fixture.two()?;
        fixture.register(3)?;
        let mut third = fixture.run(3)?;
        third.wait_ready()?;
        fixture.wait_route(1, "10.42.2.0/24", true)?;
        (1..=3).try_for_each(|number| fixture.wait_condition(number, "False", "FlannelIsUp"))?;
        let traffic = Traffic::start(&fixture.cluster)?;
        token_is_revoked(&fixture, &mut daemons)?;
        rights_are_removed(&fixture, &mut daemons, &third)?;
        traffic.expect_none_lost()
    });
}

fn token_is_revoked(fixture: &Fixture, daemons: &mut [Daemon; 2]) -> Result<()> {
    let since = mark(&daemons[0])?;
    revoke(fixture)?;
    // One runs on and has something to write, the other one starts.
    fixture.set_unavailable(1)?;
    wait_status(
        &daemons[0],
        &["rejects the identity of flanneld", "401 Unauthorized", "resources: [nodes]"],
        true,
    )?;
    daemons[1].kill()?;
    daemons[1].start()?;
    daemons[1].wait_ready()?;
    daemons[1].wait_log(&["store rejected the request", "rejects the identity", "[get, list, watch]"])?;
    // A new token takes its place in the file, as when it rotates.
    fixture.control_plane.install_account()?;
    fixture.wait_condition(1, "False", "FlannelIsUp")?;
    wait_status(&daemons[0], &["rejects the identity"], false)?;
    wait_status(&daemons[1], &["rejects the identity"], false)?;
    logs(&daemons[0], since, &["readiness reported to the store"])?;
    fixture.add_peer(11)
}

fn rights_are_removed(fixture: &Fixture, daemons: &mut [Daemon; 2], third: &Daemon) -> Result<()> {
    let admin = fixture.admin();
    let rules = admin.get(ROLE)?["rules"].clone();
    admin.patch(ROLE, &json!({"rules": []}))?;
    daemons[1].restart()?;
    daemons[1].wait_log(&[
        "denies permission",
        "add this rule to the ClusterRole of flannel",
        "resources: [nodes], verbs: [get, list, watch]",
    ])?;
    let reads = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}]);
    admin.patch(ROLE, &json!({"rules": reads}))?;
    fixture.add_peer(12)?;
    wait_status(&daemons[1], &["denies permission"], false)?;
    // Nothing can be written: neither annotations nor the condition.
    fixture.annotate(3, "backend-type", None)?;
    fixture.set_unavailable(2)?;
    let missing = ["denies permission", "resources: [nodes/status], verbs: [patch]"];
    wait_status(third, &missing, true)?;
    wait_status(&daemons[1], &[missing[0], missing[1], "readiness report"], true)?;
    admin.patch(ROLE, &json!({"rules": rules}))?;
    fixture.wait_condition(2, "False", "FlannelIsUp")?;
    wait_status(&daemons[1], &["readiness report"], false)?;
    wait::until("n3 publishes its annotations", wait::LONG, || {
        let found = fixture.annotation(3, "backend-type")?;
        ensure!(found.as_deref() == Some("vxlan"), "{found:?}");
        Ok(())
    })?;
    wait_status(third, &["denies permission"], false)
}
